"""Multilayer perceptron: no interaction but what its layers learn."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.config.ranges import Layer, Share
from recsys.frame.layers import mlp
from recsys.frame.wide import stacked

__all__ = ["MLP"]


class MLP(nn.Module):
    """logit = w·MLP(x) + b, x the fields side by side. With `sequence=din` this is DIN's network.

    Args:
        widths: Width of each field.
        hidden: Widths of the MLP; none leaves logistic regression on the embeddings.
        dropout: After each hidden layer.
        outputs: O, numbers that it gives a row: what the head wants. CTR tells it.

    Source: Zhou et al., Deep Interest Network, KDD 2018, figure 2, left (the base model), with ReLU.
    """

    def __init__(
        self, widths: Sequence[int], hidden: Sequence[Layer] = (256, 128), dropout: Share = 0.0, outputs: int = 1
    ):
        super().__init__()
        self.deep = mlp(sum(widths), list(hidden), dropout)
        self.logit = nn.Linear(hidden[-1] if hidden else sum(widths), outputs)

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ y_BO."""
        return self.logit(stacked(x_BW, self.deep))

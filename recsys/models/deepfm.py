"""DeepFM: a factorization machine and a multilayer perceptron over the same embeddings."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.config.ranges import Layer, Share
from recsys.frame.layers import mlp
from recsys.frame.wide import stacked
from recsys.models.fm import FM

__all__ = ["DeepFM"]


class DeepFM(nn.Module):
    """logit = FM(x) + w·MLP(x) + b; the FM has the bias, the linear term and the pairs.

    Args:
        widths: Width of each field.
        hidden: Widths of the MLP; none leaves a linear map beside the FM.
        dropout: After each hidden layer.
        dim: D of the FM; by default the widest field's. At D = 1 there are no pairs.
        outputs: O, numbers that it gives a row: what the head wants. CTR tells it.

    Source: Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, IJCAI 2017, equations 1
    to 4. A field's first-order weight is part of its embedding, as `FM` says; the paper has a table of its own for it.
    """

    def __init__(
        self,
        widths: Sequence[int],
        hidden: Sequence[Layer] = (256, 128),
        dropout: Share = 0.0,
        dim: Layer | None = None,
        outputs: int = 1,
    ):
        super().__init__()
        self.fm = FM(widths, dim, outputs)
        self.deep = mlp(sum(widths), list(hidden), dropout)
        self.logit = nn.Linear(hidden[-1] if hidden else sum(widths), outputs)

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ y_BO."""
        return self.fm(x_BW) + self.logit(stacked(x_BW, self.deep))

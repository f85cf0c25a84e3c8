"""AutoInt: fields attend to each other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.ranges import Depth, Few, Layer, Share
from recsys.frame.layers import Stack, mlp

__all__ = ["Attention", "AutoInt"]


class Attention(nn.Module):
    """y_i = ReLU(‖_h Σ_j α_hij·V_h x_j + W x_i), with α_hij = softmax over j of ⟨Q_h x_i, K_h x_j⟩.

    Args:
        dim: D of what comes in.
        heads: H.
        width: A, of each head; H·A comes out.

    Source: Song et al., AutoInt, CIKM 2019, equations 5 to 8. Like the paper, it does not divide the
    products by √A.
    """

    def __init__(self, dim: int, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, heads * width, bias=False) for _ in range(3))
        self.rest = nn.Linear(dim, heads * width, bias=False)

    def weights(self, x_BFD: Tensor) -> Tensor:
        """→ α_BHFF: how much each field, a row of it, takes from each."""
        query_BHFA, key_BHFA = (self._split(t(x_BFD)) for t in (self.query, self.key))
        return (query_BHFA @ key_BHFA.transpose(2, 3)).softmax(3)

    def _split(self, x_BFE: Tensor) -> Tensor:
        return x_BFE.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """→ y_BFE, E = H·A."""
        taken_BHFA = self.weights(x_BFD) @ self._split(self.value(x_BFD))
        return torch.relu(taken_BHFA.transpose(1, 2).flatten(2) + self.rest(x_BFD))


class AutoInt(nn.Module):
    """logit = w·flatten(attention layers(x)) + b, plus an MLP's logit beside it (AutoInt+) if it has hidden layers.

    Args:
        widths: Width of each of the F fields; those other than `dim` are projected.
        layers: Attention layers; a stack of l reaches interactions of order 2^l.
        heads: Of each layer.
        head_width: Of each head.
        hidden: Widths of the MLP; none leaves AutoInt.
        dropout: After each hidden layer of the MLP.
        dim: D; by default the widest field's.
        outputs: O, numbers that it gives a row: what the head wants. CTR tells it.

    Source: Song et al., AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks,
    CIKM 2019, sections 4.4, 4.5 and 5.5 (AutoInt+).
    """

    def __init__(
        self,
        widths: Sequence[int],
        layers: Depth = 3,
        heads: Few = 2,
        head_width: Layer = 16,
        hidden: Sequence[Layer] = (256, 128),
        dropout: Share = 0.0,
        dim: Layer | None = None,
        outputs: int = 1,
    ):
        super().__init__()
        dim = dim or max(widths)
        self.stack = Stack(widths, dim)
        inside = [dim] + [heads * head_width] * layers
        self.layers = nn.ModuleList(Attention(d, heads, head_width) for d in inside[:-1])
        self.deep = mlp(sum(widths), list(hidden), dropout)
        self.logit = nn.Linear(len(widths) * inside[-1] + (hidden[-1] if hidden else 0), outputs)

    def attention(self, x_BW: Tensor) -> list[Tensor]:
        """→ α_BHFF of each layer: which fields each field looks at, to be shown to people."""
        maps, x_BFD = [], self.stack(x_BW)
        for layer in self.layers:
            maps.append(layer.weights(x_BFD))  # pyright: ignore[reportCallIssue]  # torch types what a list holds as Module
            x_BFD = layer(x_BFD)
        return maps

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ y_BO."""
        x_BFD = self.stack(x_BW)
        for layer in self.layers:
            x_BFD = layer(x_BFD)
        parts = [x_BFD.flatten(1)]
        if len(self.deep):
            parts.append(self.deep(x_BW))
        return self.logit(torch.cat(parts, 1))

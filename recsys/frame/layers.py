"""Layers that several interactions are built from.

B rows, F fields, W the width of all fields side by side, D embedding dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.frame.dropout import Dropout

__all__ = ["NarrowNumbers", "Stack", "mlp"]


def mlp(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear → ReLU → dropout, once for each hidden width; the identity if there are none."""
    layers: list[nn.Module] = []
    for h in hidden:
        layers += [nn.Linear(width, h), nn.ReLU(), Dropout(dropout)]
        width = h
    return nn.Sequential(*layers)


class NarrowNumbers(nn.Module):
    """Embed piecewise numbers: x_BW → x_BV, with W_i x_i + b_i, D wide, for each of them.

    Args:
        widths: F widths that sum to W.
        narrowed: Numbers of the fields to embed; the others are not changed.
        dim: D.

    Source: Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning, 2022, section 3.1, without
    the ReLU after it, which was no better.
    """

    def __init__(self, widths: Sequence[int], narrowed: Sequence[int], dim: int):
        super().__init__()
        self.before = list(widths)
        self.linear = nn.ModuleDict({str(i): nn.Linear(widths[i], dim) for i in narrowed})
        self.widths = [dim if i in narrowed else w for i, w in enumerate(widths)]

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ x_BV."""
        parts = list(x_BW.split(self.before, 1))
        for i, linear in self.linear.items():
            parts[int(i)] = linear(parts[int(i)])
        return torch.cat(parts, 1)


class Stack(nn.Module):
    """Make widths equal for interactions that need it: flat x_BW → x_BFD.

    A field whose width is not `dim` gets its own linear projection (for a scalar, its value times a
    vector).

    Args:
        widths: F widths that sum to W.
        dim: D.
    """

    def __init__(self, widths: Sequence[int], dim: int):
        super().__init__()
        self.widths = list(widths)
        self.projections = nn.ModuleDict(
            {str(i): nn.Linear(w, dim, bias=False) for i, w in enumerate(widths) if w != dim}
        )

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ x_BFD."""
        parts = list(x_BW.split(self.widths, 1))
        for i, projection in self.projections.items():
            parts[int(i)] = projection(parts[int(i)])
        return torch.stack(parts, 1)

"""The frame every model shares: embedding → [gate] → interaction → logit.

B rows, F fields, W the width of all fields side by side, D embedding dim.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.schema import Schema

__all__ = ["CTR", "Stack", "mlp"]


def mlp(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear → ReLU → dropout, once for each hidden width; the identity without any."""
    layers: list[nn.Module] = []
    for h in hidden:
        layers += [nn.Linear(width, h), nn.ReLU(), nn.Dropout(dropout)]
        width = h
    return nn.Sequential(*layers)


class Stack(nn.Module):
    """Join for interactions that want equal widths: flat x_BW → x_BFD.

    A field whose width is not `dim` gets a linear projection of its own (for one scalar, a
    vector times its value).

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


class CTR(nn.Module):
    """logit = interaction(dropout(embedding(batch))).

    Args:
        schema: The fields.
        embedding: ids, dense → x_BW; it tells `widths`, one for each field.
        interaction: Builds the interaction from the widths.
        embedding_dropout: Share of x_BW's entries of looked-up fields that training zeroes.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: nn.Module,
        interaction: Callable[[list[int]], nn.Module],
        embedding_dropout: float = 0.0,
    ):
        super().__init__()
        self.schema = schema
        self.embedding = embedding
        self.widths = [int(embedding.widths[f.name]) for f in schema.fields]  # type: ignore[index]
        self._looked_up = sum(w for f, w in zip(schema.fields, self.widths, strict=True) if f.is_sparse)
        self.dropout = nn.Dropout(embedding_dropout)
        self.interaction = interaction(self.widths)

    def looked_up(self, x_BW: Tensor) -> Tensor:
        """The columns of x_BW that come from tables."""
        return x_BW[:, : self._looked_up]

    def head(self, x_BW: Tensor) -> Tensor:
        """x_BW → logit_B. Selection puts its gates on x_BW, before this."""
        if self.training and self.dropout.p > 0:
            looked_up, dense = x_BW.tensor_split([self._looked_up], 1)
            x_BW = torch.cat([self.dropout(looked_up), dense], 1)
        return self.interaction(x_BW)

    def forward(self, batch: Batch) -> Tensor:
        """→ logit_B."""
        return self.head(self.embedding(batch))

"""Wukong: stacked factorization machines. n rows of d numbers a sample."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.models.ctr import Stack, mlp
from recsys.ranges import Few, Layer, Natural, Share

__all__ = ["Wukong", "WukongLayer", "compressed_fm"]


def compressed_fm(x_BND: Tensor, y_NK: Tensor) -> Tensor:
    """(X Xᵀ) Y as X (Xᵀ Y): O(n·d·k) instead of O(n²·d) → B×n×k."""
    return x_BND @ (x_BND.transpose(1, 2) @ y_NK)


class WukongLayer(nn.Module):
    """X' = LN(concat(FMB(X), LCB(X)) + residual(X)), the layer norm over d.

    FMB = reshape(MLP(LN(flatten(X Xᵀ Y)))) to n_F × d, its last layer linear; LCB = W_L X, without
    bias; the residual is X, or a linear map over rows where n_in ≠ n_F + n_L.

    Args:
        n_in: Rows that come in.
        dim: d.
        n_fm: n_F, rows from the FM block.
        n_linear: n_L, rows from the linear compression block.
        rank: k, columns of Y.
        hidden: Widths of the MLP in the FM block.
        dropout: After each hidden layer.

    Source: Zhang et al., Wukong, ICML 2024, section 3. The paper gives no initialisation for Y, W_L
    and the residual: ours is uniform in ±1/√fan_in.
    """

    def __init__(
        self,
        n_in: int,
        dim: int,
        n_fm: int,
        n_linear: int,
        rank: int,
        hidden: Sequence[int],
        dropout: float,
    ):
        super().__init__()
        self.n_fm, self.dim = n_fm, dim
        self.y_NK = nn.Parameter(torch.empty(n_in, rank).uniform_(-(n_in**-0.5), n_in**-0.5))
        self.fm_norm = nn.LayerNorm(n_in * rank)
        self.fm_mlp = mlp(n_in * rank, hidden, dropout)
        self.fm_out = nn.Linear(hidden[-1] if hidden else n_in * rank, n_fm * dim)
        self.linear = nn.Linear(n_in, n_linear, bias=False)
        same = n_in == n_fm + n_linear
        self.residual = nn.Identity() if same else nn.Linear(n_in, n_fm + n_linear, bias=False)
        self.norm = nn.LayerNorm(dim)

    def over_rows(self, layer: nn.Module, x_BND: Tensor) -> Tensor:
        """Apply a map of rows: B×n×d → B×n'×d."""
        return layer(x_BND.transpose(1, 2)).transpose(1, 2)

    def forward(self, x_BND: Tensor) -> Tensor:
        """→ B×(n_F + n_L)×d."""
        fm = self.fm_norm(compressed_fm(x_BND, self.y_NK).flatten(1))
        fm_BND = self.fm_out(self.fm_mlp(fm)).unflatten(1, (self.n_fm, self.dim))
        joined = torch.cat([fm_BND, self.over_rows(self.linear, x_BND)], 1)
        return self.norm(joined + self.over_rows(self.residual, x_BND))


class Wukong(nn.Module):
    """A stack of layers; layer i reaches interactions of order 2^i. Head: flatten, MLP, logit.

    Args:
        widths: Width of each field; those other than `dim` are projected to it.
        dim: d; by default the widest field's.
        layers: l ≥ 1.
        n_fm: n_F.
        n_linear: n_L.
        rank: k.
        hidden: MLP of each FM block.
        head: MLP over the flattened last layer.
        dropout: After each hidden layer.

    Source: Zhang et al., Wukong, ICML 2024.
    """

    def __init__(
        self,
        widths: Sequence[int],
        dim: Layer | None = None,
        layers: Few = 2,
        n_fm: Few = 8,
        n_linear: Natural = 8,
        rank: Few = 24,
        hidden: Sequence[Layer] = (128,),
        head: Sequence[Layer] = (128,),
        dropout: Share = 0.0,
    ):
        super().__init__()
        dim = dim or max(widths)
        self.stack = Stack(widths, dim)
        rows = [len(widths)] + [n_fm + n_linear] * layers
        self.layers = nn.Sequential(
            *(WukongLayer(n, dim, n_fm, n_linear, rank, list(hidden), dropout) for n in rows[:-1])
        )
        flat = rows[-1] * dim
        self.head = mlp(flat, list(head), dropout)
        self.logit = nn.Linear(head[-1] if head else flat, 1)

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ logit_B."""
        return self.logit(self.head(self.layers(self.stack(x_BW)).flatten(1))).squeeze(1)

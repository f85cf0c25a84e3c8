"""Wukong: stacked factorization machines.

B rows of a batch, n embeddings a row (N in names), d their width (D), k columns of Y (K), W the width of
all fields side by side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.ranges import Few, Layer, Share
from recsys.errors import ConfigError
from recsys.frame.layers import Stack, mlp

__all__ = ["AttentiveY", "Bottom", "FixedY", "Wukong", "WukongLayer", "compressed_fm", "over_rows"]

_NUMBERS_DIM = 16  # d of a model that has numbers and no looked-up field to take it from


def compressed_fm(x_BND: Tensor, y_NK: Tensor) -> Tensor:
    """(X Xᵀ) Y as X (Xᵀ Y): O(n·d·k) instead of O(n²·d).

    Args:
        x_BND: X of each row.
        y_NK: One Y for all rows, n×k, or one for each row, B×n×k.

    Returns:
        B×n×k.
    """
    return x_BND @ (x_BND.transpose(1, 2) @ y_NK)


def over_rows(layer: nn.Module, x_BND: Tensor) -> Tensor:
    """Apply a linear map to the embeddings of each row, the same for each of their d numbers: B×n×d → B×n'×d."""
    return layer(x_BND.transpose(1, 2)).transpose(1, 2)


class FixedY(nn.Module):
    """Y is a parameter, the same for every input.

    Args:
        n_in: n.
        rank: k.

    Source: Zhang et al., Wukong, ICML 2024, section 3.6. The paper gives no initialisation: ours is
    uniform in ±1/√n.
    """

    def __init__(self, n_in: int, rank: int):
        super().__init__()
        self.y_NK = nn.Parameter(torch.empty(n_in, rank).uniform_(-(n_in**-0.5), n_in**-0.5))

    def forward(self, x_BND: Tensor) -> Tensor:
        """→ y_NK."""
        return self.y_NK


class AttentiveY(nn.Module):
    """Y(X) = reshape(MLP(flatten(W_Y X))) to n×k: each input chooses how its interactions are compressed.

    Args:
        n_in: n.
        dim: d.
        rank: k.
        rows: n_Y, embeddings that W_Y (n_Y×n, without bias) leaves of X, at least 1.
        hidden: Widths of the MLP's hidden layers; its output is linear.
        dropout: After each hidden layer.

    Source: Zhang et al., Wukong, ICML 2024, section 3.6: Y "made attentive to the input by processing
    linearly compressed input through a MLP". The paper gives neither n_Y nor the MLP's widths.
    """

    def __init__(self, n_in: int, dim: int, rank: int, rows: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.shape = (n_in, rank)
        self.compress = nn.Linear(n_in, rows, bias=False)
        self.mlp = mlp(rows * dim, hidden, dropout)
        self.out = nn.Linear(hidden[-1] if hidden else rows * dim, n_in * rank)

    def forward(self, x_BND: Tensor) -> Tensor:
        """→ y_BNK."""
        return self.out(self.mlp(over_rows(self.compress, x_BND).flatten(1))).unflatten(1, self.shape)


class WukongLayer(nn.Module):
    """X' = LN(concat(FMB(X), LCB(X)) + residual(X)), the layer norm over d.

    FMB = reshape(MLP(LN(flatten(X (Xᵀ Y))))) to n_F × d, its last layer linear; LCB = W_L X, without
    bias; the residual is X, or a linear map over rows if n_in ≠ n_F + n_L.

    Args:
        n_in: Embeddings that come in.
        dim: d.
        n_fm: n_F, embeddings from the FM block.
        n_linear: n_L, embeddings from the linear compression block.
        rank: k, columns of Y.
        hidden: Widths of the MLP in the FM block.
        dropout: After each hidden layer.
        y: Makes Y, n_in×k, of X; by default it is fixed.

    Source: Zhang et al., Wukong, ICML 2024, section 3. The paper gives no initialisation for W_L and
    the residual: ours is uniform in ±1/√fan_in.
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
        y: nn.Module | None = None,
    ):
        super().__init__()
        self.n_fm, self.dim = n_fm, dim
        self.y = y or FixedY(n_in, rank)
        self.fm_norm = nn.LayerNorm(n_in * rank)
        self.fm_mlp = mlp(n_in * rank, hidden, dropout)
        self.fm_out = nn.Linear(hidden[-1] if hidden else n_in * rank, n_fm * dim)
        self.linear = nn.Linear(n_in, n_linear, bias=False)
        same = n_in == n_fm + n_linear
        self.residual = nn.Identity() if same else nn.Linear(n_in, n_fm + n_linear, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """→ B×(n_F + n_L)×d."""
        fm = self.fm_norm(compressed_fm(x_BND, self.y(x_BND)).flatten(1))
        fm_BND = self.fm_out(self.fm_mlp(fm)).unflatten(1, (self.n_fm, self.dim))
        joined = torch.cat([fm_BND, over_rows(self.linear, x_BND)], 1)
        return self.norm(joined + over_rows(self.residual, x_BND))


class Bottom(nn.Module):
    """The embeddings X_0: one for each looked-up field, and some that an MLP makes of all numbers together.

    Args:
        widths: Width of each looked-up field; those other than `dim` are projected to it.
        numbers: Count of numbers a row, at least 1; they stand behind the looked-up fields.
        dim: d.
        hidden: Widths of the MLP's hidden layers; its output is linear.
        rows: Embeddings that the MLP makes, at least 1.
        dropout: After each hidden layer.

    Source: Zhang et al., Wukong, ICML 2024, section 3.2: "Dense inputs are transformed by an MLP into
    latent embeddings that share the same d dimension". The paper gives neither the MLP's widths nor
    how many embeddings it makes.
    """

    def __init__(self, widths: Sequence[int], numbers: int, dim: int, hidden: Sequence[int], rows: int, dropout: float):
        super().__init__()
        self.looked_up, self.numbers, self.dim = sum(widths), numbers, dim
        self.stack = Stack(widths, dim) if widths else None
        self.mlp = mlp(numbers, hidden, dropout)
        self.out = nn.Linear(hidden[-1] if hidden else numbers, rows * dim)

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ x_BND, n the looked-up fields and `rows`."""
        looked_up, numbers = x_BW.split([self.looked_up, self.numbers], 1)
        made_BND = self.out(self.mlp(numbers)).unflatten(1, (-1, self.dim))
        return made_BND if self.stack is None else torch.cat([self.stack(looked_up), made_BND], 1)


class Wukong(nn.Module):
    """A stack of layers; layer i reaches interactions of order 2^i. Head: flatten, MLP, logit.

    Args:
        widths: Width of each field; looked-up fields of a width other than `dim` are projected to it.
        dim: d; by default the widest looked-up field's.
        layers: l ≥ 1.
        n_fm: n_F ≥ 1.
        n_linear: n_L ≥ 1.
        rank: k ≥ 1.
        hidden: MLP of each FM block.
        head: MLP over the flattened last layer.
        dropout: After each hidden layer.
        y_rows: n_Y of the input-dependent Y, the paper's default; None fixes Y.
        y_hidden: MLP of the input-dependent Y.
        bottom: MLP that all numbers go through, as in the paper; None projects each numeric field to an
            embedding of its own.
        bottom_rows: Embeddings that the bottom MLP makes.
        numbers: How many of the last fields are numbers; CTR tells it.
        outputs: O, numbers that it gives a row: what the head wants. CTR tells it.

    Raises:
        ConfigError: If a count is below 1.

    Source: Zhang et al., Wukong, ICML 2024. One difference: a field that matters more is not given
    several embeddings, nor are small fields joined through an MLP (section 3.2).
    """

    def __init__(
        self,
        widths: Sequence[int],
        dim: Layer | None = None,
        layers: Few = 2,
        n_fm: Few = 8,
        n_linear: Few = 8,
        rank: Few = 24,
        hidden: Sequence[Layer] = (128,),
        head: Sequence[Layer] = (128,),
        dropout: Share = 0.0,
        y_rows: Layer | None = 8,
        y_hidden: Sequence[Layer] = (64,),
        bottom: Sequence[Layer] | None = (64,),
        bottom_rows: Layer = 1,
        numbers: int = 0,
        outputs: int = 1,
    ):
        super().__init__()
        counts = {"layers": layers, "n_fm": n_fm, "n_linear": n_linear, "rank": rank, "bottom_rows": bottom_rows}
        for name, count in {**counts, "y_rows": 1 if y_rows is None else y_rows}.items():
            if count < 1:
                raise ConfigError(f"model.{name} must be at least 1, got {count}: set model.{name}=8")
        looked_up, dense = widths[: len(widths) - numbers], widths[len(widths) - numbers :]
        dim = dim or max(looked_up, default=_NUMBERS_DIM)
        if dense and bottom is not None:
            self.stack: nn.Module = Bottom(looked_up, sum(dense), dim, bottom, bottom_rows, dropout)
            first = len(looked_up) + bottom_rows
        else:
            self.stack, first = Stack(widths, dim), len(widths)
        rows = [first] + [n_fm + n_linear] * layers
        self.layers = nn.Sequential()
        for n in rows[:-1]:
            y = None if y_rows is None else AttentiveY(n, dim, rank, y_rows, y_hidden, dropout)
            self.layers.append(WukongLayer(n, dim, n_fm, n_linear, rank, hidden, dropout, y))
        flat = rows[-1] * dim
        self.head = mlp(flat, head, dropout)
        self.logit = nn.Linear(head[-1] if head else flat, outputs)

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ y_BO."""
        return self.logit(self.head(self.layers(self.stack(x_BW)).flatten(1)))

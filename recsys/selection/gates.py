"""LeAP's gates, which mix x with its own permutation. B rows, U units, W the joined width, S steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.split import Split
from recsys.frame.ctr import CTR
from recsys.selection.columns import Units, field_generators, raw_blocks
from recsys.selection.counted import resampled
from recsys.training.device import CPU, Device

__all__ = [
    "EDGE",
    "OPEN",
    "Gates",
    "Reservoir",
    "adaptive_weights",
    "gated",
    "price_weights",
    "reservoirs",
    "rolled",
    "rolled_blocks",
    "theta_of",
]

_SHARPNESS = 5.0  # g = σ(5θ), as in the public reference code
OPEN = float(torch.tensor(5.0).sigmoid())  # g at θ = 1, where gates start that learn together with a fresh model
EDGE = 0.02  # gates stay in [edge, 1 − edge], so that a saturated one can still come back
_LEAST_ACTIVE = 5  # with fewer active rows a batch, replacements come from a reservoir


def theta_of(gate: float) -> float:
    """θ with σ(5θ) = gate."""
    return float(torch.logit(torch.tensor(gate, dtype=torch.float64))) / _SHARPNESS


def adaptive_weights(width_U: Tensor, change_U: Tensor) -> Tensor:
    """w_i = s_i / median(s), s_i = √(d_i·c_i), within [.05, 20].

    The gradient of a gate grows with d_i, the width of its unit, and with c_i, the share of rows that a
    permutation changes. The weights cancel both, so that one price is fair to a scalar and to a wide
    embedding, to a dense field and to one that is active in 1 % of rows.
    """
    s_U = (width_U * change_U).sqrt()
    return (s_U / s_U.median().clamp(min=1e-12)).clamp(0.05, 20.0)


def price_weights(gated_units: Units, adaptive: bool) -> Tensor:
    """w, the price of each unit relative to λ: `adaptive_weights`, or 1 for all → [U]."""
    if adaptive:
        return adaptive_weights(gated_units.width_U, gated_units.change_U)
    return torch.ones(len(gated_units.names))


def rolled(x_BW: Tensor, shift_U: Tensor, of_column_W: Tensor) -> Tensor:
    """x_i[π_i] with π_i(b) = b + shift_i modulo B: each unit has its own permutation.

    The rows of a batch are in random order, so that a shift pairs them at random. A shift moves
    every row; a random permutation leaves one in place on average.

    Args:
        x_BW: Looked-up fields side by side.
        shift_U: int64 in [1, B).
        of_column_W: The unit of each column.
    """
    runs, sizes = of_column_W.unique_consecutive(return_counts=True)
    if x_BW.device.type != "cpu":
        return rolled_blocks(x_BW, shift_U[runs].tolist(), sizes.tolist())
    other_BW, start = torch.empty_like(x_BW), 0
    to, source = other_BW.numpy(), x_BW.numpy()
    for shift, size in zip(shift_U[runs].tolist(), sizes.tolist(), strict=True):  # 30 times faster than gather
        new, old = to[:, start : start + size], source[:, start : start + size]
        if new.nbytes % (16 * len(new)) == 0:
            new, old = new.view(np.complex128), old.view(np.complex128)  # 16 bytes at a time
        new[:-shift], new[-shift:] = old[shift:], old[:shift]
        start += size
    return other_BW


def rolled_blocks(x_BW: Tensor, shifts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """`rolled` on any device: each block of columns is shifted by its own count of rows."""
    blocks = zip(x_BW.split(list(sizes), 1), shifts, strict=True)
    return torch.cat([block_BD.roll(-shift, 0) for block_BD, shift in blocks], 1)


def gated(x_BW: Tensor, other_BW: Tensor, gate_U: Tensor, of_column_W: Tensor) -> Tensor:
    """x̃_i = g_i·x_i + (1 − g_i)·x'_i, with x' the replacement of x."""
    return torch.lerp(other_BW, x_BW, gate_U[of_column_W])


@dataclass(frozen=True)
class Reservoir:
    """Values of a unit that has few active rows in a batch, drawn from all held-out rows.

    Args:
        unit: Number of the unit.
        columns_D: The unit's columns of x_BW.
        active: a, the share of active rows, in (0, ½).
        values_RD: Values of active rows.
        usual_D: The value of the rows that are not active.
    """

    unit: int
    columns_D: Tensor
    active: float
    values_RD: Tensor
    usual_D: Tensor

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Replacements x'_BD for a batch, and the weight of each row's gradient.

        A permutation gives an active value to a·B rows. The reservoir gives one to q·B rows, with
        q = 5/B, and weights these rows a/q and the others (1 − a)/(1 − q). Thereby the gate's expected
        gradient is still that of a permutation, and each batch has several active rows.
        """
        q = max(self.active, min(0.5, _LEAST_ACTIVE / rows))
        place = self.values_RD.device
        drawn_B = (torch.rand(rows, generator=generator) < q).to(place)
        pick_B = torch.randint(len(self.values_RD), (rows,), generator=generator).to(place)
        x_BD = torch.where(drawn_B[:, None], self.values_RD[pick_B], self.usual_D)
        weight_B = torch.where(drawn_B, self.active / q, (1 - self.active) / (1 - q))
        return x_BD, weight_B


@torch.no_grad()
def reservoirs(
    model: CTR, shards: Split, gated_units: Units, batch_size: int, size: int = 256, device: Device = CPU
) -> list[Reservoir]:
    """A reservoir for each whole unit that has fewer than 5 active rows in a batch on average.

    Args:
        model: The model that looks the values up.
        shards: Held-out rows.
        gated_units: Units with their shares of active rows.
        batch_size: Rows a step.
        size: Most active rows of a reservoir; with sample weights, they are drawn in proportion to weight.
        device: Where the model is.
    """
    few = [i for i, a in enumerate(gated_units.active_U.tolist()) if 0 < a * batch_size < _LEAST_ACTIVE]
    blocks = raw_blocks(shards, slice(0, len(shards))) if few else {}
    weight_B = None if shards.weight_B is None else torch.from_numpy(np.asarray(shards.weight_B, np.float64))
    stock: list[Reservoir] = []
    for i in few:
        columns_D = (gated_units.of_column_W == i).nonzero().squeeze(1)
        block = torch.cat([torch.from_numpy(blocks[n]).double() for n in gated_units.members[i]], 1)
        value, inverse = block.unique(dim=0, return_inverse=True)
        common = torch.bincount(inverse, weight_B).argmax()
        rows_R = (inverse != common).nonzero().squeeze(1)
        if len(value) < 2 or len(rows_R) == 0:
            continue  # active by rounding only: it gets a permutation
        usual = int((inverse == common).nonzero()[0])
        share = len(rows_R) / len(block)
        if weight_B is not None:
            share = float(weight_B[rows_R].sum() / weight_B.sum())
            rows_R = rows_R[resampled(weight_B[rows_R], size)]
        columns_D = columns_D.to(device.torch_device)
        batch = shards.batch(torch.cat([torch.tensor([usual]), rows_R[:size]]).numpy())
        x_RW = model.features(device.batch(batch))
        stock.append(Reservoir(i, columns_D, share, x_RW[1:, columns_D], x_RW[0, columns_D]))
    return stock


class Gates(nn.Module):
    """One gate for each unit, before the model's head. The random numbers are the same on every device.

    Args:
        gated_units: The units.
        weight_U: w, the price of each unit relative to λ.
        seed: Fixes, together with the unit's name, the replacement of each row.
        steps: S; the shifts repeat after S calls.
        start: Initial value of the gates.
        stock: Reservoirs of units with few active rows.
    """

    column_W: Tensor  # a copy of `of_column_W` on the device of x_BW
    weight_U: Tensor

    def __init__(
        self,
        gated_units: Units,
        weight_U: Tensor,
        seed: int,
        steps: int,
        start: float = 0.4,
        stock: Sequence[Reservoir] = (),
    ):
        super().__init__()
        self.of_column_W = gated_units.of_column_W
        self.register_buffer("column_W", self.of_column_W)
        self.register_buffer("weight_U", weight_U)
        self.theta_U = nn.Parameter(torch.full((len(gated_units.names),), theta_of(start)))
        self.stock, self.calls = stock, 0
        self.generators = field_generators(gated_units.names, seed)
        self.draw_SU = torch.stack([torch.rand(steps, generator=g) for g in self.generators], 1)

    def gates(self) -> Tensor:
        """g_U = σ(5θ)."""
        return torch.sigmoid(_SHARPNESS * self.theta_U)

    def cost(self) -> Tensor:
        """Σ_i w_i g_i."""
        return (self.weight_U * self.gates()).sum()

    def forward(self, x_BW: Tensor, weight_B: Tensor | None = None) -> Tensor:
        """→ x̃_BW; no gradient flows into the replacements.

        Args:
            x_BW: At least two rows.
            weight_B: Sample weights: a row replaces others in proportion to its weight.
        """
        share_U = self.draw_SU[self.calls % len(self.draw_SU)]
        self.calls += 1
        shift_U = 1 + (share_U * (len(x_BW) - 1)).long()
        from_BW = x_BW.detach() if weight_B is None else x_BW.detach()[resampled(weight_B, len(x_BW))]
        other_BW = rolled(from_BW, shift_U, self.of_column_W)
        if not self.stock:
            return gated(x_BW, other_BW, self.gates(), self.column_W)
        scale_BW = torch.ones_like(other_BW)
        for r in self.stock:
            x_BD, weight_B = r.draw(len(x_BW), self.generators[r.unit])
            other_BW[:, r.columns_D] = x_BD
            scale_BW[:, r.columns_D] = weight_B[:, None]
        mixed_BW = gated(x_BW, other_BW, self.gates(), self.column_W)
        return mixed_BW + (scale_BW - 1) * (mixed_BW - mixed_BW.detach())  # the same value, with a weighted gradient

    def of_rows(self, weight_B: Tensor | None) -> Callable[[Tensor], Tensor]:
        """x_BW → x̃_BW for rows of these sample weights."""
        return lambda x_BW: self(x_BW, weight_B)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep every gate in [edge, 1 − edge]."""
        self.theta_U.clamp_(theta_of(EDGE), theta_of(1 - EDGE))

"""LeAP: learnable adaptive permutation, on a frozen model. U gated units, S steps."""

from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.config.ranges import Count, GainShare, GateSteps, Positive
from recsys.data.batch import Batch
from recsys.data.split import Split
from recsys.events import watched
from recsys.frame.ctr import CTR
from recsys.selection.columns import Units, units
from recsys.selection.counted import counted
from recsys.selection.figures import SearchNotes
from recsys.selection.gates import EDGE, Gates, price_weights, reservoirs
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, batches_forever, gate_loss
from recsys.selection.shuffle import shuffled_cost

__all__ = ["leap"]

_LEAST_STEPS = 150  # least steps after which gates have settled
_MOST_PASSES = 100  # most passes over the validation rows in one search
_MOST_CHECKED = 20  # most fields near their price that are shuffled; each takes a pass over the validation rows
_NEAR = (0.1, 0.9)  # gates of fields near their price: worth about half of it to five times


def _affordable(steps: int, batch_size: int, rows: int) -> tuple[int, list[str]]:
    """The steps that the rows allow, and a warning if they are fewer than gates need."""
    most = _MOST_PASSES * max(1, rows // batch_size)
    if most >= _LEAST_STEPS:
        return min(steps, most), []
    needed = -(-_LEAST_STEPS // _MOST_PASSES) * batch_size
    warning = f"validation has {rows} rows: {_LEAST_STEPS} steps need {needed}, so the gates had {most} steps and may "
    warning += "not have settled: give more validation rows, or lower selection.batch_size"
    return most, [warning]


class _GateTraining:
    """Gates before the head of a frozen model, and their optimiser."""

    def __init__(self, search: Search, gates: Gates, batches: Iterator[Batch], steps: int):
        self.search, self.gates, self.batches, self.steps = search, gates, batches, steps
        self.adam = torch.optim.Adam([gates.theta_U], lr=8 / steps, betas=(0.9, 0.99))

    def step(self, price: float) -> float:
        """One step on BCE(y, f(x̃)) + price·Σ w_i g_i; returns the BCE."""
        batch = next(self.batches)
        bce = gate_loss(self.search.model, self.gates.of_rows(batch.weight_B), batch, self.search.device)
        loss = bce + price * self.gates.cost()
        (self.gates.theta_U.grad,) = torch.autograd.grad(loss, [self.gates.theta_U])
        self.adam.step()
        self.gates.clamp()
        return float(bce.detach())

    def hold(self, price: float) -> list[float]:
        """Train at one price → the BCE of each step."""
        return [self.step(price) for _ in watched(range(self.steps), self.search.reporter, self.steps, "gate steps")]

    def climb(self) -> tuple[Tensor, Tensor]:
        """Train while λ climbs from 1e-5 to 1e-1 → each gate's mean, and the λ at which it closed."""
        mean_U = torch.zeros_like(self.gates.theta_U)
        closed_U = torch.full_like(mean_U, float("inf"))
        prices = torch.logspace(-5, -1, self.steps).tolist()
        for price in watched(prices, self.search.reporter, self.steps, "gate steps at a rising price"):
            self.step(price)
            g_U = self.gates.gates().detach()
            mean_U += g_U / self.steps
            closed_U = torch.where((g_U < 0.5) & closed_U.isinf(), price, closed_U)
            closed_U = torch.where(g_U >= 0.5, float("inf"), closed_U)
        return mean_U, closed_U.clamp(max=0.1)


def leap(
    search: Search,
    *,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    steps: GateSteps = 200,
    batch_size: Count = 2048,
    adaptive: bool | None = None,
    groups: dict[str, list[str]] | None = None,
    split_width: Count | None = None,
) -> FieldScores:
    """Learn how far each field's gate must open so that the frozen model keeps its logloss.

    L = BCE(y, f(x̃)) + λ·Σ_i w_i g_i, with x̃_i = g_i·x_i + (1 − g_i)·x_i[π_i] and g_i = σ(5θ_i).
    λ·w_i is a field's own price, in nats a row: near an optimum 1 − g_i = λ·w_i / (2Δ_i), with Δ_i what
    permuting the field costs, so that a gate above ½ means a field that is worth more than its price.
    Fields near their price (.1 < g < .9, at most 20 of them) are shuffled in the model itself, and the cost of
    that decides; the gate decides for all others. A price that is given is the price of every field (w_i = 1).
    The default price is weighted by w_i, so that a narrow or sparse field may be kept although a wider one
    that is worth more is dropped.

    Saturated gates tie, so that the ranking comes from a second pass in which λ climbs from 1e-5 to 1e-1,
    weighted by w_i. A field's score is w_i·10^(4ḡ_i − 5), with ḡ_i its gate's mean over the climb. The score
    has no unit and only orders fields: gates lag behind the climb and close together, so that it is 2 to 10
    times what permuting the field costs.

    Args:
        search: Its model, which a selector never changes, should be early-stopped. The gates learn from its validation
            rows, since gates that learn from training rows keep every overfitted field. Its seed fixes the
            order of rows and, together with a field's name, its permutations.
        price: Least worth of a kept field, nats a row; None takes `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        steps: S of each of the two passes, at least 150.
        batch_size: Rows a step.
        adaptive: Whether the price of a field is weighted by `adaptive_weights`; None weights it if `price` is None.
            False also ranks without weights.
        groups: Name → fields that share one gate and one permutation.
        split_width: Vectors of at least this width get a gate for each dimension. Such a
            field is kept if any dimension is, and `notes.dimensions` holds the gates. None splits no vector.

    Raises:
        ConfigError: If a group names an unknown field or a field twice.

    Source: LeAP, ECML-PKDD 2026. Its public code trains model and gates together under a uniform
    penalty (`leap_joint` does so). It names an adaptive regulariser without giving it; w_i, the frozen
    model, held-out gate batches, reservoirs and the λ ramp are ours.
    """
    model, valid = search.model.eval(), counted(search.valid)
    batch_size = min(batch_size, len(valid))
    whole = units(model, valid, groups)
    weighted = price is None if adaptive is None else adaptive
    price = price_or_default(search, price, gain_share)
    steps, warnings = _affordable(steps, batch_size, len(valid))
    batches = batches_forever(valid, batch_size, search.seed, search.device)
    parts = whole if split_width is None else units(model, valid, groups, split_width)

    def training(gated_units: Units, seed: int, start: float, weighted: bool) -> _GateTraining:
        stock = reservoirs(model, valid, gated_units, batch_size, device=search.device)
        gates = Gates(gated_units, price_weights(gated_units, weighted), seed, steps, start, stock)
        return _GateTraining(search, gates.to(search.device.torch_device), batches, steps)

    at_price = training(parts, search.seed, 0.4, weighted)
    ramp = training(whole, search.seed + 1, 1 - EDGE, adaptive is not False)
    bce = at_price.hold(price)
    mean_U, closed_U = ramp.climb()
    gates, score_U = at_price.gates, _score(ramp.gates, mean_U)
    gate_U, weight_U, closed_U, score_U = (x.detach().cpu() for x in (gates.gates(), gates.weight_U, closed_U, score_U))
    learned = _Learned(parts, gate_U, weight_U, price, whole, closed_U, score_U)
    split = _dimensions(model, parts, learned.gate_U)
    notes = SearchNotes("leap", price, 2 * steps, None, warnings, bce, split, "no unit: its order counts")
    costs = _costs_near_price(search, valid, learned.gate_U, parts, split)
    return _scores(model.schema.names, learned, costs, notes)


def _score(gates: Gates, mean_U: Tensor) -> Tensor:
    """w·10^(4ḡ − 5) → [U]."""
    return gates.weight_U * 10 ** (4 * mean_U - 5)


class _Learned(NamedTuple):
    """Gates of fields or dimensions that were trained at the price, and gates of whole fields from the climb."""

    parts: Units
    gate_U: Tensor
    weight_U: Tensor
    price: float
    whole: Units
    closed_U: Tensor
    score_U: Tensor


def _scores(names: list[str], learned: _Learned, costs: dict[str, dict[str, float]], notes: SearchNotes) -> FieldScores:
    score: dict[str, float] = {}
    details: dict[str, dict[str, float]] = {}
    price_U = learned.price * learned.weight_U
    for name in names:
        (unit,), units_of_field = learned.whole.of_field(name), learned.parts.of_field(name)
        gate_U = learned.gate_U[units_of_field]
        score[name] = float(learned.score_U[unit])
        details[name] = {
            "gate": float(gate_U.max()),
            "price": float(price_U[units_of_field].max()),
            "closes_at": float(learned.closed_U[unit]),
            "weight": float(learned.weight_U[units_of_field].max()),
            "change_rate": float(learned.whole.change_U[unit]),
            "active_share": float(learned.whole.active_U[unit]),
            **costs.get(name, {}),
        }
        if name in notes.dimensions:
            details[name]["dimensions_kept"] = float((gate_U > 0.5).sum())
    return FieldScores(score, {n: _worth_its_price(d) for n, d in details.items()}, details, notes)


def _costs_near_price(
    search: Search, valid: Split, gate_U: Tensor, parts: Units, split: Collection[str]
) -> dict[str, dict[str, float]]:
    """Cost of shuffling each field near its price, together with its group; split fields are left out."""
    low, high = _NEAR
    gates = gate_U.tolist()
    near = [i for i, members in enumerate(parts.members) if low < gates[i] < high and members[0] not in split]
    near = sorted(near, key=lambda i: abs(gates[i] - 0.5))[:_MOST_CHECKED]
    if not near:
        return {}
    groups = {parts.names[i]: parts.members[i] for i in near}
    cost = shuffled_cost(search.model, valid, groups, search.seed, together=True, device=search.device)
    return {field: asdict(cost[group]) for group, members in groups.items() for field in members}


def _dimensions(model: CTR, parts: Units, gate_U: Tensor) -> dict[str, list[float]]:
    """Field that was split → the gate of each dimension."""
    units_of = {f: parts.of_field(f) for f in model.schema.names}
    return {f: gate_U[i].tolist() for f, i in units_of.items() if parts.names[i[0]] == f"{f}[0]"}


def _worth_its_price(d: dict[str, float]) -> bool:
    """Whether shuffling the field costs more than its price; if that was not measured, whether its gate is open."""
    return d["delta_logloss"] > d["price"] if "delta_logloss" in d else d["gate"] > 0.5

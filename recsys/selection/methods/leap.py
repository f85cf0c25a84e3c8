"""LeAP: learnable adaptive permutation, on a frozen model. U gated units, S steps."""

from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from recsys.config.ranges import Count, GainShare, GateSteps, Positive
from recsys.data.batch import Batch
from recsys.data.split import Split
from recsys.errors import ConfigError
from recsys.frame.ctr import CTR
from recsys.progress import progress
from recsys.selection.columns import Units, units
from recsys.selection.counted import counted
from recsys.selection.gates import EDGE, Gates, adaptive_weights, reservoirs
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, batches_forever, gate_loss
from recsys.selection.shuffle import shuffled_cost

__all__ = ["leap"]

_LEAST_STEPS = 150  # for the gates to settle
_MOST_PASSES = 100  # over the validation rows, in one search
_MOST_CHECKED = 20  # fields near their price, each one pass over the validation rows
_NEAR = (0.1, 0.9)  # gates of fields near their price: worth about half of it to five times


def _affordable(steps: int, batch_size: int, rows: int) -> tuple[int, list[str]]:
    """The steps that the rows allow, and a warning if they are fewer than gates need."""
    if steps < _LEAST_STEPS:
        wanted = f"selection.steps must be at least {_LEAST_STEPS} for the gates to settle"
        raise ConfigError(f"{wanted}, got {steps}: raise it")
    most = _MOST_PASSES * max(1, rows // batch_size)
    if most >= _LEAST_STEPS:
        return min(steps, most), []
    needed = -(-_LEAST_STEPS // _MOST_PASSES) * batch_size
    note = f"validation has {rows} rows: {_LEAST_STEPS} steps need {needed}, so the gates had {most} steps and may "
    note += "not have settled: give more validation rows, or lower selection.batch_size"
    return most, [note]


class _Search:
    """Gates, their optimiser and the frozen model."""

    def __init__(self, model: CTR, gates: Gates, batches: Iterator[Batch], steps: int, precision: str):
        self.model, self.gates, self.batches, self.precision = model, gates, batches, precision
        self.adam = torch.optim.Adam([gates.theta_U], lr=8 / steps, betas=(0.9, 0.99))

    def step(self, price: float) -> float:
        """One step on BCE(y, f(x̃)) + price·Σ w_i g_i; returns the BCE."""
        batch = next(self.batches)
        bce = gate_loss(self.model, self.gates.of_rows(batch.weight_B), batch, self.precision)
        loss = bce + price * self.gates.cost()
        (self.gates.theta_U.grad,) = torch.autograd.grad(loss, [self.gates.theta_U])
        self.adam.step()
        self.gates.clamp()
        return float(bce.detach())


def _ranked(search: _Search, steps: int, bar: Progress) -> tuple[Tensor, Tensor]:
    """Let λ climb from 1e-5 to 1e-1 → each gate's mean, and the λ at which it closed."""
    mean_U = torch.zeros_like(search.gates.theta_U)
    closed_U = torch.full_like(mean_U, float("inf"))
    task = bar.add_task("rank by price", total=steps)
    for price in torch.logspace(-5, -1, steps).tolist():
        search.step(price)
        g_U = search.gates.gates().detach()
        mean_U += g_U / steps
        closed_U = torch.where((g_U < 0.5) & closed_U.isinf(), price, closed_U)
        closed_U = torch.where(g_U >= 0.5, float("inf"), closed_U)
        bar.advance(task)
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
    """Learn how open each field's gate must be for the frozen model to keep its logloss.

    L = BCE(y, f(x̃)) + λ·Σ_i w_i g_i, with x̃_i = g_i·x_i + (1 − g_i)·x_i[π_i] and g_i = σ(5θ_i).
    λ·w_i is a field's own price, in nats a row: near an optimum 1 − g_i = λ·w_i / (2Δ_i), Δ_i what
    permuting the field costs, so that the gates above ½ are the fields worth more than their price.
    Fields near it (.1 < g < .9, at most 20 of them) are shuffled in the model itself, and what that
    costs decides; the others' gates decide. If a price is given, it is every field's (w_i = 1); the
    default price is weighted by w_i, so that a narrow or sparse field may be kept where a wider one
    that is worth more is not.

    Since saturated gates tie, the ranking comes from a second pass in which λ climbs from 1e-5 to 1e-1,
    weighted. A field's score is w_i·10^(4ḡ_i − 5), ḡ_i its gate's mean over the climb. It has no unit: it
    orders fields, but gates lag behind the climb and close together, so it is 2 to 10 times what
    permuting the field costs.

    Args:
        search: Its model, which a selector never changes, should be early-stopped. The gates learn from its validation
            rows: gates that learn from training rows keep every overfitted field. Its seed fixes the
            permutations (each field's by its name) and the order of rows.
        price: What a field must be worth, nats a row; None takes `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        steps: S of each of the two passes, at least 150.
        batch_size: Rows a step.
        adaptive: Whether the price of a field is weighted by `adaptive_weights`; None does so if `price` is None.
            False also ranks without weights.
        groups: Name → fields that share one gate and one permutation.
        split_width: Vectors of at least so many dimensions get a gate for each dimension; such a
            field is kept if any is, and `about["dimensions"]` tells which. None splits none.

    Raises:
        ConfigError: If a setting is out of range, a group cannot be, or there are fewer than two fields.

    Source: LeAP, ECML-PKDD 2026. Its public code trains model and gates together under a uniform
    penalty (`leap_joint` does so) and names, but does not give, an adaptive regulariser: w_i, the
    frozen model, held-out gate batches, reservoirs and the λ ramp are ours.
    """
    model, valid, seed = search.model.eval(), counted(search.valid), search.seed
    batch_size = min(batch_size, len(valid))
    whole = units(model, valid, groups)
    weighted = price is None if adaptive is None else adaptive
    price = price_or_default(search, price, gain_share)
    steps, notes = _affordable(steps, batch_size, len(valid))
    batches = batches_forever(valid, batch_size, seed)
    parts = whole if split_width is None else units(model, valid, groups, split_width)

    def gated_search(found: Units, seed: int, start: float, weighted: bool) -> _Search:
        weight_U = adaptive_weights(found.width_U, found.change_U) if weighted else torch.ones(len(found.names))
        stock = reservoirs(model, valid, found, batch_size)
        return _Search(model, Gates(found, weight_U, seed, steps, start, stock), batches, steps, search.how.precision)

    at_price = gated_search(parts, seed, 0.4, weighted)
    ramp = gated_search(whole, seed + 1, 1 - EDGE, adaptive is not False)
    with progress(refresh_per_second=2) as bar:
        task = bar.add_task("learn gates", total=steps)
        curve: list[float] = []
        for _ in range(steps):
            curve.append(at_price.step(price))
            bar.advance(task)
        mean_U, closed_U = _ranked(ramp, steps, bar)
    about: dict[str, Any] = {"method": "leap", "price": price, "steps": 2 * steps, "warnings": notes, "gate_bce": curve}
    about["dimensions"] = _dimensions(model, parts, at_price.gates.gates().detach())
    score_U = ramp.gates.weight_U * 10 ** (4 * mean_U - 5)
    checked = _checked(model, valid, at_price.gates, parts, about["dimensions"], seed)
    return _scores(model, at_price.gates, parts, whole, score_U, closed_U, about, checked)


def _checked(
    model: CTR, valid: Split, gates: Gates, parts: Units, split: dict[str, list[float]], seed: int
) -> dict[str, dict[str, float]]:
    """For each field near its price, what shuffling it costs (with its group, if it has one)."""
    gate_U = gates.gates().tolist()
    low, high = _NEAR
    near = [i for i, m in enumerate(parts.members) if low < gate_U[i] < high and m[0] not in split]
    near = sorted(near, key=lambda i: abs(gate_U[i] - 0.5))[:_MOST_CHECKED]
    if not near:
        return {}
    cost = shuffled_cost(model, valid, {parts.names[i]: parts.members[i] for i in near}, seed, together=True)
    return {field: cost[parts.names[i]] for i in near for field in parts.members[i]}


def _dimensions(model: CTR, found: Units, gate_U: Tensor) -> dict[str, list[float]]:
    """For each field that was split, the gate of each dimension."""
    of = {f: found.of_field(f) for f in model.schema.names}
    return {f: gate_U[i].tolist() for f, i in of.items() if found.names[i[0]] == f"{f}[0]"}


def _scores(
    model: CTR,
    gates: Gates,
    parts: Units,
    whole: Units,
    score_U: Tensor,
    closed_U: Tensor,
    about: dict[str, Any],
    checked: dict[str, dict[str, float]],
) -> FieldScores:
    gate_U, price_U = gates.gates().detach(), about["price"] * gates.weight_U
    score: dict[str, float] = {}
    details: dict[str, dict[str, float]] = {}
    for name in model.schema.names:
        (i,), own = whole.of_field(name), parts.of_field(name)
        score[name] = float(score_U[i])
        details[name] = {
            "gate": float(gate_U[own].max()),
            "price": float(price_U[own].max()),
            "closes_at": float(closed_U[i]),
            "weight": float(gates.weight_U[own].max()),
            "change_rate": float(whole.change_U[i]),
            "active_share": float(whole.active_U[i]),
            **checked.get(name, {}),
        }
        if name in about["dimensions"]:
            details[name]["dimensions_kept"] = float((gate_U[own] > 0.5).sum())
    return FieldScores(score, {n: _worth_its_price(d) for n, d in details.items()}, details, about)


def _worth_its_price(d: dict[str, float]) -> bool:
    """By what shuffling the field costs, if that was measured; else by its gate."""
    return d["delta_logloss"] > d["price"] if "delta_logloss" in d else d["gate"] > 0.5

"""LeAP: learnable adaptive permutation. B rows, F fields, W the joined width, S steps."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.errors import ConfigError, DataError
from recsys.metrics import logloss, sigmoid
from recsys.models.ctr import CTR
from recsys.progress import progress
from recsys.selection.columns import change_rates, field_generators, permuted_rows
from recsys.selection.scores import FieldScores
from recsys.train import logits

__all__ = ["adaptive_weights", "gated", "leap"]

_SHARPNESS = 5.0  # g = σ(5θ), as in the public reference code
_EDGE = 0.02  # gates stay in [edge, 1 − edge], so that a saturated one can still come back


def adaptive_weights(width_F: Tensor, change_F: Tensor) -> Tensor:
    """w_i = s_i / median(s), s_i = √(d_i·c_i), within [.05, 20].

    The gate's gradient grows with the width d_i that a field brings and with the share c_i of rows
    that a permutation changes; this makes one price fair to a scalar and a wide embedding, to a
    dense field and one active in 1 % of rows.
    """
    s_F = (width_F * change_F).sqrt()
    return (s_F / s_F.median().clamp(min=1e-12)).clamp(0.05, 20.0)


def gated(x_BW: Tensor, index_BF: Tensor, gate_F: Tensor, width_F: Tensor) -> Tensor:
    """x̃_i = g_i·x_i + (1 − g_i)·x_i[π_i]: each field mixed with its own permutation.

    Args:
        x_BW: Looked-up fields side by side, without gradient.
        index_BF: π, a permutation of the rows for each field.
        gate_F: Gates in [0, 1].
        width_F: int64 widths that sum to W.
    """
    index_BW = index_BF.repeat_interleave(width_F, 1)
    gate_W = gate_F.repeat_interleave(width_F)
    return gate_W * x_BW + (1 - gate_W) * x_BW.gather(0, index_BW)


class _Gates:
    """θ, their optimiser and the mixing; the model is frozen."""

    def __init__(self, model: CTR, weight_F: Tensor, seed: int, steps: int):
        self.model, self.weight_F = model, weight_F
        self.width_F = torch.tensor(model.widths)
        self.generators = field_generators(model.schema.names, seed)
        self.theta_F = torch.full((len(model.widths),), _logit(0.4), requires_grad=True)
        self.adam = torch.optim.Adam([self.theta_F], lr=8 / steps, betas=(0.9, 0.99))

    def gates(self) -> Tensor:
        """g_F = σ(5θ)."""
        return torch.sigmoid(_SHARPNESS * self.theta_F)

    def step(self, batch: Batch, price: float) -> float:
        """One step on BCE(y, f(x̃)) + price·Σ w_i g_i; returns the BCE."""
        with torch.no_grad():
            x_BW = self.model.features(batch)
        gate_F = self.gates()
        mixed_BW = gated(x_BW, permuted_rows(self.generators, len(batch)), gate_F, self.width_F)
        logit_B = self.model.head(mixed_BW)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(logit_B, batch.label_B)
        loss = bce + price * (self.weight_F * gate_F).sum()
        (self.theta_F.grad,) = torch.autograd.grad(loss, [self.theta_F])
        self.adam.step()
        with torch.no_grad():
            self.theta_F.clamp_(_logit(_EDGE), _logit(1 - _EDGE))
        return float(bce.detach())


def _logit(gate: float) -> float:
    """θ with σ(5θ) = gate."""
    return float(torch.logit(torch.tensor(gate, dtype=torch.float64))) / _SHARPNESS


def _forever(shards: Shards, size: int, seed: int) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from shards.shuffled(size, [seed, epoch, 7])
        epoch += 1


def default_price(model: CTR, valid: Shards, share: float) -> float:
    """`share` of the model's gain in logloss over always saying the mean label.

    Raises:
        DataError: If the model is no better than that: there is nothing to share.
    """
    rate = float(valid.label_B.mean())
    constant = logloss(torch.full((len(valid),), rate).numpy(), valid.label_B)
    gain = constant - logloss(sigmoid(logits(model, valid)), valid.label_B)
    if gain <= 0:
        raise DataError(
            f"no signal: on held-out rows the model's logloss is {-gain:.5f} above that of a constant, "
            "so no field can earn its price: train longer, or check the label"
        )
    return share * gain


def leap(
    model: CTR,
    valid: Shards,
    seed: int,
    price: float | None = None,
    gain_share: float = 0.005,
    steps: int = 200,
    batch_size: int = 2048,
    adaptive: bool = True,
) -> FieldScores:
    """Learn how open each field's gate must be for the frozen model to keep its logloss.

    L = BCE(y, f(x̃)) + λ·Σ_i w_i g_i, with x̃_i = g_i·x_i + (1 − g_i)·x_i[π_i] and g_i = σ(5θ_i).
    λ is a price in logloss: near an optimum the gates that stay open are the fields whose
    permutation costs more than λ·w_i. A field is kept if g_i > ½ after `steps` at λ. Since
    saturated gates tie, the ranking is the gate's mean over a second pass in which λ climbs
    from 1e-5 to 1e-1: the price at which each gate closes.

    Args:
        model: Trained and early-stopped; not changed.
        valid: Held-out rows: gates learned on training rows keep every overfitted field.
        seed: Fixes the permutations (each field's by its name) and the order of rows.
        price: λ in nats a row; None takes `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        steps: S of each of the two passes, at least 150.
        batch_size: Rows a step.
        adaptive: Whether w_i is `adaptive_weights`, or 1 for all.

    Raises:
        ConfigError: If there are fewer than 150 steps, the price is not positive, or fewer than
            two fields.
        DataError: If the model is no better than a constant.

    Source: LeAP, ECML-PKDD 2026. Its public code trains model and gates together under a uniform
    penalty and names, but does not give, an adaptive regulariser: w_i, the frozen model, held-out
    gate batches and the λ ramp are ours.
    """
    if steps < 150:
        raise ConfigError(f"selection.steps must be at least 150 for the gates to settle, got {steps}: raise it")
    if len(model.widths) < 2:
        raise ConfigError(f"selection needs at least two fields, got {model.schema.names}: add fields")
    started = time.perf_counter()
    model.eval()
    price = default_price(model, valid, gain_share) if price is None else price
    if price <= 0:
        raise ConfigError(f"selection.price must be above 0, got {price}: set it in nats a row, for example 3e-4")
    names = model.schema.names
    change = change_rates(valid)
    width_F, change_F = torch.tensor(model.widths).float(), torch.tensor([change[n] for n in names])
    weight_F = adaptive_weights(width_F, change_F) if adaptive else torch.ones(len(names))
    ramp = torch.logspace(-5, -1, steps).tolist()
    gates, ramped = _Gates(model, weight_F, seed, steps), _Gates(model, weight_F, seed + 1, steps)
    with torch.no_grad():
        ramped.theta_F.fill_(_logit(1 - _EDGE))
    closed_at = torch.full((len(names),), float("inf"))
    mean_F = torch.zeros(len(names))
    curve: list[float] = []
    batches = _forever(valid, batch_size, seed)
    with progress(refresh_per_second=2) as bar:
        task = bar.add_task("learn gates", total=2 * steps)
        for _ in range(steps):
            curve.append(gates.step(next(batches), price))
            bar.advance(task)
        for at in ramp:
            ramped.step(next(batches), at)
            g_F = ramped.gates().detach()
            mean_F += g_F / steps
            closed_at = torch.where((g_F < 0.5) & closed_at.isinf(), at, closed_at)
            closed_at = torch.where(g_F >= 0.5, float("inf"), closed_at)
            bar.advance(task)
    final_F = gates.gates().detach()
    details = {
        n: {
            "gate": float(final_F[i]),
            "closes_at": min(float(closed_at[i]), 0.1),
            "weight": float(weight_F[i]),
            "width": float(width_F[i]),
            "change_rate": float(change_F[i]),
        }
        for i, n in enumerate(names)
    }
    about = {
        "method": "leap",
        "price": price,
        "steps": 2 * steps,
        "gate_bce": curve,
        "seconds": time.perf_counter() - started,
    }
    score = {n: float(mean_F[i]) for i, n in enumerate(names)}
    return FieldScores(score, {n: bool(final_F[i] > 0.5) for i, n in enumerate(names)}, details, about)

"""LPFS: learnable polarizing feature selection. F fields, W the joined width."""

import torch
from torch import Tensor

from recsys.config.ranges import Epsilon, Few, GainShare, Positive
from recsys.data.batch import Batch
from recsys.selection.figures import SearchNotes
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, gate_rate, train_gated

__all__ = ["lpfs", "polarised", "soft_threshold"]

_REACH = 3.0  # how far Adam can move x in the whole training; x starts at 1


def polarised(x_F: Tensor, epsilon: float) -> Tensor:
    """g = sign(x)·x² / (x² + ε) + 10·√ε·atan(x): 0 at 0, near 1 above and −1 below as ε shrinks.

    It increases everywhere; the second term gives it a slope at 0, so that a closed gate can open again.
    """
    square_F = x_F.square()
    return x_F.sign() * square_F / (square_F + epsilon) + 10 * epsilon**0.5 * x_F.atan()


def soft_threshold(x_F: Tensor, by: Tensor | float) -> Tensor:
    """sign(x)·max(0, |x| − by): the proximal step of by·‖x‖₁, which reaches 0 exactly."""
    return x_F.sign() * (x_F.abs() - by).clamp(min=0.0)


def lpfs(
    search: Search,
    *,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    epochs: Few | None = None,
    last_epsilon: Epsilon = 0.01,
) -> FieldScores:
    """Train a fresh model whose field i is multiplied by g(x_i), with a proximal L1 step on the gates' x.

    score_i = |x_i|, which starts at 1; a field is kept if its x is not exactly 0.

    Args:
        search: A fresh model and its gates learn from its training rows. Its seed fixes the fresh model and the order
            of rows.
        price: λ of λ‖x‖₁, in nats a row; None takes `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        epochs: Passes over the training rows; None takes as many steps as the given model took (`train_gated`).
        last_epsilon: ε at the end; it shrinks from .1 by a constant factor a step.

    Source: Guo et al., LPFS, 2022, equations 4, 7 and 8 (LPFS++), in the form of ERASE's code: g is
    odd, nothing is normalised, x starts at 1, ε at .1. Ours differs in three ways. ERASE orders by
    x, we by |x|: the large steps of a short training can move a gate in use below 0. ERASE shrinks x
    by .01 times Adam's rate for any gradient; the proximal step here is taken in Adam's
    metric (x ← S(x − η·m/√v, η·λ/√v), m and v the gradient's running moments), so that λ is in
    nats. ERASE's ε shrinks by .9978 every 100 steps, for millions of steps; ours reaches
    `last_epsilon` at the last one.
    """
    price = price_or_default(search, price, gain_share)
    fresh = search.fresh_model()
    column_W = search.column_W
    x_F = torch.ones(len(fresh.widths), device=column_W.device, requires_grad=True)
    epsilon = 0.1

    def mix(x_BW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return x_BW * polarised(x_F, epsilon)[column_W], torch.zeros(())

    first_F, second_F = torch.zeros_like(x_F), torch.zeros_like(x_F)
    for step in train_gated(fresh, mix, search, epochs):
        if x_F.grad is None:
            raise RuntimeError("the model's head ignores its input")
        with torch.no_grad():
            first_F.lerp_(x_F.grad, 0.1)
            second_F.lerp_(x_F.grad.square(), 0.01)
            n = step.number
            rate_F = gate_rate(step.total, _REACH) / ((second_F / (1 - 0.99**n)).sqrt() + 1e-12)
            x_F.copy_(soft_threshold(x_F - rate_F * first_F / (1 - 0.9**n), rate_F * price))
            x_F.grad = None
        epsilon = 0.1 * (last_epsilon / 0.1) ** (step.number / step.total)
    names = search.model.schema.names
    score = dict(zip(names, x_F.abs().tolist(), strict=True))
    g_F = polarised(x_F.detach(), epsilon).tolist()
    details = {n: {"gate": g, "x": x} for n, g, x in zip(names, g_F, x_F.tolist(), strict=True)}
    notes = SearchNotes("lpfs", price)
    return FieldScores(score, {n: s > 0 for n, s in score.items()}, details, notes)

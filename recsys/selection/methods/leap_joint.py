"""LeAP's joint mode: gates train together with the model. U gated units."""

import torch
from torch import Tensor

from recsys.config.ranges import Count, Few, GainShare, Positive
from recsys.data.batch import Batch
from recsys.selection.columns import Units, units
from recsys.selection.figures import SearchNotes
from recsys.selection.gates import OPEN, Gates, price_weights
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, batches_forever, gate_loss, gate_rate, train_gated

__all__ = ["gate_scores", "leap_joint"]


def leap_joint(
    search: Search,
    *,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    epochs: Few | None = None,
    batch_size: Count = 2048,
    adaptive: bool = True,
    groups: dict[str, list[str]] | None = None,
) -> FieldScores:
    """Train a fresh model and its gates together: the model on training rows, the gates on held-out ones.

    After each step of the model, which sees its gates, the gates take a step on
    BCE(y, f(x̃)) + λ·Σ_i w_i g_i over validation rows. A field is kept if g_i > ½.

    Args:
        search: A fresh model learns from its training rows, the gates from its validation rows. Its seed fixes the
            fresh model, the permutations and the order of rows.
        price: λ in nats a row; None takes `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        epochs: Passes over the training rows; None takes as many steps as the given model took (`train_gated`).
        batch_size: Rows of a gate step.
        adaptive: Whether w_i is `adaptive_weights`, or 1 for all.
        groups: Name → fields that share one gate and one permutation.

    Raises:
        ConfigError: If a group names an unknown field or a field twice.

    Source: LeAP, ECML-PKDD 2026, the procedure of the public code. It has one uniform penalty, and starts
    at θ = 1 as we do. `leap` with its frozen model is cheaper and keeps sparse fields better.
    """
    price = price_or_default(search, price, gain_share)
    gated_units = units(search.model, search.valid, groups)
    fresh = search.fresh_model()
    gates = Gates(gated_units, price_weights(gated_units, adaptive), search.seed, 1000, OPEN).to(
        search.device.torch_device
    )

    def mix(x_BW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return gates(x_BW, batch.weight_B), torch.zeros(())

    adam: torch.optim.Adam | None = None
    held_out = batches_forever(search.valid, batch_size, search.seed, search.device)
    for step in train_gated(fresh, mix, search, epochs):
        adam = adam or torch.optim.Adam([gates.theta_U], lr=gate_rate(step.total, 3.0), betas=(0.9, 0.99))
        fresh.eval()
        rows = next(held_out)
        bce = gate_loss(fresh, gates.of_rows(rows.weight_B), rows, search.device)
        loss = bce + price * gates.cost()
        (gates.theta_U.grad,) = torch.autograd.grad(loss, [gates.theta_U])
        adam.step()
        gates.clamp()
    notes = SearchNotes("leap_joint", price)
    return gate_scores(search.model.schema.names, gated_units, gates, notes)


def gate_scores(names: list[str], gated_units: Units, gates: Gates, notes: SearchNotes) -> FieldScores:
    """Scores of jointly trained gates: the gate itself, kept if over ½."""
    gate_U = gates.gates().tolist()
    score = {n: gate_U[gated_units.of_field(n)[0]] for n in names}
    details = {n: {"gate": g, "weight": float(gates.weight_U[gated_units.of_field(n)[0]])} for n, g in score.items()}
    return FieldScores(score, {n: g > 0.5 for n, g in score.items()}, details, notes)

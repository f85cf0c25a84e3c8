"""ShuffleGate: fields shuffled through gates that train with the model. F fields."""

from torch import Tensor

from recsys.config.ranges import Few, GainShare, Positive
from recsys.data.batch import Batch
from recsys.selection.columns import units
from recsys.selection.figures import SearchNotes
from recsys.selection.gates import OPEN, Gates, price_weights
from recsys.selection.methods.leap_joint import gate_scores
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, train_gated

__all__ = ["shufflegate"]


def shufflegate(
    search: Search,
    *,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    epochs: Few | None = None,
) -> FieldScores:
    """Minimise BCE(y, f(x̃)) + λ·Σ_i g_i over a fresh model and its gates, on training rows.

    x̃_i = g_i·x_i + (1 − g_i)·stopgrad(x_i[π_i]), g_i = σ(5θ_i). A field is kept if g_i > ½.

    Args:
        search: A fresh model and its gates learn from its training rows. Its seed fixes the fresh model, the
            permutations and the order of rows.
        price: λ in nats a row, the same for every field; None takes `gain_share` of the model's gain.
        gain_share: See `price`.
        epochs: Passes over the training rows; None takes as many steps as the given model took (`train_gated`).

    Source: Huang et al., ShuffleGate, 2025, equations 3 to 5; its λ multiplies the mean of the gates.
    """
    price = price_or_default(search, price, gain_share)
    gated_units = units(search.model, search.valid)
    fresh = search.fresh_model()
    gates = Gates(gated_units, price_weights(gated_units, adaptive=False), search.seed, 1000, OPEN)
    gates = gates.to(search.device.torch_device)

    def mix(x_BW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return gates(x_BW, batch.weight_B), price * gates.cost()

    for _ in train_gated(fresh, mix, search, epochs, gates):
        gates.clamp()
    notes = SearchNotes("shufflegate", price)
    return gate_scores(search.model.schema.names, gated_units, gates, notes)

"""Permutation importance on held-out rows, with the CTR model itself."""

import numpy as np

from recsys.config.ranges import Count, Few, GainShare, Positive
from recsys.evaluation.metrics import logloss, sigmoid
from recsys.events import watched
from recsys.selection.figures import SearchNotes
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search
from recsys.selection.shuffle import Shuffled

__all__ = ["permutation"]


def permutation(
    search: Search,
    *,
    repeats: Few = 1,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    rows: Count = 50_000,
) -> FieldScores:
    """score_i = mean over repeats of logloss(field i permuted over rows) − logloss.

    This takes repeats × F passes over the rows. With sample weights the logloss is weighted, and a field's value is
    replaced by those of rows drawn in proportion to weight.

    Args:
        search: Its validation rows are used. Its seed fixes, together with a field's name, the permutations.
        repeats: Permutations of each field, at least 1.
        price: A field is kept if permuting it costs more logloss (nats a row) than this; None takes
            `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        rows: Most held-out rows to use, drawn at random.

    Source: Breiman, Random Forests, 2001, section 10; Fisher et al., 2019, for any model.
    """
    price = price_or_default(search, price, gain_share)
    rows_of, schema = Shuffled(search.model, search.valid, search.seed, rows, search.device), search.model.schema
    label_R, weight_R = rows_of.label_R, rows_of.weight_R
    base = logloss(sigmoid(rows_of.logits()), label_R, weight_R)
    score: dict[str, float] = {}
    details = {}
    for name in watched(schema.names, search.reporter, len(schema.names), "fields permuted"):
        losses = [logloss(sigmoid(rows_of.logits([name])), label_R, weight_R) - base for _ in range(repeats)]
        score[name] = float(np.mean(losses))
        details[name] = {"delta_logloss": score[name], "deviation": float(np.std(losses))}
    notes = SearchNotes("permutation", price, repeats=repeats)
    return FieldScores(score, {n: s > price for n, s in score.items()}, details, notes)

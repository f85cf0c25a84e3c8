"""A random order of the fields: the floor under every other selector."""

import time

import torch

from recsys.data.split import Split
from recsys.frame.ctr import CTR
from recsys.selection.columns import field_generators
from recsys.selection.scores import FieldScores, check_fields
from recsys.selection.search import Recipe

__all__ = ["random_order"]


def random_order(model: CTR, train: Split, valid: Split, recipe: Recipe, seed: int) -> FieldScores:
    """score_i uniform in [0, 1), fixed by the seed and the field's name.

    Args:
        model: Tells the fields.
        train: Not used.
        valid: Not used.
        recipe: Not used.
        seed: Another seed is another order.

    Raises:
        ConfigError: If there are fewer than two fields.
    """
    started = time.perf_counter()
    check_fields(model.schema)
    names = model.schema.names
    drawn = zip(names, field_generators(names, seed), strict=True)
    score = {n: float(torch.rand((), generator=g)) for n, g in drawn}
    about = {"method": "random", "seconds": time.perf_counter() - started}
    return FieldScores(score, None, {n: {} for n in names}, about)

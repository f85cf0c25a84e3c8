"""A random order of the fields: the baseline of every other selector."""

import torch

from recsys.selection.columns import field_generators
from recsys.selection.figures import SearchNotes
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search

__all__ = ["random_order"]


def random_order(search: Search) -> FieldScores:
    """score_i uniform in [0, 1), fixed by the seed and the field's name.

    Args:
        search: Another seed gives another order.

    """
    names = search.model.schema.names
    drawn = zip(names, field_generators(names, search.seed), strict=True)
    score = {n: float(torch.rand((), generator=g)) for n, g in drawn}
    notes = SearchNotes("random")
    return FieldScores(score, None, {n: {} for n in names}, notes)

"""Columns that no model can use: constant, empty, a copy, or with a new value in every row. B rows."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import polars as pl

from recsys.data.inspection.codes import mean, named_as_code
from recsys.data.inspection.profile import Profile
from recsys.data.preparation.columns import collide
from recsys.errors import DataError

__all__ = ["useless"]

_UNIQUE = 0.99  # share of distinct values, of the rows with a value, from which a column counts as unique per row
_LEAST = 100  # with fewer rows a column is never unique per row


def _key(values: pl.Series) -> bytes:
    """A key that is equal for columns with the same values; whole numbers equal the same floats."""
    if (values.dtype.is_numeric() and not collide(values)) or values.dtype == pl.Boolean:
        values = values.cast(pl.Float64)
    kind = "number" if values.dtype.is_numeric() else str(values.dtype)
    return kind.encode() + hashlib.blake2b(values.hash(0).to_numpy().tobytes()).digest()


def _copies_label(values: pl.Series, p: Profile, label_B: np.ndarray) -> str:
    if p.missing or p.distinct != 2 or isinstance(values.dtype, pl.List | pl.Array):
        return ""
    code_B = values.rank("dense").to_numpy() - 1
    if (code_B == label_B).all() or (code_B == 1 - label_B).all():
        return "a copy of the label" if (code_B == label_B).all() else "the label turned round (1 − label)"
    return ""


def _unique(values: pl.Series, p: Profile, total: int) -> bool:
    """Whether it is an id unique per row: text, or whole numbers that count the rows or are named as codes."""
    if p.present < _LEAST or p.distinct < _UNIQUE * p.present:
        return False
    if values.dtype == pl.String:
        words = values.drop_nulls().head(10_000).str.count_matches(r"\w+|[|;]")
        return mean(words) < 4 or values.str.contains(r"^[0-9a-fA-F-]{32,36}$").all()
    if not values.dtype.is_integer():
        return False
    low: Any = values.min()
    high: Any = values.max()
    return named_as_code(p.name) or int(high) - int(low) + 1 <= 1.01 * total


def useless(
    frame: pl.DataFrame,
    facts: Mapping[str, Profile],
    label_B: np.ndarray,
    label: str,
    spared: Collection[str],
    total: int,
) -> tuple[list[str], dict[str, str]]:
    """Separate useful columns from useless ones.

    Args:
        frame: The sample.
        facts: Column → its profile.
        label_B: 0 and 1.
        label: The label's name.
        spared: Columns that may be unique per row: times, the group, the split.
        total: Rows of the whole table.

    Returns:
        The useful columns, and column → reason for the others.

    Raises:
        DataError: If no column is useful.
    """
    kept, dropped, first = [], {}, dict[bytes, str]()
    for name in (c for c in frame.columns if c != label):
        p, values = facts[name], frame[name]
        if p.distinct == 0:
            dropped[name] = "no row has a value"
        elif p.distinct == 1 and not p.missing:
            dropped[name] = f"constant: every row is {p.examples[0]}"
        elif why := _copies_label(values, p, label_B):
            dropped[name] = why
        elif (same := first.setdefault(_key(values), name)) != name:
            dropped[name] = f"an exact copy of {same}"
        elif name not in spared and _unique(values, p, total):
            dropped[name] = "an id unique per row"
        else:
            kept.append(name)
    if not dropped and not kept:
        raise DataError(f"the table has no column but the label {label!r}: give it columns to predict from")
    if not kept:
        raise DataError(f"no column is of use: {'; '.join(f'{c}: {w}' for c, w in list(dropped.items())[:5])}")
    return kept, dropped

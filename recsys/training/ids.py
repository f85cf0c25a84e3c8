"""Ids that no table has a row for: FBGEMM's kernels would read and write memory outside of the table.

R rows, L id columns.
"""

from collections.abc import Iterator

import numpy as np

from recsys.data.shards import Shards
from recsys.data.split import Split
from recsys.errors import DataError
from recsys.features.schema import Schema

__all__ = ["check_ids"]

_BLOCK = 1 << 16  # rows looked at together, so that they are still in the processor's cache for the next field
_SHOWN = 5  # most fields that a message names


def check_ids(split: Split, name: str) -> None:
    """Check that each id is in [−1, cardinality) of its field; −1 pads lists and is read as no id.

    Args:
        split: All its rows are read once.
        name: What the message calls it, such as `train`.

    Raises:
        DataError: If ids are outside: their count, the smallest and largest, and the first row, for each field.
    """
    wrong: dict[str, tuple[int, int, int, int]] = {}  # field → count, smallest, largest, first row
    fields = {f.name: f.cardinality for f in split.schema.sparse}
    for start, field, ids_RC in _blocks(split):
        low, high = int(ids_RC.min()), int(ids_RC.max())
        if low >= -1 and high < fields[field]:
            continue
        outside_R = ((ids_RC < -1) | (ids_RC >= fields[field])).any(1)
        count = int(((ids_RC < -1) | (ids_RC >= fields[field])).sum())
        before, least, most, first = wrong.get(field, (0, low, high, start + int(outside_R.argmax())))
        wrong[field] = (before + count, min(least, low), max(most, high), first)
    if wrong:
        raise DataError(_message(name, fields, wrong))


def _message(name: str, fields: dict[str, int], wrong: dict[str, tuple[int, int, int, int]]) -> str:
    each = [
        f"field {field!r} has {count:,} of them (ids {least:,} to {most:,}, expected −1 to {fields[field] - 1:,}; "
        f"first in row {first:,})"
        for field, (count, least, most, first) in list(wrong.items())[:_SHOWN]
    ]
    more = f" and {len(wrong) - _SHOWN} fields more" if len(wrong) > _SHOWN else ""
    return (
        f"{name}: ids out of range: {'; '.join(each)}{more}: the rows and schema.json do not belong together: remove "
        "the prepared folder and prepare again"
    )


def _blocks(split: Split) -> Iterator[tuple[int, str, np.ndarray]]:
    """Number of the first row, field, ids_RC; blocks without a row or a column are left out."""
    for start in range(0, len(split), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(split)))
        if isinstance(split, Shards):
            yield from ((start, f.name, split.ids(f.name)[rows]) for f in split.schema.sparse)
        else:
            yield from ((start, n, ids_RC) for n, ids_RC in _of_fields(split.schema, split.batch(rows).ids_BL.numpy()))


def _of_fields(schema: Schema, ids_RL: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    return ((name, ids_RL[:, c.start : c.stop]) for name, c in schema.id_columns.items())

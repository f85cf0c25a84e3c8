"""The raw rows that a bundle replays, out of the test split."""

from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.preparation.spool import PAD, Spool
from recsys.errors import DataError
from recsys.features.row_encoder import Row
from recsys.features.schema import Schema

__all__ = ["golden_rows"]

GOLDEN_ROWS = 256  # raw test rows kept for the golden batch of a bundle


def golden_rows(spool: Spool, code_B: np.ndarray, schema: Schema) -> list[Row]:
    """Raw rows of the test split, with the past-only columns that training saw."""
    rows_kept: list[Row] = []
    pasts = {f.name: f for f in schema.fields if f.past}
    wanted = [c for c in schema.raw_columns if c not in pasts]
    wanted += [c for c in ([schema.time] if schema.time and pasts else []) if c not in wanted]
    for number, batch in spool.samples:
        test = np.flatnonzero(code_B[number] == 2)
        rows = batch.select([c for c in wanted if c in batch.schema.names]).take(pa.array(test)).to_pylist()
        for row_number, row in zip(number[test].tolist(), rows, strict=True):
            row = {k: _plain(v) for k, v in row.items()}
            rows_kept.append(row | {n: _past_value(spool, f, row_number) for n, f in pasts.items()})
            if len(rows_kept) == GOLDEN_ROWS:
                return rows_kept
    if not rows_kept:
        raise DataError("no test row is among those kept for the golden batch: give the test split more rows")
    return rows_kept


def _past_value(spool: Spool, f: Any, row: int) -> Any:
    value = spool.read(f"past/{f.name}", row, row + 1)[0]
    if f.past.what != "last":
        return None if np.isnan(value) else float(value)
    names = spool.dictionary(f.past.of).values()
    kept = [None if code < PAD else names[int(code)] for code in value.tolist() if code != PAD]
    return [k if k is None else _typed(k, f.dtypes[0]) for k in kept]


def _typed(spelled: str, dtype: str) -> Any:
    """A spelled value as a request holds it."""
    return int(spelled) if dtype == "int" else spelled == "true" if dtype == "bool" else spelled


def _plain(value: Any) -> Any:
    """JSON's form of a raw value: NaN, in a list too, becomes None, a time its ISO text."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return None if value != value else value

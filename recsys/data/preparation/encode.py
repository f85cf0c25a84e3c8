"""Ranges of rows of the first pass → the same arrays for a model that `RowEncoder` makes.

B rows, L id columns, N dense columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recsys.data.preparation.fields import FieldConfig
from recsys.data.preparation.fit import column_of
from recsys.data.preparation.spool import ABSENT_CODE, NO_TIME, PAD, Spool
from recsys.features.encoders import MISSING, AnyEncoder, Bucket, Hash, Part, Piecewise, Scale, Vocabulary
from recsys.features.schema import Schema

__all__ = ["TableEncoder"]

_Reader = Callable[[int, int], np.ndarray]


class TableEncoder:
    """Encodes ranges of rows: looks codes up and scales numbers.

    Args:
        spool: The first pass, past-only columns included.
        configs: The fields' entries.
        schema: The fields.
        encoders: One for each field.
    """

    def __init__(
        self, spool: Spool, configs: Sequence[FieldConfig], schema: Schema, encoders: Mapping[str, AnyEncoder]
    ):
        self._spool = spool
        self._sparse: list[_Reader] = []
        self._dense: list[_Reader] = []
        by_name = {c.name: c for c in configs}
        for f in schema.fields:
            c = by_name[f.name]
            owner = by_name[c.table] if c.table else c
            column, encoder = column_of(c, owner), encoders[f.name]
            if isinstance(encoder, Scale | Piecewise | Bucket):
                readers = self._sparse if isinstance(encoder, Bucket) else self._dense
                readers.append(lambda a, b, column=column, encoder=encoder: encoder.numbers(spool.read(column, a, b)))
            elif isinstance(encoder, Part):
                self._sparse.append(self._part(column, encoder))
            elif isinstance(encoder, Vocabulary) or (isinstance(encoder, Hash) and c.past):
                self._sparse.append(self._codes(column, encoder, c.past.of if c.past else owner.inputs[0]))
            else:  # already ids
                self._sparse.append(lambda a, b, column=column: spool.read(column, a, b))
        for f in schema.fields:
            if f.weighted:
                self._dense.append(lambda a, b, column=f"weight/{f.name}": spool.read(column, a, b))

    def _part(self, column: str, encoder: Part) -> _Reader:
        def read(a: int, b: int) -> np.ndarray:
            us_B = self._spool.read(column, a, b)
            return encoder.instants(us_B, us_B != NO_TIME)

        return read

    def _codes(self, column: str, encoder: "Vocabulary | Hash", raw: str) -> _Reader:
        values = self._spool.dictionary(raw).values().to_list()
        table = np.empty(len(values) + 2, np.int32)
        table[[ABSENT_CODE - ABSENT_CODE, PAD - ABSENT_CODE]] = MISSING, PAD
        table[2:] = [encoder.id([v]) for v in values]
        return lambda a, b: table[self._spool.read(column, a, b) - ABSENT_CODE]

    def __call__(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """→ ids_BL int32 (−1 pads) and dense_BN float32 of rows start to stop."""
        rows = stop - start
        ids = [_block(read(start, stop), np.int32) for read in self._sparse]
        dense = [_block(read(start, stop), np.float32) for read in self._dense]
        return (
            np.concatenate(ids, 1) if ids else np.empty((rows, 0), np.int32),
            np.concatenate(dense, 1) if dense else np.empty((rows, 0), np.float32),
        )


def _block(x: np.ndarray, dtype: Any) -> np.ndarray:
    x = x[:, None] if x.ndim == 1 else x
    return x.astype(dtype, copy=False)

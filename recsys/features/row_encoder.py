"""Raw rows → the two arrays that a model takes. Serving and the checks of a bundle use it.

B rows, L ids of a field. Needs numpy and xxhash only.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.features.encoders import (
    UNSEEN,
    AnyEncoder,
    Bucket,
    Hash,
    Part,
    Piecewise,
    Scale,
    Vocabulary,
    Words,
    encoder_from_json,
    instant,
    number,
    text,
    wrong,
)  # fmt: skip
from recsys.features.numbers import Numbers
from recsys.features.past import Snapshot
from recsys.features.schema import Field, Schema
from recsys.files import Json, read_json

__all__ = ["ENCODERS_VERSION", "Row", "RowEncoder", "encoders_to_json", "read_encoders"]

ENCODERS_VERSION = 2  # version of encoders.json
_WITH_FREE_IDS = 3  # its version if a vocabulary has ids that no value has: an earlier recsys cannot read these
_READ = (1, ENCODERS_VERSION, _WITH_FREE_IDS)  # version 1 is the same without piecewise encoders

Row = dict[str, Any]
"""A raw row: column → value, as in JSON or a table."""
Rows = Sequence[Row]
_LISTS = (list, tuple, np.ndarray)
_Coder = Callable[[Row, Sequence[str | None]], int]
_FEW = 8  # up to so many rows, encoding a row at a time is faster
_USUAL: dict[str, type[str] | type[int]] = {"string": str, "int": int}  # dtype of a column → type of its values in JSON


def encoders_to_json(encoders: Mapping[str, AnyEncoder]) -> Json:
    """The content of encoders.json: its version, and the encoder of each field."""
    free = any(isinstance(e, Vocabulary) and None in e.values for e in encoders.values())
    version = _WITH_FREE_IDS if free else ENCODERS_VERSION
    return {"version": version, "encoders": {n: e.to_json() for n, e in encoders.items()}}


def read_encoders(folder: Path) -> dict[str, Json]:
    """The stored encoder of each field, from the encoders.json of prepared data or of a bundle.

    Raises:
        DataError: If there is no such file, or it is damaged or of another version.
    """
    mend = "prepare the data, or export the bundle, again with this recsys"
    return read_json(folder / "encoders.json", "encoders", mend, _READ, {"encoders": {str: dict}})["encoders"]


class RowEncoder:
    """Raw rows (dicts of strings, numbers, lists, None) → the two arrays that a model takes.

    Args:
        schema: The fields, in order.
        encoders: One for each field, by name.
        past: Supplies past-only columns missing from a row; None if every row must have them.
    """

    def __init__(self, schema: Schema, encoders: dict[str, AnyEncoder], past: Snapshot | None = None):
        self.schema, self.encoders, self.past = schema, encoders, past
        known = past.fields() if past else set()
        self._told = [f for f in schema.fields if f.past and f.name in known]
        named = {f.name for f in self._told}
        self._needed = [c for c in schema.raw_columns if c not in named]
        self._width = sum(f.max_length for f in schema.sparse)
        single = [f for f in schema.sparse if self._is_single(f)]  # one value, one id
        crossed = [f for f in single if isinstance(encoders[f.name], Hash)]
        spelled = {(c, t): None for f in crossed for c, t in zip(f.inputs, f.dtypes, strict=True)}  # each once a row
        self._spellers = [_speller(c, t) for c, t in spelled]
        self._coders = [self._coder(f, list(spelled)) for f in single]
        starts = [schema.id_columns[f.name].start for f in single]
        self._at = (
            slice(starts[0], starts[-1] + 1) if starts and starts == list(range(starts[0], starts[-1] + 1)) else starts
        )
        self._blocks = [f for f in schema.sparse if not self._is_single(f)]
        numeric = [f for f in schema.fields if f.kind == "numeric"]
        scales = [e for f in numeric if isinstance(e := encoders[f.name], Scale | Piecewise)]
        self._numbers = Numbers([f.inputs[0] for f in numeric], scales) if numeric else None
        self._numeric = schema.subset([f.name for f in numeric]).float_columns if numeric else {}
        self._floats, self._weighted = schema.numeric, [f for f in schema.fields if f.weighted]

    def _is_single(self, field: Field) -> bool:
        return field.kind == "categorical" and isinstance(self.encoders[field.name], Vocabulary | Hash)

    def _coder(self, field: Field, spelled: list[tuple[str, str]]) -> _Coder:
        """Make a function: row and its spelled values → id of a field with one value.

        For values of the usual types it returns the same as the encoder's `id`, but faster.

        Args:
            field: The field.
            spelled: Column and dtype of each spelled value.
        """
        encoder, column, dtype = self.encoders[field.name], field.inputs[0], field.dtypes[0]
        assert isinstance(encoder, Vocabulary | Hash)
        if isinstance(encoder, Hash):
            find, places = encoder.id, [spelled.index(part) for part in zip(field.inputs, field.dtypes, strict=True)]
            if len(places) == 1:
                return lambda _, values, place=places[0]: find((values[place],))
            pick = itemgetter(*places)
            return lambda _, values: find(pick(values))
        usual = _USUAL.get(dtype)
        if usual is None:
            return lambda row, _: encoder.id((text(row[column], dtype, column),))
        known = encoder.ids_by_value(usual).get

        def code(row: Row, _: Sequence[str | None]) -> int:
            value = row[column]
            return known(value, UNSEEN) if type(value) is usual else encoder.id((text(value, dtype, column),))

        return code

    @classmethod
    def load(cls, folder: Path, schema: Schema | None = None) -> "RowEncoder":
        """Read `schema.json`, `encoders.json` and `past.npz` from a folder; `schema` may have fewer fields."""
        schema = schema or Schema.load(folder / "schema.json")
        stored = read_encoders(folder)
        past = Snapshot.load(folder / "past.npz") if (folder / "past.npz").exists() else None
        return cls(schema, {f.name: encoder_from_json(stored[f.name]) for f in schema.fields}, past)

    def _block(self, field: Field, rows: Rows) -> np.ndarray:
        """The ids of one field that is not single → B×max_length; −1 pads a list."""
        encoder, column, dtype = self.encoders[field.name], field.inputs[0], field.dtypes[0]
        if isinstance(encoder, Bucket):
            return encoder.numbers(np.array([number(row[column], column) for row in rows]))[:, None]
        if isinstance(encoder, Part):
            instants_us = [instant(row[column], column) for row in rows]
            there_B = np.array([us is not None for us in instants_us])
            return encoder.instants(np.array([us or 0 for us in instants_us], np.int64), there_B)[:, None]
        if isinstance(encoder, Words):
            return _padded([encoder.ids(text(row[column], dtype, column)) for row in rows], field.max_length)
        assert isinstance(encoder, Vocabulary | Hash)
        lists = [self._list(field, row[column]) for row in rows]
        return _padded([[encoder.id((text(v, dtype, column),)) for v in vs] for vs in lists], field.max_length)

    def _list(self, field: Field, values: Any) -> Any:
        """The values of a raw list that are encoded, without those past the longest length."""
        if values is None or (field.separator and values == ""):
            return ()
        if field.separator:
            if not isinstance(values, str):
                raise wrong(field.inputs[0], f"a string of values with {field.separator!r} between", values)
            values = values.split(field.separator)
        elif not isinstance(values, _LISTS):
            raise wrong(field.inputs[0], "a list", values)
        return (values[::-1] if field.reverse else values)[: field.max_length]

    def _vector(self, field: Field, rows: Rows) -> np.ndarray:
        """One vector field → B×width float32; zeros (the mean) where missing."""
        scale, column = self.encoders[field.name], field.inputs[0]
        assert isinstance(scale, Scale)
        x_BC = np.full((len(rows), field.max_length), np.nan)
        for b, row in enumerate(rows):
            value = row[column]
            if value is None:
                continue
            if not isinstance(value, _LISTS) or len(value) != field.max_length:
                raise wrong(column, f"a list of {field.max_length} numbers", value)
            x_BC[b] = [number(v, column) for v in value]
        return scale.numbers(x_BC)

    def weights(self, field: Field, rows: Rows) -> np.ndarray:
        """The weights of a weighted field → B×max_length float32; 0 after the end of a list."""
        column, items = field.inputs[1], field.inputs[0]
        w_BL = np.zeros((len(rows), field.max_length), np.float32)
        for b, row in enumerate(rows):
            given, values = row[column] or (), row[items] or ()
            if not isinstance(given, _LISTS) or len(given) != len(values):
                raise wrong(column, f"a list of {len(values)} weights, one a value of {items!r}", row[column])
            w = [number(v, column) for v in (given[::-1] if field.reverse else given)[: field.max_length]]
            if any(not v >= 0 for v in w):
                raise wrong(column, "weights of at least 0", given)
            w_BL[b, : len(w)] = w
        return w_BL

    def _with_past(self, rows: Rows) -> Rows:
        """The rows, with the past-only columns that they lacked."""
        if self.past is None or all(f.name in row for f in self._told for row in rows):
            return rows
        filled = []
        for b, row in enumerate(rows):
            absent = [f for f in self._told if f.name not in row]
            try:
                values = {
                    f.name: self.past.value(f.name, f.past, row, self.schema.time or "") for f in absent if f.past
                }
            except DataError as error:
                raise DataError(f"row {b}: {error}") from error
            filled.append({**row, **values})
        return filled

    def __call__(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Encode rows, a field at a time: a batch costs an eighth of the same rows one by one.

        Returns:
            ids_BL int64, the sparse fields' columns side by side, padded with −1; and
            dense_BN float32: the numbers, then the weights of weighted fields.

        Raises:
            DataError: If a row lacks a column or holds a value of another type.
        """
        try:
            return self._encode(self._with_past(rows))
        except (KeyError, DataError) as error:
            for b, row in enumerate(rows):  # a missing column is reported before a wrong value
                if lacking := [c for c in self._needed if c not in row]:
                    raise DataError(
                        f"row {b}: expected a value for column {lacking[0]!r}, got none: send null if it is missing"
                    ) from error
            raise

    def _encode(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """`__call__` for rows that have all columns."""
        ids_BL = np.empty((len(rows), self._width), np.int64)
        if self._coders and rows:
            ids_BL[:, self._at] = self._codes(rows)
        for f in self._blocks:
            columns = self.schema.id_columns[f.name]
            ids_BL[:, columns.start : columns.stop] = self._block(f, rows)
        return ids_BL, self._dense(rows)

    def _codes(self, rows: Rows) -> np.ndarray:
        """The ids of all fields that are single."""
        coders, spellers = self._coders, self._spellers
        if len(rows) < _FEW:
            spelled = [[spell(row) for spell in spellers] for row in rows]
            return np.array([[code(row, v) for code in coders] for row, v in zip(rows, spelled, strict=True)])
        # A field at a time: one vocabulary after the other stays in the processor's cache.
        columns = [[spell(row) for row in rows] for spell in spellers]
        spelled = list(zip(*columns, strict=True)) if columns else [()] * len(rows)
        return np.array([[code(row, v) for row, v in zip(rows, spelled, strict=True)] for code in coders]).T

    def _dense(self, rows: Rows) -> np.ndarray:
        """→ dense_BN float32."""
        parts, scalars = [], self._numbers(rows) if self._numbers else None
        if scalars is not None and len(self._numeric) == len(self._floats):
            if not self._weighted:
                return scalars
            parts.append(scalars)
        else:
            for f in self._floats:
                columns = self._numeric.get(f.name)
                one = (
                    scalars[:, columns.start : columns.stop]
                    if scalars is not None and columns is not None
                    else self._vector(f, rows)
                )
                parts.append(one)
        parts += [self.weights(f, rows) for f in self._weighted]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(rows), 0), np.float32)


def _speller(column: str, dtype: str) -> Callable[[Row], str | None]:
    """Make a function: row → `text` of a column, which is faster for values of the usual types."""
    usual = _USUAL.get(dtype)

    def spell(row: Row) -> str | None:
        value = row[column]
        if type(value) is usual and value != "":
            return value if usual is str else str(value)
        return text(value, dtype, column)

    return spell


def _padded(lists: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """→ B×length int64, the first ids of each list; −1 pads."""
    ids_BL = np.full((len(lists), length), -1, np.int64)
    for b, ids in enumerate(lists):
        kept = ids[:length]
        ids_BL[b, : len(kept)] = kept
    return ids_BL

"""Encoders: one raw value → ids or a number. The same code runs in preparation and in serving.

Reserved ids: 0 is always "missing". A vocabulary keeps 1 for "unseen" (also the home of values
rarer than its minimum count, so that its row is trained). Needs numpy and xxhash only.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from recsys.errors import DataError
from recsys.schema import Field, Schema

__all__ = [
    "MISSING", "UNSEEN", "Bucket", "Encoder", "Hash", "RowEncoder", "Scale", "Vocabulary",
    "encoder_from_json", "hash_text", "number", "text",
]  # fmt: skip

MISSING = 0
UNSEEN = 1
_SEPARATOR = "\x1f"  # between the parts of a cross; it cannot come from a keyboard
_ABSENT = "\x00"  # a missing part of a cross


def _wrong(name: str, expected: str, value: object) -> DataError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    got = f"{type(value).__name__} {shown}"
    return DataError(f"column {name!r}: expected {expected} or null, got {got}: send the type it was trained on")


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def text(value: object, dtype: str, name: str) -> str | None:
    """The one spelling of a categorical value, or None where it is missing.

    None, NaN and the empty string are missing. Whole numbers spell as digits, so 7 and 7.0 of an
    `int` column are the same id.

    Raises:
        DataError: If the value is not of the column's type.
    """
    if _is_missing(value):
        return None
    if dtype == "string" and isinstance(value, str):
        return value
    if dtype == "bool" and isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    whole = isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer())
    if dtype == "int" and whole and not isinstance(value, bool):
        return str(int(value))  # type: ignore[arg-type]
    raise _wrong(
        name,
        {"string": "a string", "bool": "true or false"}.get(dtype, "a whole number"),
        value,
    )


def number(value: object, name: str) -> float:
    """A numeric value as float; NaN where it is missing.

    Raises:
        DataError: If the value is not a finite number.
    """
    if _is_missing(value):
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise _wrong(name, "a number", value)
    try:
        x = float(value)
    except OverflowError:  # an int that no float holds
        x = math.inf
    if math.isinf(x):
        raise _wrong(name, "a finite number", value)
    return x


def hash_text(value: str, seed: int = 0) -> int:
    """Stable 64-bit hash: xxh64 of the UTF-8 bytes. `hash_text("") == 0xef46db3751d8e999`."""
    return xxhash.xxh64_intdigest(value.encode("utf-8", "surrogatepass"), seed)  # JSON may hold half a pair


class Encoder(Protocol):
    """What a field's encoder can do. Ids for sparse fields, one float for numeric ones."""

    cardinality: int

    def to_json(self) -> dict[str, Any]: ...


class Vocabulary:
    """Known values in a fixed order: the i-th has id i + 2; anything else is `UNSEEN`.

    Args:
        values: The known spellings, unique.
    """

    def __init__(self, values: Sequence[str]):
        self.values = list(values)
        self._id = {v: i + 2 for i, v in enumerate(self.values)}
        self.cardinality = len(self.values) + 2

    def id(self, parts: Sequence[str | None]) -> int:
        """The id of one spelled value."""
        return MISSING if parts[0] is None else self._id.get(parts[0], UNSEEN)

    def to_json(self) -> dict[str, Any]:
        return {"encoder": "vocabulary", "values": self.values}


class Hash:
    """xxh64 of the spelled parts, joined, into `buckets` ids after the missing one.

    Args:
        buckets: At least 1. Two values share an id with probability 1 / buckets.
        seed: Another seed moves the collisions.
    """

    def __init__(self, buckets: int, seed: int = 0):
        self.buckets, self.seed = buckets, seed
        self.cardinality = buckets + 1

    def id(self, parts: Sequence[str | None]) -> int:
        """The id of a value, or of a cross of several; missing only if every part is."""
        if all(p is None for p in parts):
            return MISSING
        joined = _SEPARATOR.join(_ABSENT if p is None else p for p in parts)
        return 1 + hash_text(joined, self.seed) % self.buckets

    def to_json(self) -> dict[str, Any]:
        return {"encoder": "hash", "buckets": self.buckets, "seed": self.seed}


class Scale:
    """z = (g(x) − mean) / std with g(x) = x, or sign(x)·log1p(|x|); a missing value becomes 0.

    z is kept within ±1e6, which no training row reaches (|z| ≤ √rows): a wild request stays finite.

    Args:
        log: Whether g is the signed logarithm.
        mean: Mean of g over the training rows.
        std: Standard deviation of g over the training rows, > 0.
    """

    cardinality = 0

    def __init__(self, log: bool, mean: float, std: float):
        self.log, self.mean, self.std = log, mean, std

    def numbers(self, x_B: np.ndarray) -> np.ndarray:
        """Encode an array of float64 with NaN where missing → float32 of the same shape."""
        g_B = np.sign(x_B) * np.log1p(np.abs(x_B)) if self.log else x_B
        with np.errstate(over="ignore"):
            z_B = np.clip((g_B - self.mean) / self.std, -1e6, 1e6)
        return np.nan_to_num(z_B, nan=0.0).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"encoder": "scale", "log": self.log, "mean": self.mean, "std": self.std}


class Bucket:
    """id = 1 + count of boundaries ≤ x; `MISSING` where x is missing.

    Args:
        boundaries: Ascending; k boundaries make k + 1 buckets.
    """

    def __init__(self, boundaries: Sequence[float]):
        self.boundaries = np.asarray(boundaries, dtype=np.float64)
        self.cardinality = len(self.boundaries) + 2

    def numbers(self, x_B: np.ndarray) -> np.ndarray:
        """Encode an array of float64 with NaN where missing → int32 ids of the same shape."""
        ids_B = 1 + np.searchsorted(self.boundaries, x_B, side="right")
        return np.where(np.isnan(x_B), MISSING, ids_B).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        return {"encoder": "bucket", "boundaries": self.boundaries.tolist()}


def encoder_from_json(value: dict[str, Any]) -> "Vocabulary | Hash | Scale | Bucket":
    """Build the encoder that `to_json` described."""
    made = {"vocabulary": Vocabulary, "hash": Hash, "scale": Scale, "bucket": Bucket}
    return made[value["encoder"]](**{k: v for k, v in value.items() if k != "encoder"})


class RowEncoder:
    """Raw rows (dicts of strings, numbers, lists, None) → the two arrays that a model takes.

    Args:
        schema: The fields, in order.
        encoders: One for each field, by name.
    """

    def __init__(self, schema: Schema, encoders: "dict[str, Vocabulary | Hash | Scale | Bucket]"):
        self.schema, self.encoders = schema, encoders

    @classmethod
    def load(cls, folder: Path, schema: Schema | None = None) -> "RowEncoder":
        """Read `schema.json` and `encoders.json` from a folder; `schema` may be a subset."""
        schema = schema or Schema.load(folder / "schema.json")
        stored = json.loads((folder / "encoders.json").read_text())
        return cls(schema, {f.name: encoder_from_json(stored[f.name]) for f in schema.fields})

    def ids(self, field: Field, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """The ids of one field → B×max_length int64; −1 pads a list."""
        encoder, column, dtype = self.encoders[field.name], field.inputs[0], field.dtypes[0]
        if isinstance(encoder, Bucket):
            return encoder.numbers(np.array([number(row[column], column) for row in rows]))[:, None]
        assert isinstance(encoder, Vocabulary | Hash)
        if field.kind == "multi":
            return self._lists(field, encoder, rows)
        if len(field.inputs) == 1:
            made = [encoder.id((text(row[column], dtype, column),)) for row in rows]
        else:
            named = tuple(zip(field.inputs, field.dtypes, strict=True))
            made = [encoder.id([text(row[c], t, c) for c, t in named]) for row in rows]
        return np.array(made, np.int64)[:, None]

    def _lists(self, field: Field, encoder: "Vocabulary | Hash", rows: Sequence[dict[str, Any]]) -> np.ndarray:
        column, dtype = field.inputs[0], field.dtypes[0]
        ids_BL = np.full((len(rows), field.max_length), -1, dtype=np.int64)
        for b, row in enumerate(rows):
            values = row[column]
            if values is None:
                continue
            if not isinstance(values, list | tuple | np.ndarray):
                raise _wrong(column, "a list", values)
            kept = [encoder.id([text(v, dtype, column)]) for v in values[: field.max_length]]
            ids_BL[b, : len(kept)] = kept
        return ids_BL

    def floats(self, field: Field, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """One numeric or vector field → B×width float32; zeros (the mean) where missing."""
        scale, column = self.encoders[field.name], field.inputs[0]
        assert isinstance(scale, Scale)
        if field.kind == "numeric":
            return scale.numbers(np.array([number(row[column], column) for row in rows]))[:, None]
        x_BC = np.full((len(rows), field.max_length), np.nan)
        for b, row in enumerate(rows):
            value = row[column]
            if value is None:
                continue
            if not isinstance(value, list | tuple | np.ndarray) or len(value) != field.max_length:
                raise _wrong(column, f"a list of {field.max_length} numbers", value)
            x_BC[b] = [number(v, column) for v in value]
        return scale.numbers(x_BC)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Encode rows, a field at a time: a batch costs an eighth of its rows one by one.

        Returns:
            ids_BL int64, the sparse fields' columns side by side, padded with −1; and
            dense_BN float32.

        Raises:
            DataError: If a row lacks a column or holds a value of another type.
        """
        for c in self.schema.raw_columns:
            for b, row in enumerate(rows):
                if c not in row:
                    raise DataError(f"row {b}: expected a value for column {c!r}, got none: send null if it is missing")
        ids = [self.ids(f, rows) for f in self.schema.sparse]
        dense = [self.floats(f, rows) for f in self.schema.numeric]
        return (
            np.concatenate(ids, axis=1).astype(np.int64) if ids else np.empty((len(rows), 0), np.int64),
            np.concatenate(dense, axis=1) if dense else np.empty((len(rows), 0), np.float32),
        )

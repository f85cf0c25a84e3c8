"""Fit encoders on the training rows and encode whole columns with the very code serving uses.

A column is reduced to its distinct values; each is encoded once by the scalar encoder and the
result is gathered, so preparation and serving cannot disagree.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.encoding import Bucket, Hash, Scale, Vocabulary, text
from recsys.errors import ConfigError, DataError
from recsys.schema import Field, Schema

__all__ = ["FieldConfig", "encode", "fit"]

_ENCODINGS = {
    "categorical": ("vocabulary", "hash", "bucket"),
    "multi": ("vocabulary", "hash"),
    "numeric": ("standardise", "log"),
    "vector": ("standardise", "log"),
}


@dataclass(frozen=True)
class FieldConfig:
    """One entry of `data.fields`.

    Args:
        name: The field's name.
        kind: `categorical`, `multi`, `numeric` or `vector` (a list of floats of one length).
        encoding: `vocabulary` | `hash` | `bucket` (a number cut at quantiles) for categorical,
            `vocabulary` | `hash` for multi, `standardise` | `log` (then standardised) for the others.
        inputs: Raw columns; by default the one named like the field. Several make a cross.
        min_count: A vocabulary keeps values seen at least this often in training rows.
        buckets: Ids of a hash, or quantiles of a bucket.
        seed: Of the hash.
        max_length: Longest list of a multi-value field that is kept.

    Raises:
        ConfigError: If the kind or encoding is unknown, or they do not go together.
    """

    name: str
    kind: str = "categorical"
    encoding: str = ""
    inputs: tuple[str, ...] = ()
    min_count: int = 2
    buckets: int = 0
    seed: int = 0
    max_length: int = 20

    def __post_init__(self) -> None:
        at = f"data.fields.{self.name}"
        if self.kind not in _ENCODINGS:
            raise ConfigError(f"{at}.kind: expected one of {', '.join(_ENCODINGS)}, got {self.kind!r}: change it")
        if isinstance(self.inputs, str):
            raise ConfigError(f"{at}.inputs: expected a list of columns, got {self.inputs!r}: write [{self.inputs}]")
        for key, least in (("min_count", 1), ("buckets", 0), ("seed", 0), ("max_length", 1)):
            value: object = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{at}.{key}: expected a whole number of at least {least}, got {value!r}: change it")
        allowed = _ENCODINGS[self.kind]
        object.__setattr__(self, "inputs", tuple(self.inputs) or (self.name,))
        object.__setattr__(self, "encoding", self.encoding or allowed[0])
        if self.encoding not in allowed:
            raise ConfigError(f"{at}.encoding: {self.kind} takes {', '.join(allowed)}, got {self.encoding!r}")
        if self.encoding in ("hash", "bucket") and self.buckets < 2:
            raise ConfigError(f"{at}.buckets: expected at least 2 for {self.encoding}, got {self.buckets}: set it")
        if len(self.inputs) > 1 and self.encoding != "hash":
            raise ConfigError(f"{at}: a cross of {len(self.inputs)} columns must have encoding: hash")


def _dtype(column: pa.ChunkedArray, name: str) -> str:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    raise DataError(f"column {name!r}: expected strings, numbers, booleans or lists of them, got {kind}: cast it")


def _values(table: pa.Table, column: str) -> pa.ChunkedArray:
    values = table[column]
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _distinct(values: pa.ChunkedArray, dtype: str, name: str) -> tuple[list[str | None], np.ndarray]:
    """The distinct spellings of a column and, for each row, which it has."""
    coded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    spelled = [text(v, dtype, name) for v in coded.dictionary.to_pylist()]
    return spelled, coded.indices.to_numpy()


def _numbers(table: pa.Table, column: str, dtype: str) -> np.ndarray:
    if dtype not in ("int", "float"):
        raise DataError(f"column {column!r}: expected numbers, got {dtype}: set its kind to categorical, or cast it")
    x_B = _values(table, column).cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    if np.isinf(x_B).any():
        raise DataError(f"column {column!r}: expected finite numbers, got infinity: mend or null those rows")
    return x_B


def _vector_width(table: pa.Table, column: str) -> int:
    widths = pc.unique(pc.list_value_length(_lists(table, column))).drop_null().to_pylist()
    if len(widths) != 1:
        raise DataError(f"column {column!r}: expected vectors of one length, got lengths {widths[:5]}: pad or cut them")
    return int(widths[0])


def _lists(table: pa.Table, column: str) -> pa.Array:
    values = table[column].combine_chunks()
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise DataError(f"column {column!r}: expected lists, got {values.type}: set another kind, or make lists")
    return values


def _vectors(table: pa.Table, column: str, width: int) -> np.ndarray:
    """→ B×width float64, NaN where a row has no vector."""
    lists = _lists(table, column)
    there_B = pc.is_valid(lists).to_numpy(zero_copy_only=False)
    length_B = pc.list_value_length(lists).drop_null().to_numpy(zero_copy_only=False)
    if (length_B != width).any():
        raise DataError(
            f"column {column!r}: expected vectors of {width} floats, got {set(length_B.tolist())}: mend them"
        )
    flat = _numbers(pa.table({column: pc.list_flatten(lists)}), column, "float")
    x_BC = np.full((len(lists), width), np.nan)
    x_BC[there_B] = flat.reshape(-1, width)
    return x_BC


def _vocabulary(values: pa.ChunkedArray, dtype: str, config: FieldConfig) -> Vocabulary:
    if config.kind == "multi":
        values = pa.chunked_array([pc.list_flatten(values.combine_chunks())])
    spelled, which_B = _distinct(values, dtype, config.inputs[0])
    counts: Counter[str | None] = Counter()  # two values may share a spelling: 0.0 and −0.0
    for s, n in zip(spelled, np.bincount(which_B, minlength=len(spelled)).tolist(), strict=True):
        counts[s] += n
    known = [(-n, s) for s, n in counts.items() if s is not None and n >= config.min_count]
    return Vocabulary([s for _, s in sorted(known)])


def fit(table: pa.Table, config: FieldConfig) -> tuple[Field, Vocabulary | Hash | Scale | Bucket]:
    """Fit one field's encoder on the training rows.

    Args:
        table: Training rows only.
        config: The field's entry in the configuration.

    Returns:
        The field as the schema keeps it, and its encoder.

    Raises:
        DataError: If a column is absent or of a type that the encoding cannot take.
    """
    for column in config.inputs:
        if column not in table.column_names:
            have = ", ".join(table.column_names)
            raise DataError(f"data.fields.{config.name}: expected a column {column!r}, the table has {have}: rename it")
    dtypes = [_dtype(table[c], c) for c in config.inputs]
    _check_shapes(table, config)
    length = config.max_length if config.kind == "multi" else 1
    if config.kind in ("numeric", "vector") or config.encoding == "bucket":
        if config.kind == "vector":
            length = _vector_width(table, config.inputs[0])
            numbers_B = _vectors(table, config.inputs[0], length).ravel()
        else:
            numbers_B = _numbers(table, config.inputs[0], dtypes[0])
        encoder = _fit_number(numbers_B, config)
        dtypes = ["float"]
    else:  # a float column of whole numbers (integers with gaps) is spelled as integers
        dtypes = ["int" if d == "float" else d for d in dtypes]
        if config.encoding == "hash":
            encoder = Hash(config.buckets, config.seed)
        else:
            encoder = _vocabulary(_values(table, config.inputs[0]), dtypes[0], config)
    kind: Any = config.kind
    return Field(config.name, kind, config.inputs, tuple(dtypes), encoder.cardinality, length), encoder


def _check_shapes(table: pa.Table, config: FieldConfig) -> None:
    lists = config.kind in ("multi", "vector")
    for column in config.inputs:
        kind = table[column].type
        if lists != (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            wanted, mend = ("lists", "categorical") if lists else ("single values", "multi or vector")
            raise DataError(f"column {column!r}: {config.kind} expected {wanted}, got {kind}: set kind to {mend}")


def _fit_number(x_B: np.ndarray, config: FieldConfig) -> Scale | Bucket:
    x_B = x_B[~np.isnan(x_B)]
    if len(x_B) == 0:
        raise DataError(f"column {config.inputs[0]!r}: expected numbers, got none but missing: drop the field")
    if config.encoding == "bucket":
        return Bucket(np.unique(np.quantile(x_B, np.linspace(0, 1, config.buckets + 1)[1:-1])).tolist())
    g_B = np.sign(x_B) * np.log1p(np.abs(x_B)) if config.encoding == "log" else x_B
    mean, std = float(g_B.mean()), float(g_B.std())
    rounding = 1e-12 * max(1.0, abs(mean))  # a constant column's deviation need not be exactly 0
    return Scale(config.encoding == "log", mean, std if std > rounding else 1.0)


def _encode_categorical(table: pa.Table, field: Field, encoder: Vocabulary | Hash) -> np.ndarray:
    parts, code_B = [], np.zeros(table.num_rows, dtype=np.int64)
    for column, dtype in zip(field.inputs, field.dtypes, strict=True):
        spelled, which_B = _distinct(_values(table, column), dtype, column)
        parts.append(spelled)
        code_B = code_B * len(spelled) + which_B
    seen, which_B = np.unique(code_B, return_inverse=True)
    ids = np.empty(len(seen), dtype=np.int32)
    for i, code in enumerate(seen.tolist()):
        chosen: list[str | None] = []
        for spelled in reversed(parts):
            code, digit = divmod(code, len(spelled))
            chosen.append(spelled[digit])
        ids[i] = encoder.id(chosen[::-1])
    return ids[which_B][:, None]


def _encode_multi(table: pa.Table, field: Field, encoder: Vocabulary | Hash) -> np.ndarray:
    lists = _lists(table, field.inputs[0])
    spelled, which = _distinct(pa.chunked_array([pc.list_flatten(lists)]), field.dtypes[0], field.inputs[0])
    ids = np.array([encoder.id([s]) for s in spelled], dtype=np.int32)[which]
    length_B = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    position = np.arange(len(ids)) - np.repeat(np.cumsum(length_B) - length_B, length_B)
    row = np.repeat(np.arange(len(lists)), length_B)
    out_BL = np.full((len(lists), field.max_length), -1, dtype=np.int32)
    kept = position < field.max_length
    out_BL[row[kept], position[kept]] = ids[kept]
    return out_BL


def encode(
    table: pa.Table,
    schema: Schema,
    encoders: dict[str, Vocabulary | Hash | Scale | Bucket],
) -> tuple[np.ndarray, np.ndarray]:
    """Encode every row.

    Returns:
        ids_BL int32 (−1 pads multi-value fields) and dense_BN float32, as `RowEncoder` makes them.
    """
    ids: Sequence[np.ndarray] = [_encode_sparse(table, f, encoders[f.name]) for f in schema.sparse]
    dense = []
    for f in schema.numeric:
        scale = encoders[f.name]
        assert isinstance(scale, Scale)
        column = f.inputs[0]
        x_BC = (
            _vectors(table, column, f.max_length) if f.kind == "vector" else _numbers(table, column, "float")[:, None]
        )
        dense.append(scale.numbers(x_BC))
    rows = table.num_rows
    return (
        np.concatenate(ids, axis=1) if ids else np.empty((rows, 0), np.int32),
        np.concatenate(dense, axis=1) if dense else np.empty((rows, 0), np.float32),
    )


def _encode_sparse(table: pa.Table, field: Field, encoder: Vocabulary | Hash | Scale | Bucket) -> np.ndarray:
    if isinstance(encoder, Bucket):
        return encoder.numbers(_numbers(table, field.inputs[0], "float"))[:, None]
    assert isinstance(encoder, Vocabulary | Hash)
    make = _encode_multi if field.kind == "multi" else _encode_categorical
    return make(table, field, encoder)

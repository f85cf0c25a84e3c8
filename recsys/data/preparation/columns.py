"""Arrow columns → spelled text, numbers and times, a batch at a time.

Each function does for a whole column what `recsys.features.values` does for one value, and calls that for the
message if a value is invalid. B rows, C floats a row.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import polars_hash  # noqa: F401  # pyright: ignore[reportUnusedImport]  (gives expressions `nchash`)
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError
from recsys.features.encoders import ABSENT, MISSING, SEPARATOR, instant, text
from recsys.features.values import END_US, FIRST_US, out_of_range

__all__ = [
    "collide",
    "distinct_values",
    "dtype_of",
    "flat_lists",
    "floats",
    "hashed",
    "instants",
    "is_list",
    "spelled",
    "too_large",
    "vectors",
]

_FAR = 9 * 10**12  # seconds; more overflow as microseconds
_EXACT = 2**53  # floats past it do not hold every whole number
_APART = 0.99  # least share of a column's distinct whole numbers that stay distinct as floats, or it holds codes


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def dtype_of(kind: pa.DataType, name: str) -> str:
    """`string`, `int`, `float`, `bool` or `time`: the type of a column's values, or of the values in its lists.

    Raises:
        DataError: If the type is none of these.
    """
    kind = kind.value_type if is_list(kind) else kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return "string"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    raise DataError(
        f"column {name!r}: expected strings, numbers, booleans, times or lists of them, got {kind}: cast it"
    )


def _first(values: pl.Series, wrong_B: pl.Series) -> Any:
    return values.filter(wrong_B)[0]


def spelled(values: pl.Series, dtype: str, name: str) -> pl.Series:
    """`recsys.features.encoders.text` of every value → strings, null where missing.

    Raises:
        DataError: If a value is not of the type.
    """
    if dtype == "string":
        strings = values.cast(pl.String)
        return strings.zip_with(strings != "", pl.Series([None], dtype=pl.String)) if (strings == "").any() else strings
    if dtype == "bool":
        return values.cast(pl.String)
    if dtype == "int" and values.dtype.is_float():
        values = values.fill_nan(None)
        whole = values.cast(pl.Int64, strict=False)
        wrong = values.is_not_null() & (whole.is_null() | (whole.cast(pl.Float64) != values)).fill_null(True)
        if wrong.any():
            value = _first(values, wrong)
            text(value, dtype, name)  # raises with the reason, unless the value is a whole number past 2⁶³
            raise DataError(f"column {name!r}: {value:g} is past 2⁶³, where floats lose digits: read it as a string")
        values = whole
    elif dtype == "int" and not values.dtype.is_integer() and values.dtype != pl.Null:
        text(values.drop_nulls()[0], dtype, name)
    elif dtype != "int":
        raise DataError(f"column {name!r}: expected strings, whole numbers or booleans, got {dtype}: set another kind")
    return values.cast(pl.String)


def distinct_values(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """→ the distinct values of a column, and index_B of each row's among them; past the last where null."""
    coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    index_B = coded.indices.fill_null(len(coded.dictionary)) if coded.indices.null_count else coded.indices
    return coded.dictionary, index_B.to_numpy()


def collide(values: pl.Series) -> bool:
    """Whether whole numbers past 2⁵³ become the same floats, so that they can only be codes.

    True if over one in a hundred of the distinct values becomes the same float as another.
    """
    if not values.dtype.is_integer() or values.null_count() == len(values):
        return False
    low: Any = values.min()
    high: Any = values.max()
    if low >= -_EXACT and high <= _EXACT:
        return False
    return values.cast(pl.Float64).n_unique() < _APART * values.n_unique()


def hashed(parts: Sequence[pl.Series], buckets: int, seed: int) -> np.ndarray:
    """`Hash.id` of every row → int32 ids.

    Args:
        parts: Spelled columns of a cross, one or more.
        buckets: Ids after the missing one.
        seed: Seed of the hash.
    """
    frame = pl.DataFrame({str(i): p for i, p in enumerate(parts)})
    whole = pl.col("0") if len(parts) == 1 else pl.concat_str(pl.all().fill_null(ABSENT), separator=SEPARATOR)
    key = frame.select(k=pl.when(~pl.all_horizontal(pl.all().is_null())).then(whole))["k"]
    code = key.to_frame().select(pl.col("k").nchash.xxhash64(seed=seed))["k"]  # type: ignore[attr-defined]  # polars-hash adds it
    ids = (code % buckets + 1).cast(pl.Int32)
    return ids.zip_with(key.is_not_null(), pl.Series([MISSING], dtype=pl.Int32)).to_numpy()


def floats(values: pa.Array, name: str) -> np.ndarray:
    """→ float64, NaN where missing.

    Raises:
        DataError: If a value is not a finite number, or if floats cannot tell whole numbers apart.
    """
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        dtype = dtype_of(kind, name)
        raise DataError(f"column {name!r}: expected numbers, got {dtype}: set its kind to categorical, or cast it")
    if pa.types.is_integer(kind) and collide(pl.Series(values)):
        raise too_large(name)
    x_B = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if np.isinf(x_B).any():
        raise DataError(f"column {name!r}: expected finite numbers, got infinity: mend or null those rows")
    return x_B


def too_large(name: str) -> DataError:
    """The error of a numeric column that `collide` refuses."""
    return DataError(
        f"column {name!r}: expected numbers within ±2^53 (9,007,199,254,740,992), got whole numbers past it that "
        "become the same float: set its kind to categorical, or subtract their least value"
    )


def flat_lists(values: pa.Array, name: str, separator: str = "") -> tuple[pa.Array, np.ndarray]:
    """→ the values of all lists, end to end, and length_B.

    Raises:
        DataError: If the column holds no lists, or, with a separator, no strings.
    """
    if separator:
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            raise DataError(
                f"column {name!r}: expected strings of values with {separator!r} between, got {values.type}"
            )
        blank = pc.equal(values, "")
        values = pc.split_pattern(pc.if_else(blank, pa.scalar(None, values.type), values), separator)
    elif not is_list(values.type):
        raise DataError(f"column {name!r}: expected lists, got {values.type}: set another kind, or make lists")
    length_B = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    return pc.list_flatten(values), length_B.astype(np.int64)


def vectors(values: pa.Array, width: int, name: str) -> np.ndarray:
    """→ B×width float64, NaN where a row has no vector.

    Raises:
        DataError: If a vector has another length.
    """
    there_B = pc.is_valid(values).to_numpy(zero_copy_only=False)
    flat, length_B = flat_lists(values, name)
    if (length_B[there_B] != width).any():
        widths = sorted({width, *length_B[there_B].tolist()})
        raise DataError(f"column {name!r}: expected vectors of one length, got lengths {widths[:5]}: pad or cut them")
    x_BC = np.full((len(values), width), np.nan)
    x_BC[there_B] = floats(flat, name).reshape(-1, width)
    return x_BC


def instants(values: pa.Array, name: str, first: int | None = 0) -> tuple[np.ndarray, np.ndarray]:
    """`recsys.features.encoders.instant` of every value → int64 microseconds and where there is one.

    Args:
        values: The column.
        name: Its name.
        first: Number of the first row, for messages; None if messages should name no row.

    Raises:
        DataError: If a value is not a time, or lies outside 1900 to 2200; the message names its row.
    """
    us_B, there_B = _microseconds(values, name, first)
    far_B = there_B & ((us_B < FIRST_US) | (us_B >= END_US))
    if far_B.any():
        b, numeric = int(np.argmax(far_B)), pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        try:
            if numeric:
                instant(values[b].as_py(), name)  # raises with the reason
            raise out_of_range(int(us_B[b]), np.datetime64(int(us_B[b]), "us"), name)
        except DataError as error:
            raise _in_row(first, b, error) from error
    return us_B, there_B


def _in_row(first: int | None, b: int, error: DataError) -> DataError:
    return error if first is None else DataError(f"row {first + b}: {error}")


def _microseconds(values: pa.Array, name: str, first: int | None) -> tuple[np.ndarray, np.ndarray]:
    there_B = pc.is_valid(values).to_numpy(zero_copy_only=False)
    kind = values.type
    try:
        if pa.types.is_boolean(kind):
            raise pa.ArrowInvalid("booleans")
        if pa.types.is_floating(kind) or pa.types.is_integer(kind):
            x_B = values.to_numpy(zero_copy_only=False)
            there_B = there_B & ~np.isnan(x_B)
            us_B = np.where(there_B, np.clip(x_B, -_FAR, _FAR), 0).astype(np.int64) * 1_000_000
        else:
            us_B = pc.cast(values, pa.timestamp("us"), safe=False).cast(pa.int64()).fill_null(0)
            us_B = us_B.to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return _each_instant(values, name, first)
        reason = str(error).splitlines()[0]
        raise DataError(
            f"time {name!r}: expected timestamps like 2017-02-01 12:30:00 or seconds since 1970, "
            f"got {reason}: mend those rows"
        ) from error
    return us_B, there_B


def _each_instant(values: pa.Array, name: str, first: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Read text that Arrow cannot read as a whole column: other ISO forms, zones, blanks."""
    coded = pc.dictionary_encode(values, null_encoding="encode")
    which_B, known = coded.indices.to_numpy(), []
    for i, value in enumerate(coded.dictionary.to_pylist()):
        try:
            known.append(instant(value, name))
        except DataError as error:
            raise _in_row(first, int(np.argmax(which_B == i)), error) from error
    us = np.array([0 if k is None else k for k in known], np.int64)
    given = np.array([k is not None for k in known])
    return us[which_B], given[which_B]

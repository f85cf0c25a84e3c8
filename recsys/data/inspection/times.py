"""Which columns hold times: those that preparation reads as times, and those that only look like it."""

from typing import Any

import polars as pl

from recsys.data.inspection.codes import mean, named_as_code
from recsys.data.preparation.columns import instants
from recsys.errors import DataError
from recsys.features.values import UNITS

__all__ = ["NAMES", "as_time", "days", "read_times", "untaken"]

NAMES = ("timestamp", "time", "ts", "event_time", "datetime", "date", "created_at", "at", "unixtime")  # the best first
_ENDS = ("_at", "_ts", "_time", "_date", "timestamp", "datetime")
_FIRST, _NAMED_FIRST, _LAST = 1_000_000_000, 315_532_800, 2_150_000_000  # seconds: 2001; 1980 if the name says so; 2038
_DATE = r"""(?x)^\s*(
    \d{4}[-/.]\d\d?[-/.]\d\d?                                    # 2025-03-01, 2025/3/1
    | \d\d?[-/.]\d\d?[-/.]\d{4}                                  # 03/01/2025
    | ([A-Za-z]{3,9},?\ )?\d\d?[-\ ][A-Za-z]{3,9}[-\ ]\d{2,4}    # Sat, 1 Mar 2025
    | ([A-Za-z]{3,9}\ )?[A-Za-z]{3,9}\ \d\d?,?\ (\d\d:|\d{4})    # Sat Mar 1 10:00:00 2025, March 1, 2025
)"""
_HEAD = 1000  # rows that decide whether the rest is read


def days(moments: pl.Series) -> float:
    """Days from the first moment to the last."""
    first: Any = moments.min()
    last: Any = moments.max()
    return (last - first).total_seconds() / 86400


def read_times(values: pl.Series) -> pl.Series:
    """The times of a column, UTC, as preparation reads them.

    Raises:
        DataError: If preparation does not read a value as a time.
    """
    us_B, there_B = instants(values.alias("").to_arrow(), values.name, None)
    return pl.Series(values.name, us_B).set(pl.Series(~there_B), None).cast(pl.Datetime("us"))


def _since_1970(values: pl.Series, scale: int) -> bool:
    """Whether all numbers are likely times in units of 1/scale seconds."""
    numbers = values.fill_nan(None) if values.dtype.is_float() else values
    low: Any = numbers.min()
    high: Any = numbers.max()
    if low is None or named_as_code(values.name):
        return False
    name = values.name.lower()
    first = _NAMED_FIRST if name in NAMES or name.endswith(_ENDS) else _FIRST
    return low >= first * scale and high < _LAST * scale


def as_time(values: pl.Series) -> pl.Series | None:
    """The values as times; None unless preparation reads all as times, and numbers are seconds from 2001 to 2038.

    Numbers may be seconds from 1980 on if the column has one of `NAMES`.
    """
    if values.dtype.is_integer() or values.dtype.is_float():
        plausible = _since_1970(values, 1)
    else:
        plausible = isinstance(values.dtype, pl.String | pl.Date | pl.Datetime) and values.null_count() < len(values)
    if not plausible:
        return None
    try:
        if values.dtype == pl.String:
            read_times(values.drop_nulls().head(_HEAD))
        return read_times(values)
    except DataError:
        return None


def untaken(values: pl.Series) -> str:
    """Why a column that looks like times is not read as times; "" if it is, or if it does not look like times."""
    if values.dtype.is_numeric() and not values.dtype.is_decimal():
        unit = next((u for u, scale in UNITS.items() if _since_1970(values, scale)), None)
        if unit:
            return f"not read as a time: these look like {unit}: divide by {UNITS[unit]:,} to get seconds since 1970"
        if _digits_of_dates(values):
            return "not read as a time: these look like dates, but numbers are seconds since 1970: write 2017-02-01"
        return ""
    dated = isinstance(values.dtype, pl.Date | pl.Datetime)
    if values.dtype == pl.String:
        head = values.drop_nulls().head(_HEAD)
        dated = len(head) > 0 and mean(head.str.contains(_DATE)) >= 0.9
    if not dated or as_time(values) is not None or values.null_count() == len(values):
        return ""
    try:
        read_times(values)
    except DataError as error:
        return f"not read as a time: {error}"
    return ""


def _digits_of_dates(values: pl.Series) -> bool:
    """Whether whole numbers are the digits of dates, such as 20170201."""
    present = values.drop_nulls().unique()
    if not values.dtype.is_integer() or named_as_code(values.name) or len(present) < 3:
        return False
    digits = present.cast(pl.String)
    return bool(digits.str.contains(r"^(19|20)\d{6}$").all()) and as_time(digits) is not None

"""One raw value → its spelling, its number, its time or its hash. Needs xxhash and numpy only."""

import math
import reprlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import xxhash

from recsys.errors import DataError

__all__ = [
    "ABSENT", "END_US", "FIRST_US", "SEPARATOR", "UNITS", "hash_text", "instant", "joined", "number", "out_of_range",
    "text", "wrong",
]  # fmt: skip

SEPARATOR = "\x1f"  # between the parts of a cross; it cannot come from a keyboard
ABSENT = "\x00"  # a missing part of a cross
_EPOCH = datetime(1970, 1, 1)
_LIKELY_US = 315_532_800_000_000  # 1980; a unit is suggested only for times after it
_FAR = 10**19  # seconds; larger numbers are treated as this
FIRST_US, END_US = -2_208_988_800_000_000, 7_258_118_400_000_000  # microseconds since 1970 of 1900 and of 2200
UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}  # in a second; people mistake these


def wrong(name: str, expected: str, value: object, mend: str = "send the type it was trained on") -> DataError:
    """The error for a value that does not have its column's type."""
    whole = value[:60] if isinstance(value, str) else value  # only the start is shown
    shown = reprlib.repr(whole) if isinstance(whole, list | tuple | dict) else repr(whole)  # a list may nest deeply
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    got = f"{type(value).__name__} {shown}"
    return DataError(f"column {name!r}: expected {expected} or null, got {got}: {mend}")


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def text(value: object, dtype: str, name: str) -> str | None:
    """The unique spelling of a categorical value, or None if it is missing.

    None, NaN and the empty string are missing. Whole numbers are spelled as digits, so that 7 and 7.0
    of an `int` column have the same id.

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
        return str(int(value))  # type: ignore[arg-type]  # `whole` has checked it
    raise wrong(
        name,
        {"string": "a string", "bool": "true or false"}.get(dtype, "a whole number"),
        value,
    )


def number(value: object, name: str) -> float:
    """A numeric value as float; NaN if it is missing.

    Raises:
        DataError: If the value is not a finite number.
    """
    if _is_missing(value):
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise wrong(name, "a number", value)
    try:
        x = float(value)
    except OverflowError:  # an int too large for a float
        x = math.inf
    if math.isinf(x):
        raise wrong(name, "a finite number", value)
    return x


def out_of_range(us: int, value: object, name: str) -> DataError:
    """The error for a time outside 1900 to 2200, such as milliseconds that are read as seconds.

    Args:
        us: The time in microseconds since 1970.
        value: The value given.
        name: Name of the column.
    """
    unit = next((u for u, k in UNITS.items() if us >= END_US and _LIKELY_US <= us // k < END_US), None)
    shown = str(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return DataError(
        f"column {name!r}: expected a time from 1900 to 2200, as text or as seconds since 1970, got {shown}: "
        + (f"these look like {unit}: send seconds" if unit else "send the year it happened in, or null")
    )


def instant(value: object, name: str) -> int | None:
    """Microseconds since 1970 (UTC), or None if the value is missing.

    It takes ISO text (a zone may be spelled ` UTC`), seconds since 1970, and datetimes; a time without a zone is UTC.

    Raises:
        DataError: If it is none of these, or lies outside 1900 to 2200.
    """
    if _is_missing(value):
        return None
    given = value
    try:
        if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
            us = max(-_FAR, min(int(value), _FAR)) * 1_000_000
        else:
            if isinstance(value, str):
                value = datetime.fromisoformat(value[:-4] + "+00:00" if value.endswith(" UTC") else value)
            elif isinstance(value, date) and not isinstance(value, datetime):
                value = datetime(value.year, value.month, value.day)
            if not isinstance(value, datetime):
                raise ValueError
            if value.tzinfo is not None:
                value = value.astimezone(UTC).replace(tzinfo=None)
            us = (value - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        expected = "a time like 2017-02-01 12:30:00 or seconds since 1970"
        raise wrong(name, expected, given, "write it in one of these forms") from error
    if not FIRST_US <= us < END_US:
        raise out_of_range(us, given, name)
    return us


def joined(parts: Sequence[str | None]) -> str | None:
    """The text of a cross: its spelled parts with `SEPARATOR` between; None if every part is missing."""
    if None not in parts:
        return SEPARATOR.join(parts)  # type: ignore[arg-type]  # none is None
    if all(p is None for p in parts):
        return None
    return SEPARATOR.join(ABSENT if p is None else p for p in parts)


def hash_text(value: str, seed: int = 0) -> int:
    """Stable 64-bit hash: xxh64 of the UTF-8 bytes. `hash_text("") == 0xef46db3751d8e999`."""
    return xxhash.xxh64_intdigest(value.encode("utf-8", "surrogatepass"), seed)  # JSON may hold a lone surrogate

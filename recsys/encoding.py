"""Encoders: one raw value → ids or a number.

Preparation and serving share the code of vocabularies and words. Numbers, times and hashes have two forms, a
column at a time for preparation and a value at a time for serving; tests hold both to the same answers.

Reserved ids: 0 is always "missing". A vocabulary keeps 1 for "unseen" (also the home of values
rarer than its minimum count, so that its row is trained). Needs numpy and xxhash only.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

import numpy as np
import xxhash

from recsys.errors import DataError

__all__ = [
    "ABSENT", "MISSING", "PARTS", "SEPARATOR", "UNSEEN", "AnyEncoder", "Bucket", "Encoder", "Hash", "Part", "Scale",
    "Vocabulary", "Words", "encoder_from_json", "hash_text", "instant", "joined", "number", "text", "wrong",
]  # fmt: skip

MISSING = 0
UNSEEN = 1
SEPARATOR = "\x1f"  # between the parts of a cross; it cannot come from a keyboard
ABSENT = "\x00"  # a missing part of a cross
PARTS = {"hour": 24, "weekday": 7, "day": 31, "month": 12}  # of a timestamp, and how many there are
_EPOCH = datetime(1970, 1, 1)


def wrong(name: str, expected: str, value: object) -> DataError:
    """The error of a value that is not of its column's type."""
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
    raise wrong(
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
        raise wrong(name, "a number", value)
    try:
        x = float(value)
    except OverflowError:  # an int that no float holds
        x = math.inf
    if math.isinf(x):
        raise wrong(name, "a finite number", value)
    return x


def instant(value: object, name: str) -> int | None:
    """Microseconds since 1970 (UTC), or None where it is missing.

    Takes ISO text, seconds since 1970, and datetimes; a time without a zone is UTC.

    Raises:
        DataError: If it is none of these.
    """
    if _is_missing(value):
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
            return int(value) * 1_000_000
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
    except (ValueError, OverflowError):
        pass
    if not isinstance(value, datetime):
        raise wrong(name, "a time like 2017-02-01 12:30:00 or seconds since 1970", value)
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return (value - _EPOCH) // timedelta(microseconds=1)


def joined(parts: Sequence[str | None]) -> str | None:
    """The text of a cross: its spelled parts with `SEPARATOR` between; None if every part is missing."""
    if None not in parts:
        return SEPARATOR.join(parts)  # type: ignore[arg-type]
    if all(p is None for p in parts):
        return None
    return SEPARATOR.join(ABSENT if p is None else p for p in parts)


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

    def known(self, kind: type[str] | type[int]) -> dict[Any, int]:
        """The ids by value of a type, `str` or `int`, rather than by spelling."""
        return self._id if kind is str else {kind(v): i for v, i in self._id.items()}

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
        whole = joined(parts)
        return MISSING if whole is None else 1 + hash_text(whole, self.seed) % self.buckets

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
        return self.encode(x_B, self.log, self.mean, self.std)

    @staticmethod
    def encode(x_B: np.ndarray, log: Any, mean: Any, std: Any) -> np.ndarray:
        """The same with one `log`, `mean` and `std` for all numbers, or an array of each for many fields' columns."""
        if np.any(log):
            x_B = np.where(log, np.sign(x_B) * np.log1p(np.abs(x_B)), x_B)
        with np.errstate(over="ignore"):
            z_B = (x_B - mean) / std
        z_B[np.isnan(z_B)] = 0.0
        return np.clip(z_B, -1e6, 1e6).astype(np.float32)

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


class Part:
    """id = 1 + the hour (0 to 23), weekday (Monday is 0), day (of the month) or month of a time, UTC.

    Args:
        part: One of `PARTS`.
    """

    def __init__(self, part: str):
        self.part = part
        self.cardinality = PARTS[part] + 1

    def instants(self, us_B: np.ndarray, there_B: np.ndarray) -> np.ndarray:
        """Encode microseconds since 1970 (int64) → int32 ids; `MISSING` where not `there_B`."""
        days_B = us_B // 86_400_000_000
        if self.part == "hour":
            value_B = us_B // 3_600_000_000 % 24
        elif self.part == "weekday":
            value_B = (days_B + 3) % 7  # 1970-01-01 was a Thursday
        else:
            date_B = days_B.astype("datetime64[D]")
            month_B = date_B.astype("datetime64[M]")
            whole = self.part == "month"
            value_B = month_B.astype(np.int64) % 12 if whole else (date_B - month_B).astype(np.int64)
        return np.where(there_B, 1 + value_B, MISSING).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        return {"encoder": "part", "part": self.part}


class Words:
    """Text → hashed word n-grams: lower case, a word is a run of letters, digits and underscores.

    Args:
        buckets: Ids after the missing one.
        ngrams: Lengths of the n-grams, in words.
        seed: Of the hash.
    """

    _WORD = re.compile(r"\w+")

    def __init__(self, buckets: int, ngrams: Sequence[int] = (1,), seed: int = 0):
        self.ngrams, self._hash = list(ngrams), Hash(buckets, seed)
        self.cardinality = self._hash.cardinality

    def ids(self, value: str | None) -> list[int]:
        """The ids of a text, in order of length and place; none where it is missing."""
        words = self._WORD.findall(value.lower()) if value else []
        grams = [" ".join(words[i : i + n]) for n in self.ngrams for i in range(len(words) - n + 1)]
        return [self._hash.id([g]) for g in grams]

    def to_json(self) -> dict[str, Any]:
        return {"encoder": "words", "buckets": self._hash.buckets, "ngrams": self.ngrams, "seed": self._hash.seed}


AnyEncoder = Vocabulary | Hash | Scale | Bucket | Part | Words


def encoder_from_json(value: dict[str, Any]) -> AnyEncoder:
    """Build the encoder that `to_json` described."""
    made = {"vocabulary": Vocabulary, "hash": Hash, "scale": Scale, "bucket": Bucket, "part": Part, "words": Words}
    return made[value["encoder"]](**{k: v for k, v in value.items() if k != "encoder"})

"""Past-only features: aggregates of the earlier rows with the same key, equal in training and serving.

A row sees the rows of its key that are strictly earlier; another row of the same instant is not past.
Needs numpy and xxhash only. B rows, G keys, L length.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from recsys.errors import DataError
from recsys.features.derived import DAY_US, Past
from recsys.features.values import hash_text, instant, joined, text

__all__ = ["Order", "Snapshot"]


def _key(past: Past, row: Mapping[str, Any]) -> int | None:
    """The 64-bit key of a raw row; None if a part is missing."""
    parts = [text(row[c], t, c) for c, t in zip(past.by, past.dtypes, strict=True)]
    return None if None in parts else hash_text(joined(parts) or "")


class Order:
    """All rows sorted by key and time, so that the past of each row is a range.

    Args:
        key_B: int64 code of the key, −1 where a part is missing.
        time_B: int64 microseconds.
    """

    def __init__(self, key_B: np.ndarray, time_B: np.ndarray):
        self.key_B, self.time_B = key_B, time_B
        self.rows = np.lexsort((time_B, key_B))  # row numbers, sorted
        self.times = np.unique(time_B)
        rank_B = np.searchsorted(self.times, time_B)
        self._base = len(self.times) + 1
        self._sorted = key_B[self.rows] * self._base + rank_B[self.rows]

    def before(self, key_G: np.ndarray, time_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """→ start_G, stop_G: the range of `rows` with that key and an earlier time; empty for −1."""
        key_G = key_G.astype(np.int64)
        start_G = np.searchsorted(self._sorted, key_G * self._base)
        stop_G = np.searchsorted(self._sorted, key_G * self._base + np.searchsorted(self.times, time_G))
        return start_G, np.where(key_G < 0, start_G, stop_G)

    def column(self, past: Past, label_B: np.ndarray, key_G: np.ndarray, time_G: np.ndarray) -> np.ndarray:
        """`count`, `rate` or `days_since` for keys at times → float64, NaN where missing."""
        start_G, stop_G = self.before(key_G, time_G - past.delay)
        count_G = stop_G - start_G
        if past.what == "count":
            made_G = count_G.astype(np.float64)
        elif past.what == "rate":
            sums = np.concatenate([[0.0], np.cumsum(label_B[self.rows], dtype=np.float64)])
            made_G = _rate(sums[stop_G] - sums[start_G], count_G, past)
        else:
            last_G = self.time_B[self.rows[np.maximum(stop_G - 1, 0)]]
            made_G = np.where(count_G > 0, (time_G - last_G) / DAY_US, np.nan)
        return np.where(key_G < 0, np.nan, made_G)

    def last(self, past: Past, length: int, key_G: np.ndarray, time_G: np.ndarray) -> np.ndarray:
        """→ row numbers of the latest rows, G×length, newest first; −1 pads."""
        start_G, stop_G = self.before(key_G, time_G - past.delay)
        at_GL = stop_G[:, None] - 1 - np.arange(length)
        there_GL = at_GL >= start_G[:, None]
        return np.where(there_GL, self.rows[np.maximum(at_GL, 0)], -1)


def _rate(positive: np.ndarray, count: np.ndarray, past: Past) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 without prior and rows becomes NaN: missing
        return (positive + past.prior * past.rate) / (count + past.prior)


class Snapshot:
    """The past of every key at the end of the prepared table, for requests without past-only columns.

    Args:
        arrays: For each field, `<field>/keys` (sorted uint64) and `<field>/value`, a number for each key
            (`days_since`: the latest time). For `last`, `<field>/offset` (G + 1) gives ranges of `<field>/value`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = dict(arrays)

    @classmethod
    def load(cls, path: Path) -> "Snapshot":
        """Read what `save` wrote.

        Raises:
            DataError: If it is damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return cls({name: stored[name] for name in stored.files})
        except (ValueError, EOFError, OSError, KeyError, BadZipFile) as error:
            mend = "prepare the data, or export the bundle, again"
            raise DataError(f"{path} is damaged: expected the past of every key, it cannot be read: {mend}") from error

    def save(self, path: Path) -> None:
        """Write all arrays, compressed."""
        np.savez_compressed(path, **self.arrays)  # type: ignore[arg-type]  # a key could be named allow_pickle

    def check(self) -> None:
        """Refuse arrays that `value` could not read.

        Raises:
            ValueError: If keys are not sorted, or the shape of an array does not fit the keys.
        """
        for field in self.fields():
            keys, value = self.arrays[f"{field}/keys"], self.arrays[f"{field}/value"]
            offset = self.arrays.get(f"{field}/offset", np.arange(len(keys) + 1))
            if keys.dtype != np.uint64 or keys.ndim != 1 or (keys[1:] < keys[:-1]).any():
                raise ValueError(f"keys of {field!r}: expected sorted uint64")
            steps = np.diff(offset)
            if offset.shape != (len(keys) + 1,) or (steps < 0).any() or offset[0] != 0 or value.shape != (offset[-1],):
                raise ValueError(f"values of {field!r}: expected {len(keys)} parts of one array")

    def fields(self) -> set[str]:
        """The fields that it holds."""
        return {name.rsplit("/", 1)[0] for name in self.arrays}

    def subset(self, names: set[str]) -> "Snapshot":
        """A snapshot of these fields only."""
        return Snapshot({k: v for k, v in self.arrays.items() if k.rsplit("/", 1)[0] in names})

    def value(self, field: str, past: Past, row: Mapping[str, Any], time: str) -> Any:
        """The past-only value of a row: a number, a list, or None if it is missing.

        Raises:
            DataError: If the row lacks a column of the key, or its time.
        """
        needed = [*past.by, *([time] if past.what == "days_since" else [])]
        for column in needed:
            if column not in row:
                raise DataError(
                    f"expected {field!r}, or {column!r} to look it up by, got neither: send one (null if missing)"
                )
        key = _key(past, row)
        keys = self.arrays[f"{field}/keys"]
        value = self.arrays[f"{field}/value"]
        slot = int(np.searchsorted(keys, np.uint64(key or 0)))
        known = key is not None and slot < len(keys) and int(keys[slot]) == key
        if past.what == "last":
            offset = self.arrays[f"{field}/offset"]
            return value[offset[slot] : offset[slot + 1]].tolist() if known else []
        if key is None:
            return None
        if past.what == "days_since":
            now = instant(row[time], time)
            return (now - int(value[slot])) / DAY_US if known and now is not None else None
        if not known:
            nothing = float(_rate(np.zeros(1), np.zeros(1), past)[0]) if past.what == "rate" else 0.0
            return None if np.isnan(nothing) else nothing
        return float(value[slot])

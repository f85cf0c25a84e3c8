"""The output of the first pass over a table: narrow columns of numbers on disk, and the text of their codes.

Text becomes codes in order of arrival, so that the second pass only looks ids up. Memory holds the
distinct values of vocabularies and a bounded count of raw rows. B rows.
"""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.preparation.columns import distinct_values

__all__ = ["ABSENT_CODE", "CHUNK", "NO_TIME", "PAD", "Columns", "Dictionary", "Spool", "write_all"]

PAD, ABSENT_CODE = -1, -2  # codes of padding after a list, and of a missing value
NO_TIME = np.iinfo(np.int64).min
CHUNK = 65_536  # rows read at once
_KEPT = 8192  # raw rows kept of each batch; the golden rows are chosen from them
_MOST_KEPT = 100_000


class Dictionary:
    """Spelled values → codes that stay the same for the life of this object."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        self._alive = pl.Series([], dtype=self._type)  # polars drops categories that no series uses
        self._lock = Lock()
        self._latest: tuple[pa.Array, np.ndarray] = pa.nulls(0), np.empty(0, np.int32)
        self.size = 0

    def codes(self, values: pa.Array, spell: Callable[[pl.Series], pl.Series]) -> np.ndarray:
        """→ int32; `ABSENT_CODE` where null. Only the distinct values of a column are spelled and looked up.

        Args:
            values: A column, dictionary-encoded or not.
            spell: Spells some of its values.
        """
        distinct, index_B = distinct_values(values)
        known, code_K = self._latest  # batches of one part of a Parquet file have one dictionary, which may grow
        if len(distinct) < len(known) or not distinct.slice(0, len(known)).equals(known):
            known, code_K = distinct.slice(0, 0), np.empty(0, np.int32)
        if len(distinct) > len(known):
            code_K = np.append(code_K, self._codes(spell(pl.Series(distinct.slice(len(known))))))
        self._latest = distinct, code_K
        return np.append(code_K, np.int32(ABSENT_CODE)).take(index_B)

    def _codes(self, spelled: pl.Series) -> np.ndarray:
        physical = spelled.cast(self._type).to_physical()
        top: Any = physical.max()
        if top is not None:
            with self._lock:  # two fields may share this object
                self.size = max(self.size, int(top) + 1)
        return physical.cast(pl.Int32).fill_null(ABSENT_CODE).to_numpy()

    def values(self) -> pl.Series:
        """The spelling of every code."""
        return pl.Series(np.arange(self.size, dtype=np.uint32)).cat.to(self._type).cast(pl.String)


def write_all(file: Any, values: np.ndarray) -> None:
    """Write an array's bytes to an unbuffered file."""
    whole: Any = memoryview(values.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy says no buffer
    done = 0
    while done < len(whole):
        done += file.write(whole[done:])


class Columns:
    """Number columns on disk, written once in order and read in ranges; a memory map would fill memory with pages.

    Args:
        folder: A folder that holds nothing else.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._about: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._lock = Lock()

    def append(self, name: str, values: np.ndarray) -> None:
        """Write the next rows of a column; different columns may be written by different threads."""
        if name not in self._files:
            with self._lock:
                self._files[name] = (self.folder / f"{len(self._files)}.bin").open("w+b", buffering=0)
                self._about[name] = (values.dtype, values.shape[1:])
        write_all(self._files[name], np.ascontiguousarray(values, self._about[name][0]))

    def replace(self, name: str, values: np.ndarray) -> None:
        """Write a whole column anew."""
        self._files[name].seek(0)
        write_all(self._files[name], np.ascontiguousarray(values, self._about[name][0]))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop, all by default; any thread may read."""
        dtype, shape = self._about[name]
        file, row = self._files[name].fileno(), self.width(name) * dtype.itemsize
        stop = os.fstat(file).st_size // max(1, row) if stop is None else stop
        rows = np.empty((stop - start, *shape), dtype)
        whole: Any = memoryview(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy says no buffer
        done = 0
        while done < len(whole):
            done += os.preadv(file, [whole[done:]], start * row + done)
        return rows

    def width(self, name: str) -> int:
        """Numbers a row."""
        return int(np.prod(self._about[name][1], dtype=int))

    def names(self) -> list[str]:
        """The columns, in order of writing."""
        return list(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()


class Spool(Columns):
    """The output of the first pass.

    Columns: `codes/COLUMN`, `shared/FIELD` (codes of another field's column), `float/COLUMN`, `us/COLUMN` (times),
    `hash/FIELD`, `list/FIELD` (codes, or ids if the field hashes), `vector/FIELD`, `weight/FIELD`, `label`, `weight`.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.rows = 0
        self.dtypes: dict[str, str] = {}
        self.dictionaries: dict[str, Dictionary] = {}
        self.clipped: dict[str, int] = {}
        self.samples: list[tuple[np.ndarray, pa.RecordBatch]] = []  # row numbers, raw rows

    def dictionary(self, column: str) -> Dictionary:
        """The codes of a raw column."""
        return self.dictionaries.setdefault(column, Dictionary())

    def append_from(self, name: str, values: np.ndarray | None) -> None:
        """Append to a column whose width may be unknown at first (None until then): earlier rows get NaN."""
        if values is None:
            return
        if name not in self and self.rows:
            self.append(name, np.full((self.rows, *values.shape[1:]), np.nan))
        self.append(name, values)

    def keep_sample(self, batch: pa.RecordBatch) -> None:
        """Keep some raw rows, evenly spaced and bounded in number."""
        pick = np.unique(np.linspace(0, len(batch) - 1, min(len(batch), _KEPT)).astype(int))
        taken = batch.take(pa.array(pick))
        plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in taken.columns]
        self.samples.append((self.rows + pick, pa.RecordBatch.from_arrays(plain, batch.schema.names)))
        if sum(len(r) for r, _ in self.samples) > _MOST_KEPT:
            self.samples = [(r[::2], b.take(pa.array(np.arange(0, len(r), 2)))) for r, b in self.samples]

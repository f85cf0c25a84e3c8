"""Row-major shards: .npy arrays that are memory-mapped, so that reading in order copies nothing.

A split's folder holds ids.npy [rows, L] int32, dense.npy [rows, N] float32, label.npy [rows] float32 and, if the
schema has them, group.npy [rows] int64, weight.npy [rows] float32 and, for validation only, time.npy [rows] int64 (µs
since 1970). With T labels, label.npy is [rows, T], the main
one first; NaN: not observed.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from recsys.data.batch import Batch
from recsys.data.ranks import ALONE, Ranks
from recsys.data.split import in_order
from recsys.errors import DataError
from recsys.features.schema import Schema

__all__ = ["WINDOW", "Shards", "read_array"]

WINDOW = 1 << 24  # rows shuffled at once: a split up to this size is shuffled as a whole
_BLOCK = 1 << 16  # rows of a larger split that stay together until their window is shuffled


def read_array(path: Path, mend: str) -> np.ndarray:
    """The array in a file, memory-mapped copy-on-write: changes stay in memory.

    Args:
        path: The file.
        mend: What the user can do if it cannot be read.

    Raises:
        DataError: If there is no such file, or it is damaged.
    """
    try:
        return np.load(path, mmap_mode="c")
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is damaged: expected an array, it cannot be read: {mend}") from error


class Shards:
    """One split on disk, seen through a schema (which may be a subset of what was prepared).

    Args:
        folder: The prepared data set.
        split: `train`, `valid` or `test`.
        schema: The fields to read; all by default.

    Raises:
        DataError: If the split does not exist, or one of its files is damaged.
    """

    def __init__(self, folder: Path, split: str, schema: Schema | None = None):
        self.folder, self.split = Path(folder), split
        where = self.folder / split
        if not where.is_dir():
            raise DataError(f"expected prepared shards at {where}, found none: run stages=[prepare]")
        self._whole = whole = Schema.load(self.folder / "schema.json")
        self.schema = schema or whole
        mend = f"remove {self.folder} and run stage prepare again"
        self._ids, self._dense, label = (read_array(where / f"{n}.npy", mend) for n in ("ids", "dense", "label"))
        self.label_BT = label.reshape(len(label), -1)
        self.group_B, self.weight_B, self.time_B = (
            read_array(where / f"{n}.npy", mend) if (where / f"{n}.npy").exists() else None
            for n in ("group", "weight", "time")
        )
        self._pick = None if self.schema == whole else _columns(whole, self.schema)

    @property
    def label_B(self) -> np.ndarray:
        """The main label."""
        return self.label_BT[:, 0]

    def __len__(self) -> int:
        return len(self.label_BT)

    def ids(self, name: str) -> np.ndarray:
        """The ids of a looked-up field, whether or not the schema keeps it → ids_BC int32; −1 pads a list."""
        columns = self._whole.id_columns[name]
        return self._ids[:, columns.start : columns.stop]

    def numbers(self, name: str) -> np.ndarray:
        """The floats of a number or vector, whether or not the schema keeps it → x_BC float32, standardised."""
        columns = self._whole.float_columns[name]
        return self._dense[:, columns.start : columns.stop]

    def batch(self, rows: slice | np.ndarray) -> Batch:
        """The given rows as a batch; a slice is read without a copy."""
        ids, dense, label = self._ids[rows], self._dense[rows], self.label_BT[rows]
        if self._pick is not None:
            ids, dense = ids[:, self._pick[0]], dense[:, self._pick[1]]
        ids_BL = torch.from_numpy(np.asarray(ids)).long()
        weight_B = None if self.weight_B is None else torch.from_numpy(np.asarray(self.weight_B[rows]))
        return Batch.of(
            self.schema,
            ids_BL,
            torch.from_numpy(np.asarray(dense)),
            torch.from_numpy(np.asarray(label)),
            weight_B,
        )

    def batches(self, size: int, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """All rows in order; the last batch may be short. Of each batch, only the share of this rank is read."""
        return in_order(self, size, ranks)

    def shuffled(self, size: int, seed: int | list[int], skip: int = 0, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """All rows once in a random order that `seed` fixes; a last short batch is left out.

        Up to `WINDOW` rows are shuffled as a whole. A larger split is cut into blocks in random order;
        then the rows of as many blocks as fill a window are shuffled together. Memory holds the row
        numbers of one window.

        Args:
            size: Rows a batch, at most the rows of the split.
            seed: Fixes the order.
            skip: Batches to leave out at the start, to resume after a stop.
            ranks: Of each batch, only the share of this rank is read; the order is the same for any count of ranks.
        """
        size = min(size, len(self))
        share = ranks.share(size)
        yield from (self.batch(rows[share]) for rows in self._orders(size, seed, skip))

    def _orders(self, size: int, seed: int | list[int], skip: int) -> Iterator[np.ndarray]:
        """The row numbers of each batch after the first `skip`."""
        rng = np.random.default_rng(seed)
        if len(self) <= WINDOW:
            order = rng.permutation(len(self))
            yield from (order[b * size : (b + 1) * size] for b in range(skip, len(self) // size))
            return
        blocks = rng.permutation(-(-len(self) // _BLOCK))
        left, number = np.empty(0, np.int64), 0
        for i in range(0, len(blocks), WINDOW // _BLOCK):
            starts = blocks[i : i + WINDOW // _BLOCK] * _BLOCK
            rows = np.concatenate([np.arange(s, min(s + _BLOCK, len(self))) for s in starts])
            rng.shuffle(rows)
            rows = np.concatenate([left, rows])
            count = len(rows) // size
            for b in range(count):
                if number + b >= skip:
                    yield rows[b * size : (b + 1) * size]
            left, number = rows[count * size :], number + count


def _columns(whole: Schema, part: Schema) -> tuple[list[int], list[int]]:
    """The positions of the part's id columns and dense columns in the arrays of the whole schema."""
    ids = [c for f in part.sparse for c in whole.id_columns[f.name]]
    dense = [c for f in part.numeric for c in whole.float_columns[f.name]]
    return ids, dense + [c for f in part.fields if f.weighted for c in whole.weight_columns[f.name]]

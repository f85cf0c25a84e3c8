"""Row-major shards: .npy arrays that are memory-mapped, so that reading in order copies nothing.

A split's folder holds ids.npy [rows, L] int32, dense.npy [rows, N] float32, label.npy [rows]
float32 and, where the schema has them, group.npy [rows] int64 and weight.npy [rows] float32.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from recsys.data.batch import Batch
from recsys.errors import DataError
from recsys.schema import Schema

__all__ = ["Shards"]


def _columns(whole: Schema, part: Schema) -> tuple[list[int], list[int]]:
    """Where the part's id columns and numeric columns stand in the whole's arrays."""
    ids, floats, weights = whole.id_columns, whole.float_columns, whole.weight_columns
    dense = [c for f in part.numeric for c in floats[f.name]] + [c for n in part.weight_columns for c in weights[n]]
    return [c for f in part.sparse for c in ids[f.name]], dense


class Shards:
    """One split on disk, seen through a schema (which may be a subset of what was prepared).

    Args:
        folder: The prepared data set.
        split: `train`, `valid` or `test`.
        schema: The fields to read; all by default.

    Raises:
        DataError: If the split is not there.
    """

    def __init__(self, folder: Path, split: str, schema: Schema | None = None):
        self.folder, self.split = Path(folder), split
        where = self.folder / split
        if not where.is_dir():
            raise DataError(f"expected prepared shards at {where}, found none: run stages=[prepare]")
        whole = Schema.load(self.folder / "schema.json")
        self.schema = schema or whole
        self._ids = np.load(where / "ids.npy", mmap_mode="c")
        self._dense = np.load(where / "dense.npy", mmap_mode="c")
        self.label_B = np.load(where / "label.npy", mmap_mode="c")
        group = where / "group.npy"
        self.group_B = np.load(group, mmap_mode="c") if group.exists() else None
        weight = where / "weight.npy"
        self.weight_B = np.load(weight, mmap_mode="c") if weight.exists() else None
        self._pick = None if self.schema == whole else _columns(whole, self.schema)

    def __len__(self) -> int:
        return len(self.label_B)

    def batch(self, rows: slice | np.ndarray) -> Batch:
        """The given rows as a batch; a slice is read without a copy."""
        ids, dense, label = self._ids[rows], self._dense[rows], self.label_B[rows]
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

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in order; the last batch may be short."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))

    def shuffled(self, size: int, seed: int | list[int], skip: int = 0) -> Iterator[Batch]:
        """All rows once in a random order that `seed` fixes; a last short batch is left out.

        Args:
            size: Rows a batch, at most the rows of the split.
            seed: Fixes the order.
            skip: Batches to leave out at the start, to go on after a stop.
        """
        size = min(size, len(self))
        order = np.random.default_rng(seed).permutation(len(self))
        for b in range(skip, len(self) // size):
            yield self.batch(order[b * size : (b + 1) * size])

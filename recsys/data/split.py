"""The rows that training and selection read: the files of a split, some of its rows, or its rows with probes added."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from recsys.data.batch import Batch
from recsys.data.ranks import ALONE, Ranks
from recsys.features.schema import Schema

__all__ = ["Split", "in_order", "in_random_order"]


class Split(Protocol):
    """Rows with labels. `recsys.data.shards.Shards` reads them from files. B rows."""

    @property
    def schema(self) -> Schema:
        """The fields of each row."""
        ...

    @property
    def label_B(self) -> np.ndarray:
        """The main label: 0 or 1, float32."""
        ...

    @property
    def label_BT(self) -> np.ndarray:
        """All labels, the main one first; NaN: not observed."""
        ...

    @property
    def group_B(self) -> np.ndarray | None:
        """The group that each row belongs to, int64; None if rows have no groups."""
        ...

    @property
    def weight_B(self) -> np.ndarray | None:
        """Sample weights ≥ 0, float32; None weighs all rows alike."""
        ...

    def __len__(self) -> int:
        """Rows."""
        ...

    def batch(self, rows: slice | np.ndarray) -> Batch:
        """The given rows as a batch."""
        ...

    def batches(self, size: int, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """All rows in order; the last batch may be short.

        Args:
            size: Rows a batch.
            ranks: Of each batch, only the share of this rank is read.
        """
        ...

    def shuffled(self, size: int, seed: int | list[int], skip: int = 0, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """All rows once in a random order that `seed` fixes; a last short batch is left out.

        Args:
            size: Rows a batch, at most the rows of the split.
            seed: Fixes the order.
            skip: Batches to leave out at the start, to resume after a stop.
            ranks: Of each batch, only the share of this rank is read; the order is the same for any count of ranks.
        """
        ...


def in_order(split: Split, size: int, ranks: Ranks = ALONE) -> Iterator[Batch]:
    """`Split.batches`."""
    for start in range(0, len(split), size):
        share = ranks.share(min(size, len(split) - start))
        yield split.batch(slice(start + share.start, start + share.stop))


def in_random_order(
    split: Split, size: int, seed: int | list[int], skip: int = 0, ranks: Ranks = ALONE
) -> Iterator[Batch]:
    """`Split.shuffled` with all row numbers in memory."""
    size = min(size, len(split))
    order = np.random.default_rng(seed).permutation(len(split))
    for b in range(skip, len(split) // size):
        yield split.batch(order[b * size : (b + 1) * size][ranks.share(size)])

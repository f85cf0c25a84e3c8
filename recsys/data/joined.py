"""Two splits as one. B rows of a batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.ranks import ALONE, Ranks
from recsys.data.shards import Shards
from recsys.data.split import in_order, in_random_order
from recsys.features.schema import Schema

__all__ = ["Joined"]


def _behind(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])


@dataclass(frozen=True)
class Joined:
    """A `Split` with the rows of one split, then those of another of the same data. Shuffling takes 8 bytes a row."""

    first: Shards
    second: Shards

    @property
    def schema(self) -> Schema:
        """The fields of each row."""
        return self.first.schema

    @property
    def label_BT(self) -> np.ndarray:
        """All labels, the main one first; NaN: not observed."""
        return np.concatenate([self.first.label_BT, self.second.label_BT])

    @property
    def label_B(self) -> np.ndarray:
        """The main label."""
        return self.label_BT[:, 0]

    @property
    def group_B(self) -> np.ndarray | None:
        """The group of each row."""
        return _behind(self.first.group_B, self.second.group_B)

    @property
    def weight_B(self) -> np.ndarray | None:
        """Sample weights."""
        return _behind(self.first.weight_B, self.second.weight_B)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, rows: slice | np.ndarray) -> Batch:
        """The given rows as a batch."""
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        late = numbers >= len(self.first)
        parts = [self.first.batch(numbers[~late]), self.second.batch(numbers[late] - len(self.first))]
        order = torch.from_numpy(np.argsort(np.r_[np.flatnonzero(~late), np.flatnonzero(late)]))

        def both(name: str) -> Tensor:
            return torch.cat([getattr(p, name) for p in parts])[order]

        weight_B = None if parts[0].weight_B is None else both("weight_B")
        return Batch.of(self.schema, both("ids_BL"), both("dense_BN"), both("label_BT"), weight_B)

    def batches(self, size: int, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """All rows in order; the last batch may be short."""
        return in_order(self, size, ranks)

    def shuffled(self, size: int, seed: int | list[int], skip: int = 0, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """All rows once in a random order that `seed` fixes; a last short batch is left out."""
        return in_random_order(self, size, seed, skip, ranks)

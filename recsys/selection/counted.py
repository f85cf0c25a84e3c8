"""Sample weights in selection: rows of weight 0 are left out, others are drawn in proportion to weight. B rows."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.ranks import ALONE, Ranks
from recsys.data.split import Split, in_order, in_random_order
from recsys.errors import DataError

__all__ = ["Rows", "counted", "donors", "resampled"]


class Rows:
    """Some rows of a split.

    Args:
        shards: The split.
        rows_B: Numbers of the rows to keep. If all have the same weight, `weight_B` is None.
    """

    def __init__(self, shards: Split, rows_B: np.ndarray):
        self._real, self._rows_B, self.schema = shards, rows_B, shards.schema
        self.label_BT, self.label_B = shards.label_BT[rows_B], shards.label_B[rows_B]
        self.group_B = None if shards.group_B is None else shards.group_B[rows_B]
        weight_B = None if shards.weight_B is None else shards.weight_B[rows_B]
        self.weight_B = None if weight_B is None or (weight_B == weight_B[0]).all() else weight_B

    def __len__(self) -> int:
        return len(self._rows_B)

    def batch(self, rows: slice | np.ndarray) -> Batch:
        """The given rows as a batch; they are numbered among the kept rows."""
        batch = self._real.batch(self._rows_B[rows])
        if self.weight_B is None:
            batch.weight_B = None
        return batch

    def batches(self, size: int, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """See `Split`."""
        return in_order(self, size, ranks)

    def shuffled(self, size: int, seed: int | list[int], skip: int = 0, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """See `Split`."""
        return in_random_order(self, size, seed, skip, ranks)


def counted(shards: Split) -> Split:
    """The rows whose sample weight is above 0.

    Raises:
        DataError: If no row is left.
    """
    if shards.weight_B is None or (shards.weight_B > 0).all():
        return shards
    rows_B = np.flatnonzero(shards.weight_B > 0)
    if len(rows_B) == 0:
        raise DataError("selection: expected held-out rows of a sample weight above 0, got none: check the weights")
    return Rows(shards, rows_B)


def resampled(weight_B: Tensor, count: int) -> Tensor:
    """`count` row numbers, ascending, each row in proportion to its weight → int64 [count].

    Row i occurs count·w_i / Σ w times, rounded up or down (systematic sampling), so that equal weights
    and a count of B give every row once. The rows should be in random order.
    """
    share_B = weight_B.double().cumsum(0)
    place = (torch.arange(count, dtype=torch.float64, device=weight_B.device) + 0.5) / count * share_B[-1]
    return torch.searchsorted(share_B, place).clamp(max=len(weight_B) - 1)


def donors(rows: int, weight_B: Tensor | None, generator: torch.Generator) -> Tensor:
    """For each row, the row whose value replaces its own → int64 [B].

    Without weights this is a random permutation. With weights it is a random order of rows drawn in
    proportion to weight, so that the replacing values have the weighted distribution of the values.
    """
    order_B = torch.randperm(rows, generator=generator)
    if weight_B is None:
        return order_B
    drawn_B = order_B[resampled(weight_B[order_B], rows)]
    return drawn_B[torch.randperm(rows, generator=generator)]

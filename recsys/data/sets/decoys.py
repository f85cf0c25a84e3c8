"""Re-buy with fields that no selector should keep: shuffled columns and copies of columns."""

import numpy as np
import pyarrow as pa

from recsys.config.ranges import Seed
from recsys.data.sets import complete_journey
from recsys.errors import ConfigError

__all__ = ["add", "load"]


def add(table: pa.Table, shuffled: list[str], copied: list[str], seed: int) -> pa.Table:
    """Append `noise_X` for each shuffled column X (each has its own permutation) and `copy_X` for each copied one.

    Raises:
        ConfigError: If the table lacks a column.
    """
    if unknown := [n for n in (*shuffled, *copied) if n not in table.column_names]:
        raise ConfigError(f"data.source: no column {unknown}: expected some of {', '.join(table.column_names)}")
    for i, name in enumerate(shuffled):
        order = np.random.default_rng([seed, i]).permutation(len(table))
        table = table.append_column(f"noise_{name}", table[name].take(pa.array(order)))
    for name in copied:
        table = table.append_column(f"copy_{name}", table[name])
    return table


def load(shuffled: list[str], copied: list[str], seed: Seed = 0) -> pa.Table:
    """The table of `recsys.data.sets.complete_journey.load` with decoys.

    Args:
        shuffled: Columns to append in a random order: noise with a real distribution.
        copied: Columns to append unchanged.
        seed: Seed of the orders.
    """
    return add(complete_journey.load(), shuffled, copied, seed)

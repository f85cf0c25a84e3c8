"""Which whole numbers are codes: names of things, whose order has no meaning. B rows."""

import re
from typing import Any

import numpy as np
import polars as pl

from recsys.data.inspection.leakage import binned, coded, held_out_auc

__all__ = ["jumps", "mean", "named_as_code", "scattered"]

_ROWS = 100_000  # most rows that a rule reads, if it needs no more
_HUGE = 10**9  # least span of numbers that may be hashes
_THIN = 10**4  # least span per distinct number: at this density two rows hardly share a number by chance
_REPEATED = 0.9  # most distinct values per row
_EVEN = 2.5  # most √n·D, with D Kolmogorov's distance to an even spread: chance exceeds it once in 100,000 columns
_CODE = re.compile(
    r"(^|[_\W])(id|ids|code|zip|zipcode|postcode|postal|sku|key|uid|uuid|hash|no|nr|idx|index)($|[_\W\d])"
)
_CAMEL = re.compile(r"[a-z](Id|ID|Code|Zip|Key)$")


def mean(values: pl.Series) -> float:
    """The mean of numbers, or the share of what is true; polars has a wider type for it."""
    value: Any = values.mean()
    return float(value)


def named_as_code(name: str) -> bool:
    """Whether the name says that numbers in it are codes: `id`, `item_id`, `zipCode` …"""
    return bool(_CODE.search(name.lower()) or _CAMEL.search(name))


def jumps(values: pl.Series, label_B: np.ndarray) -> bool:
    """Whether a whole number is a code: the label rate of each value predicts better than that of its neighbours.

    Out-of-fold AUC of the value's own label rate exceeds that of 20 quantile bins, and .5, by more than .01 and
    two standard errors, √((1/n₀ + 1/n₁) / 12) of n₀ and n₁ rows with each label.
    """
    head, label = values.head(_ROWS), label_B[:_ROWS]
    ones = max(1.0, min(float(label.sum()), len(label) - 1.0))
    error = np.sqrt((1 / ones + 1 / (len(label) - ones)) / 12)
    smooth = max(0.5, held_out_auc(binned(head, 20), label))
    return held_out_auc(coded(head), label) > smooth + 0.01 + 2 * error


def scattered(values: pl.Series) -> bool:
    """Whether whole numbers are hashes: few values, spread evenly over a huge range, that occur more than once.

    Times fail, since they are further from 0 than from each other. Prices and counts fail, since small ones are
    closer together, or since most end in the same digit.
    """
    present = values.drop_nulls()
    if present.dtype.is_float() and not present.is_finite().all():
        return False
    different = present.unique().sort()
    size = len(different)
    if size < 2 or size > _REPEATED * len(present):
        return False
    low, high = int(different[0]), int(different[-1])
    span = high - low
    if span < max(_HUGE, _THIN * size) or low > span:
        return False
    if np.unique(np.abs(np.fmod(different.to_numpy(), 10)), return_counts=True)[1].max() > size / 2:
        return False
    x = (different.cast(pl.Float64).to_numpy() - low) / span
    steps = np.arange(size + 1) / size
    distance = max((steps[1:] - x).max(), (x - steps[:-1]).max())
    return bool(distance * np.sqrt(size) <= _EVEN)

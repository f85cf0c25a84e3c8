"""Facts of one field over the splits: coverage, unseen values, drift, and its AUC alone. B rows.

PSI (population stability index) between training and another split: Σ_i (q_i − p_i)·ln(q_i / p_i), p and q the
shares of training and of the other split in bin i, each at least 1e-4. Bins of a number: training deciles
and missing; of values: the 20 most frequent in training, all others, and missing. Below .1 is stable, .1 to .25
is a shift to look at, above .25 is a large one (the usual thresholds of credit scoring: Siddiqi, 2006).
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from recsys.data.inspection.leakage import binned, coded, rates
from recsys.errors import DataError
from recsys.evaluation.metrics import auc

__all__ = ["LARGE", "SHIFT", "FieldStats", "coverage", "number_stats", "psi", "unseen", "value_stats"]

SHIFT, LARGE = 0.1, 0.25
_FLOOR = 1e-4
_TOP = 20
_SPARK = 24


@dataclass
class FieldStats:
    """What the report says about one field; shares are of rows, for lists of list elements.

    Args:
        name: The field.
        kind: Its kind and encoding.
        missing: Share without a value.
        distinct: Count of distinct values.
        top: Share of the rows with a value that the 10 most frequent cover, in training.
        kept: Share that values with at least `min_count` training rows cover; NaN for numbers.
        unseen: Split → share of the rows with a value whose value is not in training (for a number:
            outside its range in training).
        drift: Split → PSI against training.
        auc: AUC on validation of the label rate of its value (for a number: of its quantile bin) in
            training; NaN if validation has one label.
        shape: Heights of its distribution: a histogram, or counts of the most frequent values.
    """

    name: str
    kind: str
    missing: float
    distinct: int
    top: float = float("nan")
    kept: float = float("nan")
    unseen: dict[str, float] = field(default_factory=dict)
    drift: dict[str, float] = field(default_factory=dict)
    auc: float = float("nan")
    shape: list[float] = field(default_factory=list)


def psi(expected: np.ndarray, actual: np.ndarray) -> float:
    """Population stability index of two histograms over the same bins."""
    p = np.maximum(expected / max(1, expected.sum()), _FLOOR)
    q = np.maximum(actual / max(1, actual.sum()), _FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


def coverage(counts: np.ndarray, top: int = 0, least: int = 0) -> float:
    """Share of all counts that the `top` largest, or those of at least `least`, hold; NaN if all counts are 0."""
    if not counts.sum():
        return float("nan")
    chosen = np.sort(counts)[::-1][:top] if top else counts[counts >= least]
    return float(chosen.sum() / counts.sum())


def unseen(train: np.ndarray, other: np.ndarray) -> float:
    """Share of `other`'s counts at values that have none in `train`; 0 if `other` has no counts."""
    return float(other[train == 0].sum() / other.sum()) if other.sum() else 0.0


def _held_out(score_B: np.ndarray, label_B: np.ndarray) -> float:
    try:
        return auc(score_B, label_B)
    except DataError:
        return float("nan")


def value_stats(
    name: str, kind: str, values: pl.Series, splits: dict[str, np.ndarray], label_B: np.ndarray, least: int
) -> FieldStats:
    """The facts of a field of values or of lists of values.

    Args:
        name: The field.
        kind: Its kind as the report shows it.
        values: Its values in the sample; lists count by element.
        splits: Split → its rows.
        label_B: 0 and 1.
        least: `min_count` of the vocabulary.
    """
    rows = len(values)
    row = np.arange(rows)
    if isinstance(values.dtype, pl.List):
        lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
        row = np.repeat(row, lengths)
        values = values.drop_nulls().explode(empty_as_null=False, keep_nulls=True)
        empty = float((lengths == 0).mean())
    else:
        empty = values.null_count() / rows
    code = coded(values)
    size = int(code.max(initial=0)) + 1
    where = np.full(rows, -1, np.int8)
    for i, chosen in enumerate(splits.values()):
        where[chosen] = i
    counts = {s: np.bincount(code[where[row] == i], minlength=size) for i, s in enumerate(splits)}
    train = counts["train"][1:]
    stats = FieldStats(name, kind, empty, int(np.count_nonzero(np.bincount(code, minlength=size)[1:])))
    stats.top, stats.kept = coverage(train, top=10), coverage(train, least=least)
    ordered = values.dtype.is_integer() and len(train) <= 2 * _SPARK  # hours keep their order
    stats.shape = [float(c) for c in (train if ordered else np.sort(train)[::-1][:_SPARK])]
    frequent = np.argsort(-train, kind="stable")[:_TOP] + 1
    for other in ("valid", "test"):
        stats.unseen[other] = unseen(train, counts[other][1:])
        stats.drift[other] = psi(_bins(counts["train"], frequent), _bins(counts[other], frequent))
    stats.auc = _auc(code, row, label_B, splits, size)
    return stats


def _bins(count: np.ndarray, frequent: np.ndarray) -> np.ndarray:
    """Counts of the frequent values, of all others, and of missing."""
    shown = count[frequent]
    return np.r_[shown, count[1:].sum() - shown.sum(), count[0]]


def _auc(code: np.ndarray, row: np.ndarray, label_B: np.ndarray, splits: dict[str, np.ndarray], size: int) -> float:
    """AUC on validation of a row's mean label rate over its values; the rates are fitted on training."""
    rows = len(label_B)
    in_train = np.zeros(rows, bool)
    in_train[splits["train"]] = True
    fit = in_train[row]
    rate = rates(code[fit], label_B[row[fit]], size)
    length_B = np.bincount(row, minlength=rows)
    score_B = np.bincount(row, rate[code], rows) / np.maximum(length_B, 1)
    score_B[length_B == 0] = label_B[splits["train"]].mean()
    return _held_out(score_B[splits["valid"]], label_B[splits["valid"]])


def _histogram(x: np.ndarray) -> list[float]:
    """Counts in bins of equal width, with .5 % at either end moved into the range; one bin if values hardly vary."""
    x = x / max(1.0, np.abs(x).max() / 1e100)  # the width of a range past 1e308 overflows
    low, high = np.quantile(x, [0.005, 0.995])
    if high - low <= _SPARK * np.spacing(max(abs(low), abs(high))):
        return [float(len(x))]
    return np.histogram(np.clip(x, low, high), _SPARK)[0].astype(float).tolist()


def number_stats(
    name: str, kind: str, values: pl.Series, splits: dict[str, np.ndarray], label_B: np.ndarray
) -> FieldStats:
    """A numeric field; see `value_stats`."""
    x_B = values.cast(pl.Float64).to_numpy().astype(np.float64)
    x_B = np.where(np.isfinite(x_B), x_B, np.nan)
    stats = FieldStats(name, kind, float(np.isnan(x_B).mean()), values.n_unique() - bool(values.null_count()))
    train = x_B[splits["train"]]
    present = train[~np.isnan(train)]
    if not len(present):
        return stats
    with np.errstate(over="ignore", invalid="ignore"):  # between numbers whose distance is no float
        edges = np.unique(np.quantile(present, np.arange(1, 10) / 10))

    def histogram(x: np.ndarray) -> np.ndarray:
        return np.bincount(np.where(np.isnan(x), 0, 1 + np.searchsorted(edges, x)), minlength=len(edges) + 2)

    for other in ("valid", "test"):
        x = x_B[splits[other]]
        stats.drift[other] = psi(histogram(train), histogram(x))
        x = x[~np.isnan(x)]
        stats.unseen[other] = float(((x < present.min()) | (x > present.max())).mean()) if len(x) else 0.0
    if kind.endswith("log"):
        present = np.sign(present) * np.log1p(np.abs(present))
    stats.shape = _histogram(present)
    code_B = binned(values)
    stats.auc = _auc(code_B, np.arange(len(x_B)), label_B, splits, int(code_B.max()) + 1)
    return stats

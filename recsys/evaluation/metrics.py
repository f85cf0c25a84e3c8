"""Metrics of click predictions, exact.

B rows, G groups, T ties, K bins. `logit_B` and `probability_B` are float32 or float64; `label_B` holds 0 and 1.
`weight_B` holds weights ≥ 0, or is None: a row of weight 3 counts as three equal rows, one of weight 0 not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recsys.errors import DataError

__all__ = [
    "AUC",
    "auc",
    "counting",
    "ece",
    "equal_bins",
    "evaluate",
    "gauc",
    "logloss",
    "losses",
    "observed",
    "sigmoid",
    "weighted_mean",
]

_CHUNK = 1 << 20


def sigmoid(logit_B: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x) in float64, without overflow."""
    e_B = np.exp(-np.abs(np.asarray(logit_B, np.float64)))
    return np.where(np.asarray(logit_B) >= 0, 1 / (1 + e_B), e_B / (1 + e_B))


def counting(weight_B: np.ndarray | None, *columns: np.ndarray) -> tuple[np.ndarray | None, tuple[np.ndarray, ...]]:
    """Drop the rows of weight 0; weights that are all 1 become None, so that figures equal those without weights.

    Raises:
        DataError: If there are rows, and all of them weigh 0.
    """
    arrays = tuple(np.asarray(c) for c in columns)
    if weight_B is None:
        return None, arrays
    weight_B = np.asarray(weight_B, np.float64)
    counts_B = weight_B > 0
    if not counts_B.all():
        if not counts_B.any():
            raise DataError(f"expected a row of weight above 0, got {len(weight_B)} of weight 0: widen the split")
        weight_B, arrays = weight_B[counts_B], tuple(c[counts_B] for c in arrays)
    return (None if (weight_B == 1).all() else weight_B), arrays


def observed(
    label_B: np.ndarray, weight_B: np.ndarray | None, *columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, tuple[np.ndarray, ...]]:
    """Drop the rows whose label was not observed (NaN) → label, weights, and each column."""
    seen_B = ~np.isnan(label_B)
    if seen_B.all():
        return np.asarray(label_B), weight_B, columns
    return label_B[seen_B], None if weight_B is None else weight_B[seen_B], tuple(c[seen_B] for c in columns)


class AUC:
    """Exact area under the ROC curve of rows that come in batches; ties count half; 8 bytes a row, 16 with weights.

    A row is one uint64: its label in the lowest bit and, above it, its float32 score as an integer of the
    same order. Sorting puts equal scores side by side.
    """

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._weights: list[np.ndarray | None] = []

    def add(self, score_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None) -> None:
        """Add a batch; scores are compared as float32: give logits, since large probabilities round to 1."""
        weight, (score, label) = counting(weight_B, np.asarray(score_B, np.float32), label_B)
        if np.isnan(score).any():
            raise DataError("AUC: expected finite scores, got NaN: the model diverged, lower its learning rates")
        bits = (score + np.float32(0)).view(np.uint32)  # adding 0 turns −0 into +0
        negative = bits >> np.uint32(31) == 1
        ordered = np.where(negative, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
        self._parts.append(ordered << np.uint64(1) | label.astype(bool))
        self._weights.append(weight)

    def _sorted(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Sort all rows by score and keep them as one part → rows, and weights or None if all weigh 1."""
        rows = self._parts[0] if len(self._parts) == 1 else np.concatenate([np.empty(0, np.uint64), *self._parts])
        weight = None
        if all(w is None for w in self._weights):
            rows.sort()
        else:
            pairs = zip(self._weights, self._parts, strict=True)
            weight = np.concatenate([np.ones(len(p)) if w is None else w for w, p in pairs])
            order = np.argsort(rows, kind="stable")
            rows, weight = rows[order], weight[order]
        self._parts, self._weights = [rows], [weight]
        return rows, weight

    def compute(self) -> float:
        """P(score of a positive > score of a negative) + ½ P(equal), over pairs that count w₊·w₋ times.

        Raises:
            DataError: If all rows have the same label.
        """
        rows, weight = self._sorted()
        wins, positives, negatives, tied_negatives, tied_positives, last = 0.0, 0, 0, 0, 0, -1
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            score, label = chunk >> np.uint64(1), (chunk & np.uint64(1)).astype(np.int64)
            first = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
            if weight is None:
                size = np.diff(np.r_[first, len(chunk)])
            else:
                size = np.add.reduceat(weight[start : start + _CHUNK], first)
                label = label * weight[start : start + _CHUNK]
            p = np.add.reduceat(label, first)
            n = size - p
            positives += label.sum()
            if int(score[0]) == last:  # a tie runs over from the chunk before
                p[0] += tied_positives
                n[0] += tied_negatives
                negatives -= tied_negatives
                wins -= tied_positives * (negatives + tied_negatives / 2)
            before = negatives + np.cumsum(n) - n
            wins += float(np.sum(p * (before + n / 2)))
            negatives = before[-1] + n[-1]
            tied_positives, tied_negatives, last = p[-1], n[-1], int(score[-1])
        if not positives or not negatives:
            which = "clicks" if positives else "non-clicks"
            raise DataError(f"AUC: expected both labels, got {len(rows)} rows of {which} only: widen the split")
        return float(wins / (positives * negatives))


def auc(score_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None) -> float:
    """Exact AUC of arrays; see `AUC`."""
    meter = AUC()
    meter.add(score_B, label_B, weight_B)
    return meter.compute()


def gauc(score_B: np.ndarray, label_B: np.ndarray, group_B: np.ndarray, weight_B: np.ndarray | None = None) -> float:
    """Mean over groups of AUC, weighted by the group's weight; groups of one label are left out. NaN if all are.

    Source: Zhou et al., Deep Interest Network, 2018, equation 7 (impressions as weights).
    """
    weight, (score, label, group) = counting(weight_B, score_B, label_B, group_B)
    weight = np.ones(len(label)) if weight is None else weight
    order = np.lexsort((score, group))
    score, label, group, weight = (x[order] for x in (score, label, group, weight))
    fresh_group = np.r_[True, group[1:] != group[:-1]]
    fresh_tie = fresh_group | np.r_[True, score[1:] != score[:-1]]
    start_G, start_T = np.flatnonzero(fresh_group), np.flatnonzero(fresh_tie)
    positive_T = np.add.reduceat(weight * label, start_T, dtype=np.float64)
    negative_T = np.add.reduceat(weight * (1 - label), start_T, dtype=np.float64)
    first_G = np.searchsorted(start_T, start_G)  # a group's first tie
    before_T = np.cumsum(negative_T) - negative_T
    before_T -= np.repeat(before_T[first_G], np.diff(np.r_[first_G, len(start_T)]))  # negatives of the group alone
    wins_G = np.add.reduceat(positive_T * (before_T + negative_T / 2), first_G)
    p_G, n_G = np.add.reduceat(positive_T, first_G), np.add.reduceat(negative_T, first_G)
    both = (p_G > 0) & (n_G > 0)
    if not both.any():
        return float("nan")
    return float(np.average(wins_G[both] / (p_G * n_G)[both], weights=(p_G + n_G)[both]))


def losses(probability_B: np.ndarray, label_B: np.ndarray) -> np.ndarray:
    """−y·ln p − (1 − y)·ln(1 − p) of each row in nats, p kept within [1e-7, 1 − 1e-7]."""
    p_B = np.clip(np.asarray(probability_B, np.float64), 1e-7, 1 - 1e-7)
    y_B = np.asarray(label_B, np.float64)
    return -y_B * np.log(p_B) - (1 - y_B) * np.log1p(-p_B)


def logloss(probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None) -> float:
    """The (weighted) mean of `losses`, nats."""
    weight, (probability, label) = counting(weight_B, probability_B, label_B)
    return float(np.average(losses(probability, label), weights=weight))


def weighted_mean(value_B: np.ndarray, weight_B: np.ndarray | None) -> tuple[float, float]:
    """m = Σ w·v / Σ w, and its standard error √(Σ w²·(v − m)²) / Σ w.

    Without weights these are the mean, and the deviation over √B. A row of weight 2 counts as two equal rows in
    the mean, but as one draw in the error, which is larger than that of two independent rows.
    """
    w_B = np.ones(len(value_B)) if weight_B is None else np.asarray(weight_B, np.float64)
    mean = float(np.average(value_B, weights=w_B))
    return mean, float(np.sqrt(np.sum(np.square(w_B * (value_B - mean)))) / w_B.sum())


@dataclass(frozen=True)
class Bins:
    """Rows in K bins of equal weight, in ascending order of probability.

    Args:
        probability: Mean prediction of each bin.
        label: Share of clicks of each bin.
        weight: Sum of each bin's weights.
    """

    probability: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def equal_bins(
    probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None, bins: int = 20
) -> Bins:
    """Cut the rows, ascending by probability, into at most `bins` bins of equal weight.

    A row that lies across a cut counts in both bins, by its shares. Integer weights are cut as so many
    unweighted rows would be: the first bins hold one row more if the rows do not divide evenly.
    """
    weight, (p_B, y_B) = counting(weight_B, probability_B, label_B)
    order = np.argsort(p_B, kind="stable")
    if weight is None:
        parts = [(part, None) for part in np.array_split(order, bins) if len(part)]
    else:
        parts = _cut(order, weight[order], bins)
    return Bins(
        np.array([p_B[i].mean() if w is None else np.average(p_B[i], weights=w) for i, w in parts], np.float64),
        np.array([y_B[i].mean() if w is None else np.average(y_B[i], weights=w) for i, w in parts], np.float64),
        np.array([len(i) if w is None else w.sum() for i, w in parts], np.float64),
    )


def _cut(order: np.ndarray, weight: np.ndarray, bins: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each bin's rows and how much of their weight falls into it; `weight` is in the order of `order`."""
    end = np.cumsum(weight)
    start, total, k = end - weight, end[-1], np.arange(bins + 1)
    whole = (weight == np.floor(weight)).all()
    cut = k * (total // bins) + np.minimum(k, total % bins) if whole else total * k / bins
    parts = []
    for low, high in pairwise(cut):
        inside = slice(np.searchsorted(end, low, "right"), np.searchsorted(start, high, "left"))
        share = np.minimum(end[inside], high) - np.maximum(start[inside], low)
        if share.sum() > 0:
            parts.append((order[inside][share > 0], share[share > 0]))
    return parts


def ece(probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None, bins: int = 20) -> float:
    """Expected calibration error over `bins` of equal weight: Σ share·|mean p − mean y|."""
    cut = equal_bins(probability_B, label_B, weight_B, bins)
    return float(sum(cut.weight / cut.weight.sum() * abs(cut.probability - cut.label)))


def evaluate(
    logit_B: np.ndarray,
    label_B: np.ndarray,
    group_B: np.ndarray | None = None,
    weight_B: np.ndarray | None = None,
    calibrator: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, float]:
    """AUC, logloss, normalised entropy, calibration ratio, ECE and, with groups, GAUC.

    Normalised entropy divides logloss by that of predicting the mean label for every row (He et al., 2014);
    the calibration ratio is Σp / Σy. AUC and GAUC compare logits, since different large logits round to
    the same probability.

    Args:
        logit_B: Predictions before the sigmoid.
        label_B: 0 or 1.
        group_B: Groups of GAUC.
        weight_B: Sample weights.
        calibrator: Recalibrates the probabilities before they are measured.

    Raises:
        DataError: If the rows hold one label only, or none has weight.
    """
    groups = [] if group_B is None else [group_B]
    weight_B, (logit_B, label_B, *groups) = counting(weight_B, logit_B, label_B, *groups)
    p_B = sigmoid(logit_B)
    if calibrator is not None:
        p_B = calibrator(p_B)
        logit_B = np.log(p_B) - np.log1p(-p_B)
    figures = {"auc": auc(logit_B, label_B, weight_B), "logloss": logloss(p_B, label_B, weight_B)}
    rate = float(np.mean(label_B) if weight_B is None else np.average(label_B, weights=weight_B))
    figures["ne"] = figures["logloss"] / logloss(np.full(len(label_B), rate), label_B, weight_B)
    figures["calibration"] = float(np.average(p_B, weights=weight_B)) / rate
    figures["ece"] = ece(p_B, label_B, weight_B)
    for group_B in groups:
        figures["gauc"] = gauc(logit_B, label_B, group_B, weight_B)
    return figures

"""Metrics of click predictions, exact, and a recalibration fitted on validation.

B rows. `logit_B` and `probability_B` are float32 or float64; `label_B` holds 0 and 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression

from recsys.errors import DataError

__all__ = ["AUC", "Calibrator", "auc", "ece", "evaluate", "fit_calibrator", "gauc", "logloss", "sigmoid"]

_CHUNK = 1 << 20


def sigmoid(logit_B: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x) in float64, without overflow."""
    e_B = np.exp(-np.abs(np.asarray(logit_B, np.float64)))
    return np.where(np.asarray(logit_B) >= 0, 1 / (1 + e_B), e_B / (1 + e_B))


class AUC:
    """Exact area under the ROC curve from a stream; 8 bytes a row, ties count half.

    A row is one uint64: its float32 score, mapped to integers of the same order, above its label.
    Sorting them in place puts equal scores side by side.
    """

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, score_B: np.ndarray, label_B: np.ndarray) -> None:
        """Take a batch in; scores are compared as float32."""
        score = np.asarray(score_B, dtype=np.float32)
        if np.isnan(score).any():
            raise DataError("AUC: expected finite scores, got NaN: the model diverged, lower its learning rates")
        bits = (score + np.float32(0)).view(np.uint32)  # adding 0 turns −0 into +0
        negative = bits >> np.uint32(31) == 1
        ordered = np.where(negative, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
        self._parts.append(ordered << np.uint64(1) | np.asarray(label_B).astype(bool))

    def compute(self) -> float:
        """P(score of a positive > score of a negative) + ½ P(equal).

        Raises:
            DataError: If only one label came.
        """
        rows = self._parts[0] if len(self._parts) == 1 else np.concatenate([np.empty(0, np.uint64), *self._parts])
        self._parts = [rows]
        rows.sort()
        wins, negatives, tied_negatives, tied_positives, last = 0.0, 0, 0, 0, -1
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            score, label = chunk >> np.uint64(1), (chunk & np.uint64(1)).astype(np.int64)
            first = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
            p = np.add.reduceat(label, first)
            n = np.diff(np.r_[first, len(chunk)]) - p
            if int(score[0]) == last:  # a tie runs over from the chunk before
                p[0] += tied_positives
                n[0] += tied_negatives
                negatives -= tied_negatives
                wins -= tied_positives * (negatives + tied_negatives / 2)
            before = negatives + np.cumsum(n) - n
            wins += float(np.sum(p * (before + n / 2)))
            negatives = int(before[-1] + n[-1])
            tied_positives, tied_negatives, last = int(p[-1]), int(n[-1]), int(score[-1])
        positives = len(rows) - negatives
        if not positives or not negatives:
            which = "clicks" if positives else "non-clicks"
            raise DataError(f"AUC: expected both labels, got {len(rows)} rows of {which} only: widen the split")
        return wins / (positives * negatives)


def auc(score_B: np.ndarray, label_B: np.ndarray) -> float:
    """Exact AUC of arrays; see `AUC`."""
    meter = AUC()
    meter.add(score_B, label_B)
    return meter.compute()


def gauc(score_B: np.ndarray, label_B: np.ndarray, group_B: np.ndarray) -> float:
    """Mean over groups of AUC, weighted by rows; groups of one label are left out. NaN if all are.

    Source: Zhou et al., Deep Interest Network, 2018, equation 7 (impressions as weights).
    """
    order = np.lexsort((score_B, group_B))
    score, label, group = (np.asarray(x)[order] for x in (score_B, label_B, group_B))
    label = label.astype(np.float64)
    fresh_group = np.r_[True, group[1:] != group[:-1]]
    start_G = np.flatnonzero(fresh_group)
    size_G = np.diff(np.r_[start_G, len(group)])
    fresh_tie = fresh_group | np.r_[True, score[1:] != score[:-1]]
    start_T = np.flatnonzero(fresh_tie)
    size_T = np.diff(np.r_[start_T, len(group)])
    within_T = start_T - np.repeat(start_G, np.add.reduceat(fresh_tie.astype(int), start_G))
    rank = np.repeat(within_T + (size_T + 1) / 2, size_T)
    p_G = np.add.reduceat(label, start_G)
    n_G = size_G - p_G
    wins_G = np.add.reduceat(rank * label, start_G) - p_G * (p_G + 1) / 2
    both = (p_G > 0) & (n_G > 0)
    if not both.any():
        return float("nan")
    return float(np.average(wins_G[both] / (p_G * n_G)[both], weights=size_G[both]))


def logloss(probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None) -> float:
    """−mean[y·ln p + (1 − y)·ln(1 − p)], weighted if so asked, p kept within [1e-7, 1 − 1e-7], in nats."""
    p = np.clip(np.asarray(probability_B, np.float64), 1e-7, 1 - 1e-7)
    y = np.asarray(label_B, np.float64)
    gain_B = y * np.log(p) + (1 - y) * np.log1p(-p)
    return float(-np.mean(gain_B) if weight_B is None else -np.average(gain_B, weights=weight_B))


def ece(probability_B: np.ndarray, label_B: np.ndarray, bins: int = 20) -> float:
    """Expected calibration error over `bins` of equal count: Σ share·|mean p − mean y|."""
    order = np.argsort(probability_B, kind="stable")
    total = len(order)
    parts = [p for p in np.array_split(order, bins) if len(p)]
    return float(sum(len(p) / total * abs(probability_B[p].mean() - label_B[p].mean()) for p in parts))


def evaluate(probability_B: np.ndarray, label_B: np.ndarray, group_B: np.ndarray | None = None) -> dict[str, float]:
    """AUC, logloss, normalised entropy, calibration ratio, ECE and, with groups, GAUC.

    Normalised entropy divides logloss by that of always saying the mean label (He et al., 2014);
    the calibration ratio is Σp / Σy.

    Raises:
        DataError: If the rows hold one label only.
    """
    rate = float(np.mean(label_B))
    found = {"auc": auc(probability_B, label_B), "logloss": logloss(probability_B, label_B)}
    found["ne"] = found["logloss"] / logloss(np.full(len(label_B), rate), label_B)
    found["calibration"] = float(np.mean(probability_B, dtype=np.float64)) / rate
    found["ece"] = ece(probability_B, label_B)
    if group_B is not None:
        found["gauc"] = gauc(probability_B, label_B, group_B)
    return found


@dataclass(frozen=True)
class Calibrator:
    """p' = piecewise-linear, never falling, of p: `np.interp(p, x, y)`.

    Args:
        x: Ascending probabilities.
        y: Their calibrated values, ascending, inside (0, 1).
    """

    x: np.ndarray
    y: np.ndarray

    def __call__(self, probability_B: np.ndarray) -> np.ndarray:
        """Calibrate probabilities."""
        return np.interp(probability_B, self.x, self.y)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"x": self.x.tolist(), "y": self.y.tolist()}


def fit_calibrator(probability_B: np.ndarray, label_B: np.ndarray, bins: int = 200) -> Calibrator:
    """Isotonic regression on validation, over quantile bins, so that few rows cannot bend it.

    A bin's value is kept within half a row of 0 and 1, so that no later row costs infinite logloss,
    and each bin rises by 2e-6, enough for float32 to keep most of the order (and AUC) inside level runs.
    """
    order = np.argsort(probability_B, kind="stable")
    parts = [p for p in np.array_split(order, min(bins, max(1, len(order) // 50))) if len(p)]
    x = np.array([probability_B[p].mean() for p in parts], dtype=np.float64)
    y = np.array([label_B[p].mean() for p in parts], dtype=np.float64)
    size = np.array([len(p) for p in parts], dtype=np.float64)
    smooth = IsotonicRegression().fit(x, y, sample_weight=size).predict(x)
    floor = 0.5 / size
    smooth = np.clip(smooth, floor, 1 - floor)
    rise = 2e-6 * np.arange(len(smooth))
    smooth = (np.maximum.accumulate(smooth) + rise) / (1 + rise[-1])
    return Calibrator(np.r_[0.0, x, 1.0], np.r_[smooth[0] / 2, smooth, (1 + smooth[-1]) / 2])

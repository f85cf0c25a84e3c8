"""A recalibration of click predictions, fitted on validation and kept only if it helps on rows held out of its fit.

B rows, K bins. Weights as in `recsys.evaluation.metrics`.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import IsotonicRegression

from recsys.evaluation.metrics import counting, equal_bins, losses, weighted_mean
from recsys.files import Json

__all__ = ["Calibrator", "fit_calibrator", "isotonic"]

_LEAST = 50  # effective rows of the rarer label in each bin, at least
_BINS = 200  # at most
_FOLDS = 5


@dataclass(frozen=True)
class Calibrator:
    """p' = np.interp(p, x, y): a piecewise-linear curve that never falls.

    Args:
        x: Ascending probabilities.
        y: Their calibrated values, ascending, inside (0, 1).
    """

    x: np.ndarray
    y: np.ndarray

    def __call__(self, probability_B: np.ndarray) -> np.ndarray:
        """Calibrate probabilities."""
        return np.interp(probability_B, self.x, self.y)

    def to_json(self) -> Json:
        """A JSON-ready form."""
        return {"x": self.x.tolist(), "y": self.y.tolist()}


def fit_calibrator(
    probability_B: np.ndarray,
    label_B: np.ndarray,
    weight_B: np.ndarray | None = None,
    time_B: np.ndarray | None = None,
) -> Calibrator | None:
    """Fit `isotonic` to all rows if such curves lower logloss on rows that they were not fitted on; else None.

    The rows, in order of time, are cut into five contiguous parts, and each is predicted by a curve of the other four.
    The curve is kept if the mean gain is above its standard error, both over all rows and over the last part alone.
    The last part is nearest to the rows that the curve will serve, and its curve has seen earlier rows only. The other
    parts' curves have seen later rows too, which helps them on a table that drifts. Parts are contiguous, so that rows
    of one group, and repeated rows, are rarely on both sides of a fit. There is no curve if the rows fill only one bin.

    Args:
        probability_B: Predictions.
        label_B: 0 or 1.
        weight_B: Sample weights.
        time_B: When each row happened; None: rows are in order of time already, or have no times.
    """
    order = np.arange(len(label_B)) if time_B is None else np.argsort(time_B, kind="stable")
    columns = (np.asarray(x)[order] for x in (probability_B, label_B))
    weight, (p_B, y_B) = counting(None if weight_B is None else np.asarray(weight_B)[order], *columns)
    if _most_bins(y_B, weight) < 2:
        return None
    curved_B, parts = np.empty(len(p_B)), np.array_split(np.arange(len(p_B)), _FOLDS)
    for part in parts:
        others = np.delete(np.arange(len(p_B)), part)
        curve = isotonic(p_B[others], y_B[others], None if weight is None else weight[others])
        curved_B[part] = curve(p_B[part])
    gain_B = losses(p_B, y_B) - losses(curved_B, y_B)
    for rows in (np.arange(len(p_B)), parts[-1]):
        gain, error = weighted_mean(gain_B[rows], None if weight is None else weight[rows])
        if gain <= error:
            return None
    return isotonic(p_B, y_B, weight)


def isotonic(probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None) -> Calibrator:
    """Isotonic regression over at most 200 bins of equal weight, so that few rows cannot bend it.

    There is one bin for every 50 effective rows, (Σw)² / Σw², of the rarer label. A bin's value is at least
    the rate of half a click (of mean weight) in it, and at most 1 − the rate of half a non-click: no later
    row costs infinite logloss. Each bin is raised 2e-6 above the one before, enough for float32 to keep most
    of the order (and AUC) inside level runs.
    """
    weight, (p_B, y_B) = counting(weight_B, probability_B, label_B)
    cut = equal_bins(p_B, y_B, weight, max(1, _most_bins(y_B, weight)))
    regression = IsotonicRegression().fit(cut.probability, cut.label, sample_weight=cut.weight)
    click, other = (1.0 if weight is None or not (y_B == y).any() else weight[y_B == y].mean() for y in (1, 0))
    low, high = (0.5 * np.minimum(w / cut.weight, 1) for w in (click, other))
    smooth = np.clip(regression.predict(cut.probability), low, 1 - high)
    rise = 2e-6 * np.arange(len(smooth))
    smooth = (np.maximum.accumulate(smooth) + rise) / (1 + rise[-1])
    return Calibrator(np.r_[0.0, cut.probability, 1.0], np.r_[smooth[0] / 2, smooth, (1 + smooth[-1]) / 2])


def _most_bins(label_B: np.ndarray, weight_B: np.ndarray | None) -> int:
    """Most bins that the effective rows of the rarer label allow; 0 if they are too few for one."""
    w_B = np.ones(len(label_B)) if weight_B is None else weight_B
    rows = [w.sum() ** 2 / max(np.square(w).sum(), 1e-300) for w in (w_B[label_B > 0.5], w_B[label_B <= 0.5])]
    return min(_BINS, int(min(rows) * (1 + 1e-9)) // _LEAST)

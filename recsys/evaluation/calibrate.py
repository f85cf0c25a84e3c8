"""A recalibration of click predictions, fitted on validation and kept only if it helps there out of fold.

B rows, K bins. Weights as in `recsys.evaluation.metrics`.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import IsotonicRegression

from recsys.evaluation.metrics import counting, equal_bins, losses, weighted_mean
from recsys.files import Json

__all__ = ["Calibrator", "fit_calibrator", "isotonic"]

_LEAST = 50  # effective rows of the rarer label, for each bin
_BINS = 200  # at most
_FOLDS = 5


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

    def to_json(self) -> Json:
        """A JSON-ready form."""
        return {"x": self.x.tolist(), "y": self.y.tolist()}


def fit_calibrator(
    probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None
) -> Calibrator | None:
    """`isotonic` of all rows, if such a curve lowers logloss on rows that it was not fitted on; else None.

    Each fifth of the rows is predicted by a curve of the other four. The curve is kept if the mean gain
    is above its standard error. The fifths are contiguous, in the order of the rows: if that is time, a
    curve must help at times that it has not seen, and rows that stand together (of one group, or
    repeated) do not vouch for each other. There is no curve if the rows make one bin only.
    """
    weight, (p_B, y_B) = counting(weight_B, probability_B, label_B)
    if _most_bins(y_B, weight) < 2:
        return None
    mended_B = np.empty(len(p_B))
    for held in np.array_split(np.arange(len(p_B)), _FOLDS):
        seen = np.delete(np.arange(len(p_B)), held)
        curve = isotonic(p_B[seen], y_B[seen], None if weight is None else weight[seen])
        mended_B[held] = curve(p_B[held])
    gain, error = weighted_mean(losses(p_B, y_B) - losses(mended_B, y_B), weight)
    return isotonic(p_B, y_B, weight) if gain > error else None


def isotonic(probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None) -> Calibrator:
    """Isotonic regression over at most 200 bins of equal weight, so that few rows cannot bend it.

    There is a bin for every 50 effective rows of the rarer label: (Σw)² / Σw² rows of equal weight would
    be as certain. Its value is at least what half a click (of mean weight) in it would make, and at most
    what half a non-click would leave, so that no later row costs infinite logloss. Each bin rises by
    2e-6, enough for float32 to keep most of the order (and AUC) inside level runs.
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
    """What the rarer label (by effective rows) allows: 0 if there is none of it to speak of."""
    w_B = np.ones(len(label_B)) if weight_B is None else weight_B
    rows = [w.sum() ** 2 / max(np.square(w).sum(), 1e-300) for w in (w_B[label_B > 0.5], w_B[label_B <= 0.5])]
    return min(_BINS, int(min(rows) * (1 + 1e-9)) // _LEAST)

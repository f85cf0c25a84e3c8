"""A recalibration of click predictions, fitted on validation and kept only if it helps on rows held out of its fit.

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
    probability_B: np.ndarray,
    label_B: np.ndarray,
    weight_B: np.ndarray | None = None,
    time_B: np.ndarray | None = None,
) -> Calibrator | None:
    """`isotonic` of all rows, if such a curve lowers logloss on rows that it was not fitted on; else None.

    The rows, in order of time, are cut into five contiguous parts, and each is predicted by a curve of the other four.
    The curve is kept if the mean gain is above its standard error, of all rows and of the last part alone. The last
    part is what comes nearest to the rows that the curve will serve, and its curve has seen earlier rows only: on a
    table that drifts, rows before and after a part vouch for it, and nothing vouches for the time to come. Parts are
    contiguous so that rows that stand together (of one group, or repeated) do not vouch for each other. There is no
    curve if the rows make one bin only.

    Args:
        probability_B: Predictions.
        label_B: 0 or 1.
        weight_B: Sample weights.
        time_B: When each row happened; without it, rows stand in order of time already, or have none.
    """
    order = np.arange(len(label_B)) if time_B is None else np.argsort(time_B, kind="stable")
    columns = (np.asarray(x)[order] for x in (probability_B, label_B))
    weight, (p_B, y_B) = counting(None if weight_B is None else np.asarray(weight_B)[order], *columns)
    if _most_bins(y_B, weight) < 2:
        return None
    mended_B, parts = np.empty(len(p_B)), np.array_split(np.arange(len(p_B)), _FOLDS)
    for held in parts:
        seen = np.delete(np.arange(len(p_B)), held)
        curve = isotonic(p_B[seen], y_B[seen], None if weight is None else weight[seen])
        mended_B[held] = curve(p_B[held])
    gain_B = losses(p_B, y_B) - losses(mended_B, y_B)
    for judge in (np.arange(len(p_B)), parts[-1]):
        gain, error = weighted_mean(gain_B[judge], None if weight is None else weight[judge])
        if gain <= error:
            return None
    return isotonic(p_B, y_B, weight)


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

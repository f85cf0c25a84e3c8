"""Metrics of predictions on parts of the rows.

B rows of a split, R training rows. Weights as in `recsys.evaluation.metrics`.
"""

import numpy as np

from recsys.evaluation.metrics import auc, counting, logloss

__all__ = ["BANDS", "figures", "seen_before"]

BANDS = ("missing", "unseen", "1-9", "10-99", "at least 100")
"""Slices of the rows by how many training rows have the row's id."""


def seen_before(id_R: np.ndarray, id_B: np.ndarray, missing: int, unseen: int | None) -> np.ndarray:
    """Which of `BANDS` each row belongs to, by how many training rows have its id → band_B.

    Args:
        id_R: Ids ≥ 0 of training rows, those of weight 0 left out.
        id_B: Ids ≥ 0 of the rows.
        missing: The id of rows without a value.
        unseen: The id that values share which training saw never or too rarely; None if there is none.
    """
    known = np.bincount(id_R, minlength=int(id_B.max(initial=0)) + 1)
    if unseen is not None and unseen < len(known):
        known[unseen] = 0
    band_B = 1 + np.searchsorted([1, 10, 100], known[id_B], side="right")
    return np.where(id_B == missing, 0, band_B)


def figures(
    logit_B: np.ndarray, probability_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None
) -> dict[str, float]:
    """AUC, logloss and calibration (Σp / Σy) of rows that may all have one label.

    AUC is left out unless both labels occur, calibration unless there is a click.

    Args:
        logit_B: Scores that AUC compares.
        probability_B: The predictions.
        label_B: 0 or 1.
        weight_B: Sample weights; at least one is above 0.
    """
    weight, (logit, p_B, y_B) = counting(weight_B, logit_B, probability_B, label_B)
    measured = {"logloss": logloss(p_B, y_B, weight)}
    if 0 < np.count_nonzero(y_B) < len(y_B):
        measured = {"auc": auc(logit, y_B, weight), **measured}
    if y_B.any():
        measured["calibration"] = float(np.average(p_B, weights=weight) / np.average(y_B, weights=weight))
    return measured

"""Lasso on encoded columns: a linear model that sets coefficients to 0. R rows, C columns."""

import math

import numpy as np
from sklearn.linear_model import Lasso

from recsys.config.ranges import Count, Positive
from recsys.selection.figures import SearchNotes
from recsys.selection.methods.label_encoding import label_encoded
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search

__all__ = ["lasso"]


def lasso(
    search: Search,
    *,
    alpha: Positive | None = None,
    rows: Count = 100_000,
) -> FieldScores:
    """score_i = ‖β_i‖₂ over the field's standardised columns; β minimises ½·weighted mean (y − xβ)² + α‖β‖₁.

    A field is kept if any of its coefficients is not 0. The model is linear, without interactions: a pair
    of fields that matters only together scores 0.

    Args:
        search: Its training rows are used, with ids encoded by their mean label (`label_encoded`). Its seed fixes
            rows and halves.
        alpha: α > 0; None takes the universal threshold σ_y·√(2 ln C / R), with R the effective number of
            rows. The chance that a column of noise passes it tends to 0.
        rows: Most rows to use.

    Source: Tibshirani, 1996; the threshold is Donoho and Johnstone's, 1994, equation 1.
    """
    x_RC, label_R, weight_R, field_C = label_encoded(search.train, rows, search.seed)
    x_RC = x_RC - np.average(x_RC, 0, weight_R)
    deviation_C = np.sqrt(np.average(np.square(x_RC), 0, weight_R))
    x_RC /= np.where(deviation_C > 0, deviation_C, 1.0)
    if alpha is None:
        mean = float(np.average(label_R, weights=weight_R))  # the label is 0 or 1: its variance is mean·(1 − mean)
        threshold = math.sqrt(2 * math.log(max(2, x_RC.shape[1])) / float(weight_R.sum()))
        alpha = max(1e-12, math.sqrt(mean * (1 - mean)) * threshold)
    fitted = Lasso(alpha=alpha).fit(x_RC, label_R, weight_R)
    square_F = np.bincount(field_C, np.square(fitted.coef_), minlength=len(search.model.schema.fields))
    score = {n: math.sqrt(s) for n, s in zip(search.model.schema.names, square_F, strict=True)}
    notes = SearchNotes("lasso", figures={"alpha": alpha, "rows": len(label_R)})
    return FieldScores(score, {n: s > 0 for n, s in score.items()}, {n: {"norm": s} for n, s in score.items()}, notes)

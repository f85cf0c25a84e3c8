"""One-hot logistic regression, as a baseline and as the linear part beside a network."""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from recsys.baselines.matrices import MIN_COUNT, OneHot
from recsys.baselines.rows import CHUNK, Chosen, Part, Predict, rows_of
from recsys.data.shards import Shards
from recsys.data.split import Split
from recsys.evaluation.metrics import logloss, sigmoid

__all__ = ["LinearWeights", "linear", "linear_weights"]

ITERATIONS = 100  # of Newton's method at most; it needs about five
_ROUGH = 1e-4  # largest tolerance beside a network
_STEP = 0.3  # must be below 2.16 (see `_tolerance`); from .05 to .5 all find the same C, a smaller one takes longer
STRENGTHS = tuple(float(c) for c in np.logspace(-3, 2, 11).round(5))


@dataclass(frozen=True)
class LinearWeights:
    """A logistic regression over prepared ids and numbers. N numbers.

    Args:
        ids: For each field, the weight of each of its ids. A list adds the mean over its ids.
        numbers_N: Weights of the prepared numbers.
        bias: The intercept.
        settings: Settings that the fit chose.
    """

    ids: dict[str, np.ndarray]
    numbers_N: np.ndarray
    bias: float
    settings: Chosen


def _matrix(encoder: OneHot, rows: tuple[np.ndarray, np.ndarray]) -> sp.csr_matrix:
    cuts = range(0, len(rows[0]), CHUNK)
    return sp.vstack([encoder(*(p[c : c + CHUNK] for p in rows)) for c in cuts], "csr")


def _tolerance(most: float, strength: float, train: Part, largest: float = 1.0) -> float:
    """How small Newton's method must make the largest slope if the largest coefficient is about `largest`.

    The step from one C to the next starts at a slope of 2.16·largest / (C·weight of the rows): the penalty's slope
    has shrunk to 1 / 3.16. With a tolerance above that, no coefficient moves, and the climb goes on unchanged.
    """
    rows = len(train[2]) if train[3] is None else float(train[3].sum())
    return min(most, _STEP * max(largest, 0.01) / (strength * rows))


def _newton_step(model: LogisticRegression, x: sp.csr_matrix, train: Part) -> set[type[Warning]]:
    """Take a step from where the model stands → what was warned of: `ConvergenceWarning` if more steps are needed."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.set_params(max_iter=1).fit(x, train[2], train[3])
    return {w.category for w in warned}


def _fitted(
    encoder: OneHot, valid: Shards, train: Part, seed: int, tolerance: float = 1e-6
) -> tuple[LogisticRegression, Chosen]:
    """The regression with the best C: tries ever weaker regularisation until validation logloss rises.

    Logloss is computed after each step of Newton's method, of which the first may go too far. The steps for a C end
    early if it is above the best one and rises: the last C, whose steps cost most, takes two.
    """
    x, x_valid = _matrix(encoder, train[:2]), _matrix(encoder, rows_of(valid, len(valid), seed)[:2])
    weight_B = valid.weight_B
    counting = slice(None) if weight_B is None else np.flatnonzero(weight_B)
    label_B, weight_B = valid.label_B[counting], None if weight_B is None else weight_B[counting]
    model = _regression(seed, tolerance=tolerance)
    best: tuple[float, float, np.ndarray, np.ndarray] = (np.inf, 0.0, np.empty(0), np.empty(0))
    settings: Chosen = {}
    for strength in STRENGTHS:
        model.set_params(C=strength)
        if len(best[2]):
            model.set_params(tol=_tolerance(tolerance, strength, train, float(np.abs(best[2]).max())))
        losses, steps, warned, hopeless = [], 0, {ConvergenceWarning}, False
        while ConvergenceWarning in warned and len(losses) < ITERATIONS and not hopeless:
            warned = _newton_step(model, x, train)
            steps += int(model.n_iter_[0])
            losses.append(logloss(sigmoid(model.decision_function(x_valid)), label_B, weight_B))
            hopeless = len(losses) > 1 and losses[-1] >= losses[-2] and losses[-1] > best[0]
        if losses[-1] > best[0]:
            break
        best = (losses[-1], strength, model.coef_.copy(), model.intercept_.copy())
        settings = {"iterations": steps, "converged": not warned}
    model.C, model.coef_, model.intercept_ = best[1:]
    return model, {"C": best[1], "min_count": MIN_COUNT, "columns": encoder.width, **settings}


def _regression(seed: int, strength: float = 1.0, tolerance: float = 1e-6) -> LogisticRegression:
    return LogisticRegression(
        C=strength, solver="newton-cg", max_iter=ITERATIONS, tol=tolerance, warm_start=True, random_state=seed
    )


def linear(shards: dict[str, Shards], train: Part, seed: int) -> tuple[Predict, Chosen]:
    """Fit logistic regression as a baseline."""
    encoder = OneHot(shards["train"].schema, train[0], train[1], train[3])
    model, settings = _fitted(encoder, shards["valid"], train, seed)

    def predict(ids_BL: np.ndarray, dense_BN: np.ndarray) -> np.ndarray:
        return model.decision_function(encoder(ids_BL, dense_BN))

    return predict, settings


def linear_weights(train: Split, strength: Shards | float, most: int, seed: int) -> LinearWeights:
    """Fit the same regression for use beside a network: it reads rows as the network does.

    Args:
        train: Training rows, of fields without sequences.
        strength: Validation rows to choose C by, or C itself.
        most: Most training rows; of more, a random sample of this size is used.
        seed: Seed of the sample.

    Raises:
        DataError: If the rows hold one label only.
    """
    rows = rows_of(train, most, seed)
    encoder = OneHot(train.schema, rows[0], rows[1], rows[3], as_pooled=True)
    if isinstance(strength, Shards):
        model, settings = _fitted(encoder, strength, rows, seed, _ROUGH)
    else:
        tolerance = _tolerance(_ROUGH, strength, rows)
        model, settings = _regression(seed, strength, tolerance), {"C": float(strength)}
        model.fit(_matrix(encoder, rows[:2]), rows[2], rows[3])
    weights, numbers = model.coef_[0], encoder.width - len(encoder.mean)
    scaled_N = weights[numbers:] / encoder.deviation
    bias = float(model.intercept_[0] - scaled_N @ encoder.mean)
    return LinearWeights({n: weights[place] for n, place in encoder.place.items()}, scaled_N, bias, settings)

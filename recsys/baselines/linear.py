"""One-hot logistic regression."""

import warnings

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from recsys.baselines.matrices import MIN_COUNT, OneHot
from recsys.baselines.rows import CHUNK, Chosen, Part, Predict, scored
from recsys.data.shards import Shards
from recsys.evaluation.metrics import logloss, sigmoid

__all__ = ["linear"]

ITERATIONS = 100  # of Newton's method at most; it needs about five
STRENGTHS = tuple(float(c) for c in np.logspace(-3, 2, 11).round(5))


def linear(shards: dict[str, Shards], train: Part, seed: int) -> tuple[Predict, Chosen]:
    """Logistic regression; C climbs a grid from strong to weak until validation logloss rises."""
    encoder = OneHot(shards["train"].schema, train[0], train[1], train[3])
    cuts = range(0, len(train[2]), CHUNK)
    x, valid = sp.vstack([encoder(*(p[c : c + CHUNK] for p in train[:2])) for c in cuts], "csr"), shards["valid"]
    model = LogisticRegression(solver="newton-cg", max_iter=ITERATIONS, tol=1e-6, warm_start=True, random_state=seed)
    best: tuple[float, float, np.ndarray, np.ndarray] = (np.inf, 0.0, np.empty(0), np.empty(0))
    settings: Chosen = {}

    def predict(ids_BL: np.ndarray, dense_BN: np.ndarray) -> np.ndarray:
        return model.decision_function(encoder(ids_BL, dense_BN))

    for strength in STRENGTHS:
        model.C = strength
        with warnings.catch_warnings(record=True) as warned:  # told by `converged` below
            warnings.simplefilter("always")
            model.fit(x, train[2], train[3])
        loss = logloss(sigmoid(scored(valid, predict)), valid.label_B, valid.weight_B)
        if loss >= best[0]:
            break
        best = (loss, strength, model.coef_.copy(), model.intercept_.copy())
        settings = {"iterations": int(model.n_iter_[0]), "converged": not warned}
    model.C, model.coef_, model.intercept_ = best[1:]
    return predict, {"C": best[1], "min_count": MIN_COUNT, "columns": encoder.width, **settings}

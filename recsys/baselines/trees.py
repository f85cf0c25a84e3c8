"""LightGBM on label rates of ids; fields of few ids are categorical instead."""

from typing import Any

import numpy as np

from recsys.baselines.matrices import PRIOR, TargetRates
from recsys.baselines.rows import Chosen, Part, Predict, rows_of
from recsys.data.shards import Shards
from recsys.errors import ConfigError

__all__ = ["lightgbm_or_mend", "trees"]

LEAVES = (15, 63)


def trees(shards: dict[str, Shards], train: Part, seed: int) -> tuple[Predict, Chosen]:
    """Fit LightGBM; validation stops it early and chooses the number of leaves."""
    lightgbm = lightgbm_or_mend()
    encoder = TargetRates(shards["train"].schema, train[0], train[2], train[3], seed)
    valid = rows_of(shards["valid"], len(train[2]), seed)
    x = encoder.crossed(train[0], train[1])
    data = lightgbm.Dataset(x, train[2], weight=train[3], categorical_feature=encoder.native, free_raw_data=False)
    x = encoder(valid[0], valid[1])
    held = lightgbm.Dataset(x, valid[2], weight=valid[3], reference=data, free_raw_data=False)
    fixed = {"objective": "binary", "learning_rate": 0.05, "verbose": -1, "seed": seed, "deterministic": True}
    fixed |= {"force_row_wise": True, "feature_pre_filter": False}
    fits = {}
    for leaves in LEAVES:
        stop = lightgbm.early_stopping(50, verbose=False)
        fits[leaves] = lightgbm.train({**fixed, "num_leaves": leaves}, data, 2000, valid_sets=[held], callbacks=[stop])
    leaves, model = min(fits.items(), key=lambda f: f[1].best_score["valid_0"]["binary_logloss"])

    def predict(ids_BL: np.ndarray, dense_BN: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict(encoder(ids_BL, dense_BN), raw_score=True))

    settings = {"trees": int(model.best_iteration), "num_leaves": leaves, "learning_rate": 0.05, "prior": PRIOR}
    return predict, {**settings, "native_categorical": len(encoder.native), "columns": encoder.width}


def lightgbm_or_mend() -> Any:
    """Import LightGBM.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError("baseline: LightGBM is not installed: pip install 'recsys[baselines]'") from error
    return lightgbm

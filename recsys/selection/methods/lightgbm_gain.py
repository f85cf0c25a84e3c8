"""Gain of boosted trees on encoded columns. R rows, C columns."""

import time

import numpy as np
import torch

from recsys.config.ranges import Count, Leaves, Many
from recsys.data.split import Split
from recsys.errors import ConfigError
from recsys.frame.ctr import CTR
from recsys.selection.methods.label_encoding import label_encoded
from recsys.selection.scores import FieldScores, check_fields
from recsys.selection.search import Recipe

__all__ = ["lightgbm_gain"]


def lightgbm_gain(
    model: CTR,
    train: Split,
    valid: Split,
    recipe: Recipe,
    seed: int,
    trees: Many = 100,
    leaves: Leaves = 31,
    rows: Count = 100_000,
) -> FieldScores:
    """score_i = loss that splits on the field's columns saved in training, as a share of all.

    Args:
        model: Tells the fields.
        train: Training rows; ids are encoded by their mean label (`label_encoded`).
        valid: Not used.
        recipe: Not used.
        seed: Draws rows and halves.
        trees: At least 1.
        leaves: Of a tree, at least 2.
        rows: R at most.

    Raises:
        ConfigError: If lightgbm is not installed, a count is too low, or there are fewer than two fields.

    Source: Ke et al., LightGBM, 2017; gain as in Friedman, 2001, equation 44. Noise gains a little
    too, on training rows: it is an order and no cut.
    """
    started = time.perf_counter()
    check_fields(model.schema)
    if trees < 1 or leaves < 2:
        raise ConfigError(f"selection: expected trees ≥ 1 and leaves ≥ 2, got {trees} and {leaves}: raise them")
    try:
        from lightgbm import LGBMClassifier
    except ImportError as error:
        raise ConfigError("selection=lightgbm_gain needs lightgbm: pip install lightgbm") from error
    x_RC, label_R, weight_R, field_C = label_encoded(train, rows, seed)
    trained = LGBMClassifier(
        n_estimators=trees,
        num_leaves=leaves,
        importance_type="gain",
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        n_jobs=torch.get_num_threads(),
        verbose=-1,
    ).fit(x_RC, label_R, weight_R)
    gain_F = np.bincount(field_C, trained.feature_importances_, minlength=len(model.schema.fields))
    share_F = gain_F / max(gain_F.sum(), 1e-12)
    score = dict(zip(model.schema.names, share_F.tolist(), strict=True))
    about = {"method": "lightgbm_gain", "trees": trees, "seconds": time.perf_counter() - started}
    return FieldScores(score, None, {n: {"gain_share": s} for n, s in score.items()}, about)

"""Gain of boosted trees on encoded columns. R rows, C columns."""

import numpy as np
import torch

from recsys.config.ranges import Count, Leaves, Many
from recsys.errors import ConfigError
from recsys.selection.figures import SearchNotes
from recsys.selection.methods.label_encoding import label_encoded
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search

__all__ = ["lightgbm_gain"]


def lightgbm_gain(
    search: Search,
    *,
    trees: Many = 100,
    leaves: Leaves = 31,
    rows: Count = 100_000,
) -> FieldScores:
    """score_i = share of the training loss saved by all splits that is saved by splits on the field's columns.

    Args:
        search: Its training rows are used, with ids encoded by their mean label (`label_encoded`). Its seed fixes
            rows and halves.
        trees: Count of trees, at least 1.
        leaves: Most leaves of a tree, at least 2.
        rows: Most rows to use.

    Raises:
        ConfigError: If lightgbm is not installed.

    Source: Ke et al., LightGBM, 2017; gain as in Friedman, 2001, equation 44. On training
    rows noise gains a little too, so that the method gives an order and no cut.
    """
    try:
        from lightgbm import LGBMClassifier
    except ImportError as error:
        raise ConfigError("selection=lightgbm_gain needs lightgbm: pip install lightgbm") from error
    x_RC, label_R, weight_R, field_C = label_encoded(search.train, rows, search.seed)
    trained = LGBMClassifier(
        n_estimators=trees,
        num_leaves=leaves,
        importance_type="gain",
        random_state=search.seed,
        deterministic=True,
        force_row_wise=True,
        n_jobs=torch.get_num_threads(),
        verbose=-1,
    ).fit(x_RC, label_R, weight_R)
    gain_F = np.bincount(field_C, trained.feature_importances_, minlength=len(search.model.schema.fields))
    share_F = gain_F / max(gain_F.sum(), 1e-12)
    score = dict(zip(search.model.schema.names, share_F.tolist(), strict=True))
    notes = SearchNotes("lightgbm_gain", figures={"trees": trees})
    return FieldScores(score, None, {n: {"gain_share": s} for n, s in score.items()}, notes)

"""Fits one-hot logistic regression and LightGBM on the same split as a run.

Their figures go to baselines.json beside the prepared data; every run's evaluate stage shows them.
B rows, L id columns, N numbers, W columns of a baseline's matrix.
"""

import time
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import numpy as np

from recsys.baselines.linear import linear
from recsys.baselines.rows import Chosen, Predict, rows_of, scored
from recsys.baselines.trees import lightgbm_or_mend, trees
from recsys.data.shards import Shards
from recsys.evaluation.calibrate import fit_calibrator
from recsys.evaluation.metrics import evaluate, sigmoid
from recsys.files import read_json, write_json
from recsys.progress import progress
from recsys.terminal import console
from recsys.versions import code_version

__all__ = ["MOST_CELLS", "MOST_ROWS", "Baseline", "Baselines", "baseline", "read"]

MOST_ROWS = 1_000_000  # training rows; of more, a random sample of this size is used
MOST_CELLS = 40_000_000  # rows × columns held at once: about 1 GB in either baseline


class Baseline(TypedDict):
    """One baseline: its figures on two splits, the settings that it chose, and how long it took."""

    valid: dict[str, float]
    test: dict[str, float]
    settings: Chosen
    seconds: float


class Baselines(TypedDict):
    """baselines.json: each baseline by name, training rows used and in all, versions of packages and code."""

    models: dict[str, Baseline]
    rows: dict[str, int]
    versions: dict[str, str]
    code: str


def _figures(valid: Shards, test: Shards, predict: Predict) -> dict[str, dict[str, float]]:
    """Figures on validation and test; on test also after recalibration, if that helps on validation."""
    logit = {s: scored(s, predict) for s in (valid, test)}
    figures = {s: evaluate(x_B, s.label_B, s.group_B, s.weight_B) for s, x_B in logit.items()}
    calibrator = fit_calibrator(sigmoid(logit[valid]), valid.label_B, valid.weight_B, valid.time_B)
    if calibrator is not None:
        curved = evaluate(logit[test], test.label_B, None, test.weight_B, calibrator)
        figures[test] |= {f"recalibrated_{k}": curved[k] for k in ("logloss", "ne", "calibration", "ece")}
    return {s.split: {k: float(v) for k, v in figures[s].items() if np.isfinite(v)} for s in (valid, test)}


def baseline(folder: Path, seed: int = 0) -> Baselines:
    """Fit both baselines on a prepared data set and write baselines.json into its folder.

    Args:
        folder: A prepared data set.
        seed: Seed of the sample of rows, the folds and LightGBM.

    Raises:
        ConfigError: If LightGBM is not installed.
        DataError: If a split is missing or holds one label only.
    """
    lightgbm_or_mend()
    shards = {s: Shards(folder, s) for s in ("train", "valid", "test")}
    first = shards["train"].batch(slice(0, 1))
    width = first.ids_BL.shape[1] + first.dense_BN.shape[1]
    most = min(MOST_ROWS, MOST_CELLS // max(1, width))
    train = rows_of(shards["train"], most, seed)
    models: dict[str, Baseline] = {}
    with progress() as bar:
        task = bar.add_task("baselines", total=2)
        for name, fit in (("logistic regression", linear), ("LightGBM", trees)):
            bar.update(task, description=name)
            started = time.perf_counter()
            predict, settings = fit(shards, train, seed)
            scored = _figures(shards["valid"], shards["test"], predict)
            seconds = round(time.perf_counter() - started, 1)
            models[name] = {
                "valid": scored["valid"], "test": scored["test"], "settings": settings, "seconds": seconds,
            }  # fmt: skip
            bar.advance(task)
    versions = {p: version(p) for p in ("scikit-learn", "lightgbm", "recsys")}
    figures: Baselines = {
        "models": models,
        "rows": {"used": len(train[2]), "of": len(shards["train"])},
        "versions": versions,
        "code": _code(),
    }
    write_json(Path(folder) / "baselines.json", {**figures, "seed": seed})
    return figures


def _code() -> str:
    """The version of the code that the figures depend on."""
    return code_version("recsys.baselines.fit")


def read(folder: Path) -> dict[str, dict[str, float]]:
    """Read each baseline's figures, named as in a run's evaluation; none if this code has not measured them.

    Args:
        folder: A prepared data set.

    Returns:
        Name → auc, logloss, ne … on test, recalibrated_logloss … if that helps on validation, valid_auc, valid_logloss.
    """
    path = Path(folder) / "baselines.json"
    if not path.exists():
        return {}
    figures = read_json(path, "figures of baselines", "run recsys data baseline again", shape=dict)
    if figures.get("code") != _code():
        console().print(f"{path} was made by other code and is left out: run recsys data baseline again")
        return {}
    models = figures["models"]
    return {n: {**m["test"], **{f"valid_{k}": m["valid"][k] for k in ("auc", "logloss")}} for n, m in models.items()}

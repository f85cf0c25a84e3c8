"""The table at the end of a run, and what to do next."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.stage import recalibration, row_names
from pipelines.stages import MODEL_STAGES
from recsys.results import FIGURES, RunResult, no_better_than_constant, prepared_folder, read_made
from recsys.selection.reports.benchmark_page import columns, rows
from recsys.terminal import console

__all__ = ["show"]

_FIGURES = {"auc": "AUC", "logloss": "logloss", "recalibrated_logloss": "recalibrated logloss", "ne": "NE"}


def _models(result: RunResult) -> dict[str, dict[str, float]]:
    evaluated = result.stages.get("evaluate")
    if not evaluated:
        return {}
    return read_made(evaluated.folder, "metrics.json", "the figures of models", FIGURES)


def _better_baseline(models: Mapping[str, Mapping[str, float]]) -> str:
    """A sentence if a baseline has a lower test logloss than what a bundle would hold; else ""."""
    shipped = [n for n in (*MODEL_STAGES, "recalibrated") if n in models][-1]
    logloss = {n: min(m["logloss"], m.get("recalibrated_logloss", m["logloss"])) for n, m in models.items()}
    ours = (*MODEL_STAGES, "recalibrated", "constant")
    others = [n for n in models if n not in ours and not n.startswith("run ")]  # a merge's members are no baselines
    best = min(others, key=lambda n: logloss[n], default=shipped)
    if logloss[best] >= models[shipped]["logloss"]:
        return ""
    figures = {"test logloss": (logloss[best], models[shipped]["logloss"])}
    if "auc" in models[best] and "auc" in models[shipped]:
        figures["AUC"] = (models[best]["auc"], models[shipped]["auc"])
    differences = ", ".join(f"{name} {a:.4f}, not {b:.4f} ({a - b:+.4f})" for name, (a, b) in figures.items())
    sentence = f"{best} has a lower test logloss than the newest model ({row_names(models)[shipped]}): {differences}"
    return f"{sentence}; -m seed=0,1,2 shows how far seeds differ"


def _columns(table: Table, first: str, *numbers: str) -> None:
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")


def _cells(figures: Mapping[str, float], which: str = "") -> list[str]:
    """A model's figures of the main label (""), or of another (".NAME")."""
    return [f"{figures[k + which]:.4f}" if k + which in figures else "" for k in _FIGURES]


def show(result: RunResult, data: str, labels: Sequence[str] = ()) -> None:
    """Print test metrics of every model, sizes and speed, then the commands that come next.

    Args:
        result: Of a run.
        data: Name of its data.
        labels: Names of its labels, the main one first.
    """
    screen = console(width=160)
    models, stages = _models(result), result.stages
    if models:
        table = Table(title=f"{data}: test split{f', label {labels[0]}' if len(labels) > 1 else ''}")
        _columns(table, "model", *_FIGURES.values(), "fields", "tables, MB", "all, MB", "µs a row")
        names = row_names(models)
        for name, m in models.items():
            size = [f"{m[k] / 1e6:.2f}" if k in m else "" for k in ("table_bytes", "bytes")]
            speed = f"{m['us_per_row']:.2f}" if "us_per_row" in m else ""
            table.add_row(names[name], *_cells(m), f"{m['fields']:.0f}" if "fields" in m else "", *size, speed)
        exported = stages["export"].metrics if "export" in stages else None
        if exported:
            fast = [v for k, v in exported.items() if k.startswith("latency.") and "graph" in k and "512" in k]
            size = f"{exported['bundle_bytes'] / 1e6:.2f}"
            table.add_row("bundle on disk", "", "", "", "", "", "", size, f"{fast[0]:.2f}" if fast else "")
        screen.print(table)
        for label in labels[1:]:
            other = Table(title=f"{data}: test split, label {label}")
            _columns(other, "model", *_FIGURES.values())
            for name, m in models.items():
                if f"auc.{label}" in m:  # baselines look at the main label alone
                    other.add_row(names[name], *_cells(m, f".{label}"))
            screen.print(other)
        if worst := no_better_than_constant(models):
            screen.print(worst, style="yellow", soft_wrap=True)
        if better := _better_baseline(models):
            screen.print(better, style="yellow", soft_wrap=True)
        screen.print(recalibration(models), soft_wrap=True, style="dim")
        screen.print(
            "µs a row: 512 rows at a time in eager PyTorch, the models in turn; of the bundle, its graph alone.",
            style="dim",
        )
    if "benchmark" in stages:
        figures = read_made(stages["benchmark"].folder, "benchmark.json", "the figures of a benchmark", dict[str, Any])
        table = Table(*columns(figures), title=f"{data}: retrained on the top k, test split")
        for row in rows(figures):
            table.add_row(*row)
        screen.print(table)
        screen.print("Mean ± deviation over seeds; Δ is paired with all fields.", style="dim")
    if "evaluate" in stages and "prepare" in stages and "logistic regression" not in models:
        prepared = _near(prepared_folder(stages["prepare"].folder))
        screen.print(
            f"no baselines: recsys data baseline {prepared}; then recsys run from_run={result.id} stages=[evaluate]",
            soft_wrap=True,
        )
    _next(screen, result)


def _near(path: str | Path) -> str:
    """The path, relative to the current folder if it is inside it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else str(path)


def _next(screen: Console, result: RunResult) -> None:
    """The exact commands for MLflow, the report and the server."""
    stages, uri = result.stages, result.mlflow.uri
    programs = Path(sys.executable).parent
    lines = {"experiment runs": f"{_near(programs / 'mlflow')} server --backend-store-uri {uri} --port 5000"}
    if not uri.startswith("sqlite"):
        lines = {"experiment runs": uri}
    if "select" in stages:
        lines["selection report"] = _near(stages["select"].folder / "report.html")
    if "benchmark" in stages:
        folder = stages["benchmark"].folder
        lines["benchmark"] = _near(folder / "benchmark.html")
        if len(reports := sorted((folder / "reports").iterdir())) > 1:
            lines["compare two"] = f"{_near(programs / 'recsys')} compare {_near(reports[0])} {_near(reports[1])}"
            lines["compare two"] += " --out compare.html"
    if "daily" in stages:
        lines["daily"] = _near(stages["daily"].folder / "daily.html")
    if "export" in stages and (bundle := stages["export"].bundle):
        lines["serve"] = f"{_near(programs / 'recsys')} serve {_near(bundle)}"
    for what, line in lines.items():
        screen.print(f"{what + ':':18} {line}", soft_wrap=True)

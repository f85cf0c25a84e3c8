"""The table at the end of a run, and what to do next."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.stage import recalibration, row_names
from pipelines.stages import MODEL_STAGES
from recsys.results import FIGURES, RunResult, no_better_than_constant, read_made
from recsys.selection.reports.benchmark_page import columns, rows
from recsys.terminal import console

__all__ = ["show"]


def _models(result: RunResult) -> dict[str, dict[str, float]]:
    evaluated = result.stages.get("evaluate")
    if not evaluated:
        return {}
    return read_made(evaluated.folder, "metrics.json", "the figures of models", FIGURES)


def _better_baseline(models: Mapping[str, Mapping[str, float]]) -> str:
    """A sentence if a baseline has a lower test logloss than what a bundle would hold; else ""."""
    shipped = [n for n in (*MODEL_STAGES, "recalibrated") if n in models][-1]
    logloss = {n: min(m["logloss"], m.get("recalibrated_logloss", m["logloss"])) for n, m in models.items()}
    others = [n for n in models if n not in (*MODEL_STAGES, "recalibrated", "constant")]
    best = min(others, key=lambda n: logloss[n], default=shipped)
    if logloss[best] >= models[shipped]["logloss"]:
        return ""
    figures = {"test logloss": (logloss[best], models[shipped]["logloss"])}
    if "auc" in models[best] and "auc" in models[shipped]:
        figures["AUC"] = (models[best]["auc"], models[shipped]["auc"])
    said = ", ".join(f"{name} {a:.4f}, not {b:.4f} ({a - b:+.4f})" for name, (a, b) in figures.items())
    return f"{best} is better than the model that is shipped ({row_names(models)[shipped]}): {said}"


def show(result: RunResult, data: str) -> None:
    """Print test metrics of every model, sizes and speed, then the commands that come next.

    Args:
        result: Of a run.
        data: Name of its data.
    """
    screen = console(width=160)
    models, stages = _models(result), result.stages
    if models:
        table = Table(title=f"{data}: test split")
        for column in (
            "model",
            "AUC",
            "logloss",
            "recalibrated logloss",
            "NE",
            "fields",
            "tables, MB",
            "all, MB",
            "µs a row",
        ):
            table.add_column(column, justify="left" if column == "model" else "right")
        names = row_names(models)
        for name, m in models.items():
            size = [f"{m[k] / 1e6:.2f}" if k in m else "" for k in ("table_bytes", "bytes")]
            speed = f"{m['us_per_row']:.2f}" if "us_per_row" in m else ""
            table.add_row(
                names[name],
                f"{m['auc']:.4f}",
                f"{m['logloss']:.4f}",
                f"{m['recalibrated_logloss']:.4f}" if "recalibrated_logloss" in m else "",
                f"{m['ne']:.4f}",
                f"{m.get('fields', 0):.0f}" if "fields" in m else "",
                *size,
                speed,
            )
        exported = stages["export"].metrics if "export" in stages else None
        if exported:
            fast = [v for k, v in exported.items() if k.startswith("latency.") and "graph" in k and "512" in k]
            size = f"{exported['bundle_bytes'] / 1e6:.2f}"
            table.add_row("bundle on disk", "", "", "", "", "", "", size, f"{fast[0]:.2f}" if fast else "")
        screen.print(table)
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
    _next(screen, result)


def _near(path: str | Path) -> str:
    """The path as seen from here, where it is below."""
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
    if "export" in stages and (bundle := stages["export"].bundle):
        lines["serve"] = f"{_near(programs / 'recsys')} serve {_near(bundle)}"
    for what, line in lines.items():
        screen.print(f"{what + ':':18} {line}", soft_wrap=True)

"""Trains the winner of a sweep and the default over seeds and compares them on test, which nothing else looks at."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.config import RunConfig
from pipelines.retrains import Changes, Retrained, retrain
from pipelines.stage import Stage
from recsys.events import Reporter
from recsys.features.schema import Schema
from recsys.selection.reports.find import kept
from recsys.selection.reports.report import Difference

__all__ = ["judge"]

METRICS = ("logloss", "auc")
Ends = dict[str, tuple[RunConfig, Path]]
"""`best` and `default` → its configuration, and the folder of its run, which has prepared its data."""


def judge(
    runs: Ends, seeds: Sequence[int], folder: Path, reporter: Reporter
) -> tuple[dict[str, dict[str, list[float]]], dict[str, Difference]]:
    """Train both under each seed, or find them in the cache of retrains.

    Args:
        runs: The winner and the default.
        seeds: Seeds of the trainings.
        folder: The sweep's folder.
        reporter: Is told of progress, and can stop the sweep.

    Returns:
        Metric of test → name → a value for each seed; and metric → best − default, see `paired_difference`.
    """
    models = {name: [_retrained(*run, seed, folder, reporter) for seed in seeds] for name, run in runs.items()}
    by_seed = {m: {name: [r.figures[m] for r in retrained] for name, retrained in models.items()} for m in METRICS}
    config, place = runs["default"]
    change = Changes(Stage(config, folder, {"prepare": place / "prepare"}).data)
    return by_seed, {m: change(models["best"], models["default"], m) for m in METRICS}


def _retrained(config: RunConfig, run: Path, seed: int, folder: Path, reporter: Reporter) -> Retrained:
    stage = Stage(config, folder, {"prepare": run / "prepare"}, reporter)
    names, apply = Schema.load(stage.data / "schema.json").names, config.select.apply
    return retrain(stage, names if apply is None else kept(apply, Path(config.runs), names), seed)

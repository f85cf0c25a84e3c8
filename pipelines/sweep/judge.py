"""The winner of a sweep, trained again over seeds beside the default, and compared on test: the only look at it."""

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
        runs: What is compared.
        seeds: Of trainings.
        folder: Of the sweep.
        reporter: Is told, and can stop it.

    Returns:
        Metric of test → name → a value a seed; and metric → best − default, see `paired_difference`.
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

"""Compares the winner of a sweep with the default on test, which nothing else looks at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.config import RunConfig
from pipelines.retrains import Changes, measured
from pipelines.stage import Stage
from recsys.events import Reporter, raise_if_cancelled
from recsys.selection.reports.report import Difference

__all__ = ["judge"]

METRICS = ("logloss", "auc")


def judge(
    runs: Mapping[str, Sequence[Path]], config: RunConfig, reporter: Reporter
) -> tuple[dict[str, dict[str, list[float]]], dict[str, Difference]]:
    """Measure what the finals trained.

    Args:
        runs: `best` and `default` → the folders of their runs, one for each seed, in the same order.
        config: Says on which device models score.
        reporter: Can stop the sweep.

    Returns:
        Metric of test → name → a value for each seed; and metric → best − default, see `paired_difference`.
    """

    def stage(run: Path) -> Stage:
        raise_if_cancelled(reporter)
        return Stage(config, run / "train", {"prepare": run / "prepare"})

    models = {name: [measured(stage(run)) for run in folders] for name, folders in runs.items()}
    by_seed = {m: {name: [r.figures[m] for r in seen] for name, seen in models.items()} for m in METRICS}
    change = Changes(stage(runs["default"][0]).data)
    return by_seed, {m: change(models["best"], models["default"], m) for m in METRICS}

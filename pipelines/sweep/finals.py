"""Trains the best few trials and the default under new seeds, so that the luck of the search's seed does not decide."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pipelines.sweep.swept import Swept
from pipelines.sweep.trials import of_the_machine
from recsys.errors import Cancelled
from recsys.events import Reporter
from recsys.results import read_result

__all__ = ["finals"]

Run = Callable[[Mapping[str, Any], Path, Reporter], Path]


def finals(swept: Swept, run: Run, folder: Path, reporter: Reporter) -> Swept:
    """Train each finalist under each of `search.seeds` → the sweep, with their logloss and the winner.

    The winner has the lowest mean of validation logloss, weighted by its seconds as in the search; there is none if the
    default's mean is lower still, or the default fails under a seed. A finalist that fails under one cannot win.

    Args:
        swept: The results of the search.
        run: Runs a trial: settings, its folder and a reporter → its result.json.
        folder: The sweep's folder; trial 3 under seed 1 runs in `3-seed1`.
        reporter: Is told of progress, and can stop the sweep.
    """
    default, seeds = swept.default.logloss, swept.settings.seeds
    better = [t for t in swept.trials if t.objective is not None and t.figures and t.objective < default]
    better = sorted(better, key=lambda t: t.objective or 0.0)[: swept.settings.finalists]
    if not better or not seeds:
        return swept

    def under_seeds(name: str, changes: Mapping[str, Any]) -> list[float]:
        paths = [run({**changes, "seed": s}, folder / f"{name}-seed{s}", reporter) for s in seeds]
        return [(read_result(p).stages["train"].metrics or {})["valid_logloss"] for p in paths]

    def tried(name: str, changes: Mapping[str, Any]) -> bool:
        try:
            by_seed[name] = under_seeds(name, changes)
        except Cancelled:
            raise
        except Exception as error:  # as in the search
            if of_the_machine(error):
                raise
            return False
        return True

    by_seed, means = dict[str, list[float]](), dict[int, float]()
    if not tried("default", {}):
        return replace(swept, best=None)
    for trial in better:
        if not tried(str(trial.number), trial.changes):
            continue
        if trial.figures and trial.objective:
            means[trial.number] = fmean(by_seed[str(trial.number)]) * trial.objective / trial.figures.logloss
    best = min(means, key=lambda number: means[number], default=None)
    wins = best is not None and means[best] < fmean(by_seed["default"])
    return replace(swept, finals=by_seed, best=best if wins else None)

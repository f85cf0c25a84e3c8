"""Trains the best few trials and the default under new seeds, so that the luck of the search's seed does not decide."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from pipelines.sweep.executor import Several, Watch, at_once
from pipelines.sweep.swept import Swept
from pipelines.sweep.trials import of_the_machine
from recsys.errors import Cancelled
from recsys.events import Reporter
from recsys.results import read_result

__all__ = ["finals"]

Run = Callable[[Mapping[str, Any], Path, Watch], Path]


def finals(swept: Swept, run: Run, folder: Path, reporter: Reporter, several: Several | None = None) -> Swept:
    """Train each finalist under each of `search.seeds` → the sweep, with their logloss and the winner.

    The winner has the lowest mean of validation logloss, weighted by its seconds as in the search; there is none if the
    default's mean is lower still, or the default fails under a seed. A finalist that fails under one cannot win.

    Args:
        swept: The results of the search.
        run: Runs a trial: settings, its folder and its watch → its result.json.
        folder: The sweep's folder; trial 3 under seed 1 runs in `3-seed1`.
        reporter: Is told of progress, and can stop the sweep.
        several: How many `run` may run at once; None is one at a time.
    """
    default, seeds = swept.default.logloss, swept.settings.seeds
    better = [t for t in swept.trials if t.objective is not None and t.figures and t.objective < default]
    better = sorted(better, key=lambda t: t.objective or 0.0)[: swept.settings.finalists]
    if not better or not seeds:
        return swept

    changes = {"default": {}, **{str(t.number): t.changes for t in better}}
    by_seed = {name: dict[int, float]() for name in changes}

    def jobs() -> Iterator[Callable[[], None]]:
        for name in changes:
            for seed in seeds:
                if "default" in by_seed and name in by_seed:  # no other run is worth its time
                    yield partial(train, name, seed)

    def train(name: str, seed: int) -> None:
        watch = Watch(lambda rows, logloss, step_seconds: False, reporter)
        try:
            result = read_result(run({**changes[name], "seed": seed}, folder / f"{name}-seed{seed}", watch))
            logloss = (result.stages["train"].metrics or {})["valid_logloss"]
        except Cancelled:
            raise
        except Exception as error:  # as in the search
            if of_the_machine(error):
                raise
            by_seed.pop(name, None)
            return
        if name in by_seed:
            by_seed[name][seed] = logloss

    with closing(at_once(jobs(), several)) as trained:
        for _ in trained:
            pass
    if "default" not in by_seed:
        return replace(swept, best=None)
    losses = {name: [of_name[seed] for seed in seeds] for name, of_name in by_seed.items()}
    means = {
        trial.number: fmean(losses[name]) * trial.objective / trial.figures.logloss
        for trial in better
        if (name := str(trial.number)) in losses and trial.figures and trial.objective
    }
    best = min(means, key=lambda number: means[number], default=None)
    wins = best is not None and means[best] < fmean(losses["default"])
    return replace(swept, finals=losses, best=best if wins else None)

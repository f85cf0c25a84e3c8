"""Runs a sweep whose space is checked: its trials, the winner beside the default, the page, and its log in MLflow."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from pipelines import prepare
from pipelines.config import RunConfig
from pipelines.stage import Result, Stage
from pipelines.sweep.configs import Base, experiment
from pipelines.sweep.executor import Executor, Ready, Watch
from pipelines.sweep.finals import finals
from pipelines.sweep.judge import judge
from pipelines.sweep.page import lead, write_page
from pipelines.sweep.screen import Screen
from pipelines.sweep.settings import Settings
from pipelines.sweep.space import TRIAL_STAGES
from pipelines.sweep.swept import Swept, summarise
from pipelines.sweep.trials import Search, open_study
from recsys.events import RunFile
from recsys.files import write_text
from recsys.results import read_run
from recsys.terminal import console
from recsys.tracking import Tracker

__all__ = ["conduct"]

_TITLE = """# Trial {trial} of sweep {id}: validation logloss {logloss:.5f}, the default's {default:.5f}. Copy it to
# experiment/NAME.yaml of the folder that you are in, and run it: recsys run experiment=NAME
"""


def conduct(base: Base, settings: Settings, config: RunConfig, folder: Path, file: RunFile, executor: Executor) -> Path:
    """Search, train the winner again, write sweep.json, sweep.html and best.yaml → sweep.json.

    Args:
        base: The overrides that the sweep starts from.
        settings: Settings of the search.
        config: Configuration of the run without changes.
        folder: The sweep's folder.
        file: The sweep's run.json, which can stop it.
        executor: Runs the trials.
    """
    id, data = str(folder.resolve().relative_to(Path(config.runs).resolve())), config.data["name"]
    study = open_study(folder, settings)
    tracker = Tracker(config.tracking.uri, config.tracking.experiment, Path(config.runs))
    with tracker.parent(id, {**config.to_json(), "search": settings.to_json()}, folder, file.mark):
        with Screen(settings.trials, file) as screen:

            def tell(study: optuna.Study, trial: FrozenTrial | None) -> None:
                run = folder / (str(trial.number) if trial else "default") / "run.json"
                if run.exists():
                    tracker.adopt(read_run(run.parent).mark)
                swept = summarise(study, settings, id, data)
                screen.done(swept, swept.trial(trial.number) if trial else None)

            run = _run_of(base, executor)
            stage = Stage(config, folder / "default" / "prepare", {})
            Search(folder, settings, run, screen, tell, lambda: prepare.check(stage), executor.several).run(study)
            prepare.check(stage)
            if settings.seeds:
                screen.say(f"the best {settings.finalists} and the default under seeds {settings.seeds}")
            swept = finals(summarise(study, settings, id, data), run, folder, screen, executor.several)
        for place in (folder / f"{name}-seed{seed}" for name in swept.finals for seed in settings.seeds):
            tracker.adopt(read_run(place).mark)
        beside = executor.several is not None and not settings.timed
        swept = _judged(replace(swept, beside=beside), base, config, folder, file)
        path, figures = swept.write(folder), {f"test_{m}_change": d["mean"] for m, d in swept.change.items()}
        write_page(swept, folder / "sweep.html")
        files = [p for name in ("sweep.html", "sweep.json", "best.yaml") if (p := folder / name).exists()]
        tracker.log("parent", Result(figures, artifacts=files).to_json(folder, 0.0), folder)
    stderr = console(width=160)
    stderr.print(lead(swept), soft_wrap=True)
    for what, file_name in (("page:", "sweep.html"), ("experiment:", "best.yaml")):
        if (folder / file_name).exists():
            stderr.print(f"{what:18} {folder / file_name}", soft_wrap=True)
    return path


def _run_of(base: Base, executor: Executor) -> Callable[[Mapping[str, Any], Path, Watch], Path]:
    """A function that composes a trial and lets the executor run it."""

    def run(changes: Mapping[str, Any], folder: Path, watch: Watch) -> Path:
        overrides = [*base.typed(changes), f"stages=[{','.join(TRIAL_STAGES)}]"]
        return executor.run(Ready(base.trial(changes), overrides, folder), watch)

    return run


def _judged(swept: Swept, base: Base, config: RunConfig, folder: Path, file: RunFile) -> Swept:
    """Add the test figures of the winner and the default, if there is a winner; write its experiment first."""
    best = swept.winner
    if best is None or best.figures is None:
        (folder / "best.yaml").unlink(missing_ok=True)  # left from before the sweep went on and chose otherwise
        return swept
    title = _TITLE.format(trial=best.number, id=swept.id, logloss=best.figures.logloss, default=swept.default.logloss)
    write_text(folder / "best.yaml", experiment(base.typed(best.changes), title))
    if not swept.settings.seeds:
        return swept
    names = {"best": str(best.number), "default": "default"}
    runs = {name: [folder / f"{run}-seed{s}" for s in swept.settings.seeds] for name, run in names.items()}
    by_seed, change = judge(runs, config, file)
    return replace(swept, by_seed=by_seed, change=change)

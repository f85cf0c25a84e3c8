"""`recsys sweep`: checks the space, then searches it. Imports no training code: a mistake is reported at once."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from pipelines.composed import unused
from pipelines.config import RunConfig
from pipelines.earlier import settings as settings_of_run
from pipelines.one_run import quiet
from pipelines.sweep.configs import Base
from pipelines.sweep.executor import Begun, Executor, Here
from pipelines.sweep.settings import Settings
from recsys.errors import Cancelled, ConfigError
from recsys.events import run_file
from recsys.files import Json
from recsys.lock import locked
from recsys.results import LOCK, Process, Run, config_digest, read_run, utc_now
from recsys.terminal import console

__all__ = ["sweep"]

_LATER = ("trials", "finalists", "seeds")  # settings of the search that may change when a sweep is resumed


def _here(begun: Begun) -> Executor:
    return Here()


def sweep(typed: Sequence[str], executor: Callable[[Begun], Executor] = _here) -> Path:
    """Run a sweep, or go on with one → its sweep.json.

    Args:
        typed: Hydra overrides of the run without changes, `search=NAME`, `search.KEY=VALUE`.
        executor: Makes what runs the trials; by default this process does.

    Raises:
        Cancelled: If a file `cancel` in the sweep's folder, or in a trial's, stops it.
        ConfigError: If a setting is invalid; nothing has been run or written then.
        RecsysError: If something else fails that the user can mend.
    """
    quiet()
    base = Base.split(typed)
    settings, config, folder = base.begin()
    console().print("checking each option of the space", style="dim")
    base.check(settings, folder)
    if base.names_folder:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = Path(unused(str(folder)))
    runs = Path(config.runs).resolve()
    id = str(folder.resolve().relative_to(runs))
    try:
        with locked(folder / LOCK, wait=False):
            run = _begin(folder, config, settings, typed)
            runs_trials = executor(Begun(folder, runs, id, run.mark, settings.timed))
            with run_file(folder, run) as file:
                from pipelines.sweep.conduct import conduct  # Optuna, MLflow and torch take seconds

                return conduct(base, settings, config, folder, file, runs_trials)
    except Cancelled as error:
        raise Cancelled(f"the sweep was asked to stop: recsys sweep resume={id} goes on") from error
    except BlockingIOError as error:
        raise ConfigError(f"sweep {folder.name} is being run by another process: wait for it, or stop it") from error


def _begin(folder: Path, config: RunConfig, settings: Settings, typed: Sequence[str]) -> Run:
    """The first content of run.json, for a new sweep or for a resumed one, which must have the same settings.

    Raises:
        ConfigError: If its settings differ.
    """
    now: Json = json.loads(json.dumps({**settings_of_run(config), "search": settings.to_json()}))
    run = Run(uuid4().hex, now, config_digest(now), list(typed), Process.this(), utc_now(), utc_now())
    if not (folder / "run.json").exists():
        return run
    before = read_run(folder)
    searched = before.config.get("search", {})
    same = {**before.config, "search": {**searched, **{key: now["search"][key] for key in _LATER}}}
    if changed := next((key for key in now if same.get(key) != now[key]), None):
        raise ConfigError(
            f"sweep {folder.name} was begun with another {changed}: leave that as it was, or begin a new sweep"
        )
    again = replace(before, config=now, digest=run.digest, overrides=run.overrides, process=run.process)
    return replace(again, state="running", error=None, note=None)

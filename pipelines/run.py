"""`recsys run`: call the stages in order, tell MLflow, write run.json and result.json.

Imports at the top only what is quick, so that run.json is there within the first second.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rich.text import Text

from pipelines.earlier import changed_since, check_same_before, settings, stages_before, stages_to_run, taken_over
from pipelines.stage import STAGES, Result, Stage, write_json
from recsys.errors import ConfigError
from recsys.events import SILENT, Reporter, RunFile, Together, run_file
from recsys.lock import locked
from recsys.results import (
    VERSION,
    Process,
    Run,
    config_digest,
    noted_overrides,
    read_result,
    read_run,
    read_stage,
    relative,
    utc_now,
)
from recsys.store import masked
from recsys.terminal import console

if TYPE_CHECKING:
    from recsys.tracking import Tracker

__all__ = ["execute"]

_console = console()


def _call(name: str, stage: Stage) -> Result:
    module, _, function = STAGES[name].call.partition(".")
    return getattr(import_module(f"pipelines.{module}"), function)(stage)


def _run_stage(name: str, stage: Stage, tracker: "Tracker", register: str) -> dict[str, Any]:
    """Run one stage, or find that this very run has finished it before it was killed."""
    from pipelines import prepare

    if (stage.folder / "result.json").exists() and not (name == "prepare" and prepare.gone(stage)):
        about = read_stage(stage.folder)
        if name == "prepare":
            prepare.check(stage)
        (stage.folder / "resume.pt").unlink(missing_ok=True)  # if a kill came just before that
        _console.print(Text(name, "bold"), "is done already")
        if "mlflow_run_id" not in about:  # killed, or MLflow failed, before it had been told
            with tracker.stage(name):
                about = _tell(stage.folder, about, tracker, register)
        return about
    _console.rule(Text(name, "bold"))
    stage.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tracker.stage(name):
        result = _call(name, stage)
        about = result.to_json(stage.folder, time.perf_counter() - started)
        about["after"] = stages_before(stage.folder, stage.done)
        write_json(stage.folder / "result.json", about)  # what was made counts, whatever becomes of MLflow
        (stage.folder / "resume.pt").unlink(missing_ok=True)
        return _tell(stage.folder, about, tracker, register)


def _tell(folder: Path, about: dict[str, Any], tracker: "Tracker", register: str) -> dict[str, Any]:
    """Log a stage's result in MLflow, and note in it that this is done."""
    told = tracker.log(folder.name, about, folder)
    if "bundle" in about and told:
        about["model_uri"] = tracker.register(folder.name, folder / about["bundle"], register)
        told = about["model_uri"] is not None
    if told:
        about["mlflow_run_id"] = tracker.ids[folder.name]
        write_json(folder / "result.json", about)
    return about


def _begin(folder: Path, config: Mapping[str, Any]) -> Run:
    """What run.json is to say first: of a new run, or of one that is resumed, which keeps its mark.

    Settings that no stage has used yet may change, so that a mistake in a late one costs no training.

    Raises:
        ConfigError: If a stage that has begun was given other settings.
    """
    now = json.loads(json.dumps(settings(config)))
    process, digest, time_now = Process.this(), config_digest(now), utc_now()
    if not (folder / "run.json").exists():
        return Run(uuid4().hex, now, digest, noted_overrides(folder), process, time_now, time_now)
    before = read_run(folder)
    for name in (n for n in STAGES if (folder / n).exists()):
        used = any(p.is_file() for p in (folder / name).rglob("*"))  # a benchmark keeps a folder for each search
        if used and (changed := changed_since(name, before.config, now)):
            raise ConfigError(
                f"run {folder.name}: its stage {name} was begun with {changed[0]}: leave that out, or begin a new run"
            )
    overrides = before.overrides if before.config == now else noted_overrides(folder)
    again = replace(before, config=now, digest=digest, overrides=overrides, process=process)
    return replace(again, state="running", error=None, note=None)


def execute(config: dict[str, Any], folder: Path, reporter: Reporter = SILENT) -> Path:
    """Run the stages of a resolved configuration in a folder → its result.json.

    Args:
        config: Resolved and checked.
        folder: The run's, inside the folder of runs. Its run.json tells how the run stands.
        reporter: Is told too, and can stop the run.

    Raises:
        Cancelled: If the reporter, or a file `cancel` in the folder, stops the run.
        RecsysError: What the user can mend.
    """
    try:
        with locked(folder / ".lock", wait=False):
            names = stages_to_run(config)
            done = taken_over(config, names)
            id = str(folder.resolve().relative_to(Path(config["runs"]).resolve()))
            check_same_before(folder, names, done, id)
            with run_file(folder, _begin(folder, config)) as file:
                return _run_stages(config, folder, names, done, file, reporter)
    except BlockingIOError as error:
        raise ConfigError(f"run {folder.name} is being run by another process: wait for it, or stop it") from error


def _run_stages(
    config: dict[str, Any], folder: Path, names: list[str], done: dict[str, Path], file: RunFile, reporter: Reporter
) -> Path:
    from pipelines import summary
    from recsys.tracking import Tracker

    tracking, runs = config["tracking"], Path(config["runs"])
    tracker = Tracker(tracking["uri"], tracking["experiment"], runs)
    every = Together(reporter, file, tracker)
    about: dict[str, Any] = {n: {"folder": relative(p, folder)} for n, p in done.items()}
    with tracker.parent(f"{config['name']}-{config['seed']}", config, folder, file.mark):
        for name in names:
            file.stage(name)
            found = _run_stage(name, Stage(config, folder / name, done, every), tracker, tracking["register"])
            shown = {k: found[k] for k in ("seconds", "mlflow_run_id", "metrics", "model_uri") if k in found}
            about[name] = {"folder": name, **shown}
            if "bundle" in found:
                about[name]["bundle"] = f"{name}/{found['bundle']}"
            done[name] = folder / name
    result = {
        "id": str(folder.resolve().relative_to(runs.resolve())),
        "name": config["name"],
        "seed": config["seed"],
        "mlflow": {
            "uri": masked(tracker.uri),
            "experiment": tracking["experiment"],
            "run_id": tracker.ids.get("parent"),
        },
        "stages": about,
    }
    path = write_json(folder / "result.json", result, VERSION)
    summary.show(read_result(path), config)
    return path

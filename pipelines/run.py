"""`recsys run`: call the stages in order, tell MLflow, write run.json and result.json."""

import json
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.text import Text

from pipelines import prepare, summary
from pipelines.earlier import changed_since, settings, stages_to_run, taken_over
from pipelines.stage import STAGES, Result, Stage, write_json
from recsys.errors import ConfigError
from recsys.lock import locked
from recsys.results import VERSION, noted_overrides, read_begun, read_result, read_stage, relative
from recsys.store import masked
from recsys.terminal import console
from recsys.tracking import Tracker

__all__ = ["execute"]

_console = console()


def _call(name: str, stage: Stage) -> Result:
    module, _, function = STAGES[name].call.partition(".")
    return getattr(import_module(f"pipelines.{module}"), function)(stage)


def _run_stage(name: str, stage: Stage, tracker: Tracker, register: str) -> dict[str, Any]:
    """Run one stage, or find that this very run has finished it before it was killed."""
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
        write_json(stage.folder / "result.json", about)  # what was made counts, whatever becomes of MLflow
        (stage.folder / "resume.pt").unlink(missing_ok=True)
        return _tell(stage.folder, about, tracker, register)


def _tell(folder: Path, about: dict[str, Any], tracker: Tracker, register: str) -> dict[str, Any]:
    """Log a stage's result in MLflow, and note in it that this is done."""
    told = tracker.log(folder.name, about, folder)
    if "bundle" in about and told:
        about["model_uri"] = tracker.register(folder.name, folder / about["bundle"], register)
        told = about["model_uri"] is not None
    if told:
        about["mlflow_run_id"] = tracker.ids[folder.name]
        write_json(folder / "result.json", about)
    return about


def _begin(folder: Path, config: Mapping[str, Any]) -> str:
    """Write run.json, or find it in a run that is resumed → the mark by which MLflow knows the run again.

    Settings that no stage has used yet may change, so that a mistake in a late one costs no training.

    Raises:
        ConfigError: If a stage that has begun was given other settings.
    """
    path, now = folder / "run.json", json.loads(json.dumps(settings(config)))
    if not path.exists():
        write_json(path, {"mark": uuid4().hex, "config": now, "overrides": noted_overrides(folder)}, VERSION)
    begun = read_begun(folder)
    for name in (n for n in STAGES if (folder / n).exists()):
        used = any(p.is_file() for p in (folder / name).rglob("*"))  # a benchmark keeps a folder for each search
        if used and (found := changed_since(name, begun["config"], now)):
            raise ConfigError(
                f"run {folder.name}: its stage {name} was begun with {found[0]}: leave that out, or begin a new run"
            )
    if begun["config"] != now:
        write_json(path, {**begun, "config": now, "overrides": noted_overrides(folder)}, VERSION)
    return begun["mark"]


def execute(config: dict[str, Any], folder: Path) -> Path:
    """Run the stages of a resolved configuration in a folder → its result.json.

    Raises:
        RecsysError: What the user can mend.
    """
    try:
        with locked(folder / ".lock", wait=False):
            return _execute(config, folder)
    except BlockingIOError as error:
        raise ConfigError(f"run {folder.name} is being run by another process: wait for it, or stop it") from error


def _execute(config: dict[str, Any], folder: Path) -> Path:
    names = stages_to_run(config)
    done = taken_over(config, names)
    mark = _begin(folder, config)
    tracker = Tracker(config["tracking"]["uri"], config["tracking"]["experiment"], Path(config["runs"]))
    about: dict[str, Any] = {n: {"folder": relative(p, folder)} for n, p in done.items()}
    with tracker.parent(f"{config['name']}-{config['seed']}", config, folder, mark):
        for name in names:
            found = _run_stage(name, Stage(config, folder / name, done), tracker, config["tracking"]["register"])
            shown = {k: found[k] for k in ("seconds", "mlflow_run_id", "metrics", "model_uri") if k in found}
            about[name] = {"folder": name, **shown}
            if "bundle" in found:
                about[name]["bundle"] = f"{name}/{found['bundle']}"
            done[name] = folder / name
    result = {
        "id": str(folder.resolve().relative_to(Path(config["runs"]).resolve())),
        "name": config["name"],
        "seed": config["seed"],
        "mlflow": {
            "uri": masked(tracker.uri),
            "experiment": config["tracking"]["experiment"],
            "run_id": tracker.ids.get("parent"),
        },
        "stages": about,
    }
    path = write_json(folder / "result.json", result, VERSION)
    summary.show(read_result(path), config)
    return path

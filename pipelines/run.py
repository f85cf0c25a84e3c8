"""`recsys run`: call the stages in order, tell MLflow, write run.json and result.json."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from pipelines import benchmark, compress, evaluate, export, prepare, select_features, summary, train
from pipelines.earlier import settings, stages_to_run, taken_over
from pipelines.stage import Result, Stage, write_json
from recsys.files import read_json
from recsys.results import VERSION, read_result, read_stage, relative
from recsys.tracking import Tracker

__all__ = ["STAGES", "execute"]

STAGES: dict[str, Callable[[Stage], Result]] = {
    "prepare": prepare.run,
    "train": train.run,
    "select": select_features.run,
    "retrain": train.run_again,
    "compress": compress.run,
    "evaluate": evaluate.run,
    "export": export.run,
    "benchmark": benchmark.run,
}
_console = Console(stderr=True)


def _run_stage(name: str, stage: Stage, tracker: Tracker, register: str) -> dict[str, Any]:
    """Run one stage, or find that this very run has finished it before it was killed."""
    if (stage.folder / "result.json").exists():
        _console.print(f"[bold]{name}[/] is done already")
        about = read_stage(stage.folder)
        if "mlflow_run_id" not in about:  # killed before MLflow had been told
            with tracker.stage(name):
                about = _tell(stage.folder, about, tracker, register)
        return about
    _console.rule(f"[bold]{name}")
    stage.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tracker.stage(name):
        result = STAGES[name](stage)
        about = result.to_json(stage.folder, time.perf_counter() - started)
        write_json(stage.folder / "result.json", about)  # what was made counts, whatever becomes of MLflow
        return _tell(stage.folder, about, tracker, register)


def _tell(folder: Path, about: dict[str, Any], tracker: Tracker, register: str) -> dict[str, Any]:
    """Log a stage's result on the active MLflow run, and note in it that this is done."""
    tracker.tag(about["tags"])
    tracker.params(about["params"])
    files = [folder / a for a in about["artifacts"]]
    tracker.log({**about["metrics"], "seconds": about["seconds"]}, about["history"], files)
    if "bundle" in about:
        about["model_uri"] = tracker.register(folder / about["bundle"], register)
    about["mlflow_run_id"] = tracker.ids[folder.name]
    write_json(folder / "result.json", about)
    return about


def _begin(folder: Path, config: Mapping[str, Any]) -> str:
    """Write run.json, or find it in a run that is resumed → the mark by which MLflow knows the run again."""
    path = folder / "run.json"
    if path.exists():
        return read_json(path, "the settings of a run", "begin a new run", VERSION)["mark"]
    mark = uuid4().hex
    write_json(path, {"mark": mark, "config": settings(config)}, VERSION)
    return mark


def execute(config: dict[str, Any], folder: Path) -> Path:
    """Run the stages of a resolved configuration in a folder → its result.json.

    Raises:
        RecsysError: What the user can mend.
    """
    names = stages_to_run(config)
    done = taken_over(config, names)
    tracker = Tracker(config["tracking"]["uri"], config["tracking"]["experiment"], Path(config["runs"]))
    about: dict[str, Any] = {n: {"folder": relative(p, folder)} for n, p in done.items()}
    with tracker.parent(f"{config['name']}-{config['seed']}", config, folder, _begin(folder, config)):
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
        "mlflow": {"uri": tracker.uri, "experiment": config["tracking"]["experiment"], "run_id": tracker.ids["parent"]},
        "stages": about,
    }
    path = write_json(folder / "result.json", result, VERSION)
    summary.show(read_result(path), config)
    return path

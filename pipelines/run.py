"""`recsys run`: call the stages in order, tell MLflow, write run.json and result.json."""

import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from pipelines import CONF, benchmark, compress, evaluate, export, prepare, select_features, summary, train
from pipelines.earlier import differences, settings, stages_to_run, taken_over
from pipelines.stage import Result, Stage, write_json
from recsys.errors import ConfigError, RecsysError
from recsys.files import read_json
from recsys.lock import locked
from recsys.results import VERSION, overrides, read_result, read_stage, relative
from recsys.tracking import Tracker

__all__ = ["CONF", "STAGES", "execute", "main", "started"]

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
_begun: list[str] = []  # folders of the runs that this process has begun


def _run_stage(name: str, stage: Stage, tracker: Tracker, register: str) -> dict[str, Any]:
    """Run one stage, or find that this very run has finished it before it was killed."""
    if (stage.folder / "result.json").exists():
        about = read_stage(stage.folder)
        if name == "prepare":
            prepare.check(stage)
        _console.print(f"[bold]{name}[/] is done already")
        if "mlflow_run_id" not in about:  # killed, or MLflow failed, before it had been told
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

    Raises:
        ConfigError: If the run was begun with other settings.
    """
    path, now = folder / "run.json", json.loads(json.dumps(settings(config)))
    if not path.exists():
        write_json(path, {"mark": uuid4().hex, "config": now, "overrides": overrides(folder)}, VERSION)
    begun = read_json(path, "the settings of a run", "begin a new run", VERSION)
    if found := differences(begun["config"], now):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ConfigError(f"run {folder.name} was begun with {found[0]}{more}: leave that out, or begin a new run")
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
            "uri": tracker.uri,
            "experiment": config["tracking"]["experiment"],
            "run_id": tracker.ids.get("parent"),
        },
        "stages": about,
    }
    path = write_json(folder / "result.json", result, VERSION)
    summary.show(read_result(path), config)
    return path


def _resolve(config: DictConfig) -> dict[str, Any]:
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"no value for {', '.join(missing)}: set it, for example {missing[0]}=…")
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration does not resolve: {str(error).splitlines()[0]}: set that key") from error


def _unused(folder: str) -> str:
    """The folder itself, or the first of FOLDER-2, FOLDER-3 … that no run has: two may begin in one second."""
    path, number = Path(folder), 1
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
            path = Path(f"{folder}-{number}")
        else:
            return str(path)


OmegaConf.register_new_resolver("unused", _unused, use_cache=True)


def started() -> int:
    """How many runs of this process got past their configuration."""
    return len(_begun)


def _quiet() -> None:
    """Third parties' chatter that no user can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("torch", "torch.fx", "torch.onnx", "mlflow", "alembic", "torch.fx._symbolic_trace", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)


@hydra.main(version_base=None, config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    """One run; the path of its result.json is the last line printed."""
    _quiet()
    folder = Path(HydraConfig.get().runtime.output_dir)
    _begun.append(str(folder))
    try:
        resolved = _resolve(config)
        print(execute(resolved, folder), flush=True)
    except RecsysError as error:
        _console.print(f"[red]error:[/] {error}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()

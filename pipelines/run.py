"""`recsys run`: call the stages in order, tell MLflow, write result.json."""

import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from pipelines import CONF, benchmark, compress, evaluate, export, prepare, select_features, summary, train
from pipelines.stage import Result, Stage, write_json
from recsys.errors import ConfigError, RecsysError
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


def _stages(config: dict[str, Any], earlier: dict[str, Path]) -> list[str]:
    """The stages to run, in the order of the pipeline; prepare is cached and goes first where it lacks."""
    asked = config["stages"]
    if unknown := [s for s in asked if s not in STAGES]:
        raise ConfigError(f"stages: unknown {unknown}: expected some of {', '.join(STAGES)}")
    if not asked:
        raise ConfigError(f"stages is empty: name some of {', '.join(STAGES)}")
    if config["select"]["apply"] is not None and "train" not in asked:
        raise ConfigError("select.apply is what stage train trains on, and stages lacks it: add train, or unset it")
    wanted = set(asked) | (set() if "prepare" in earlier else {"prepare"})
    return [s for s in STAGES if s in wanted]


def _earlier(config: dict[str, Any]) -> dict[str, Path]:
    """The stage folders of the run named by `from_run`, and of those that it went on from."""
    if not config["from_run"]:
        return {}
    source = Path(config["runs"]) / str(config["from_run"])
    result = source / "result.json"
    if not result.exists():
        known = sorted(str(p.parent.relative_to(config["runs"])) for p in Path(config["runs"]).glob("*/result.json"))
        raise ConfigError(
            f"from_run: no finished run {config['from_run']!r}: expected one of {', '.join(known[-5:]) or 'none yet'}"
        )
    stages = OmegaConf.to_container(OmegaConf.load(result))["stages"]  # type: ignore[index,call-overload]
    return {name: Path(about["folder"]) for name, about in stages.items()}  # type: ignore[union-attr]


def _run_stage(name: str, stage: Stage, tracker: Tracker, register: str) -> dict[str, Any]:
    """Run one stage, or find that this very run has finished it before it was killed."""
    finished = stage.folder / "result.json"
    if finished.exists():
        _console.print(f"[bold]{name}[/] is done already")
        return OmegaConf.to_container(OmegaConf.load(finished))  # type: ignore[return-value]
    _console.rule(f"[bold]{name}")
    stage.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tracker.stage(name):
        result = STAGES[name](stage)
        seconds = time.perf_counter() - started
        tracker.tag(result.tags)
        tracker.params(result.params)
        tracker.log({**result.metrics, "seconds": seconds}, result.history, result.artifacts)
        about: dict[str, Any] = {
            "folder": str(stage.folder.resolve()),
            "seconds": round(seconds, 3),
            "mlflow_run_id": tracker.ids[name],
            "metrics": result.metrics,
        }
        if result.bundle:
            about["bundle"] = str(result.bundle.resolve())
            about["model_uri"] = tracker.register(result.bundle, register)
    write_json(finished, about)
    return about


def execute(config: dict[str, Any], folder: Path) -> Path:
    """Run the stages of a resolved configuration in a folder → its result.json.

    Raises:
        RecsysError: What the user can mend.
    """
    earlier = _earlier(config)
    names = _stages(config, earlier)
    done = {n: p for n, p in earlier.items() if n == "prepare" or n not in names}
    tracker = Tracker(config["tracking"]["uri"], config["tracking"]["experiment"], Path(config["runs"]))
    about: dict[str, Any] = {n: {"folder": str(p.resolve())} for n, p in done.items()}
    with tracker.parent(f"{config['name']}-{config['seed']}", config, folder):
        for name in names:
            stage = Stage(config, folder / name, done)
            about[name] = _run_stage(name, stage, tracker, config["tracking"]["register"])
            done[name] = folder / name
    ordered = {n: about[n] for n in STAGES if n in about}
    result = {
        "id": str(folder.resolve().relative_to(Path(config["runs"]).resolve())),
        "name": config["name"],
        "seed": config["seed"],
        "mlflow": {"uri": tracker.uri, "experiment": config["tracking"]["experiment"], "run_id": tracker.ids["parent"]},
        "stages": ordered,
    }
    path = write_json(folder / "result.json", result)
    summary.show(result, config)
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

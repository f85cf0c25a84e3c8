"""`recsys run`: call the stages in order, tell MLflow, write result.json."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from pipelines import benchmark, compress, evaluate, export, prepare, select_features, summary, train
from pipelines.stage import Result, Stage, write_json
from recsys.errors import ConfigError
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

"""`recsys run`: calls the stages in order, tells MLflow, writes run.json and result.json.

Imports at the top only what is quick, so that run.json exists within the first second.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rich.text import Text

from pipelines.config import RunConfig
from pipelines.earlier import check_same, noted_overrides, settings, stages_to_run, taken_over
from pipelines.launchers.contract import resuming
from pipelines.mlflow_thread import MLflowThread
from pipelines.node import begun, run_node, stage_node
from pipelines.signals import signals_win
from pipelines.stage import Result, Stage
from pipelines.stages import STAGES
from recsys.data.preparation.fields import label_names
from recsys.errors import Cancelled, ConfigError
from recsys.events import SILENT, Reporter, Reporters, RunFile, raise_if_cancelled, run_file
from recsys.lock import locked
from recsys.results import (
    LOCK,
    Process,
    Run,
    RunResult,
    StageOfRun,
    StageResult,
    config_digest,
    read_result,
    read_run,
    read_stage,
    utc_now,
    write_result,
    write_stage,
)
from recsys.terminal import console

if TYPE_CHECKING:
    from recsys.tracking import Tracker

__all__ = ["Call", "alone", "execute", "find", "run_together"]

Call = Callable[[str, Stage], Result]  # name of a stage, the stage → what its function returns
_console = console()


def find(name: str) -> Callable[[Stage], Result]:
    """The function of a stage; a signal ends it as a signal, whatever error other code makes of it."""
    module, _, function = STAGES[name].call.partition(".")
    return signals_win()(getattr(import_module(f"pipelines.{module}"), function))


def alone(name: str, stage: Stage) -> Result:
    """Call a stage in this process only."""
    return find(name)(stage)


def run_together(work: Callable[[Call], int]) -> int:
    """Run the pipeline on the processes that torchrun started → exit code of this one.

    Args:
        work: Runs the pipeline on rank 0, which calls stages by what it is given → exit code.
    """
    from pipelines.together import Together
    from recsys.data.ranks import Ranks

    ranks = Ranks.join()
    together = Together(ranks)
    if not ranks.first:
        return together.follow(find)
    return together.lead(lambda: work(lambda name, stage: together.call(name, find(name), stage)))


def _run_stage(
    name: str, stage: Stage, mlflow: MLflowThread, register: str, before_publishing: Callable[[], None], call: Call
) -> StageResult:
    """Run one stage, unless this run finished it before it was killed → its result."""
    from pipelines import prepare

    def work() -> Result:
        result = call(name, stage)
        before_publishing()
        return result

    node, before = stage_node(name, stage.config, stage.folder, stage.done), begun(stage.folder)
    if before and before.same_inputs(node.inputs) and not before.changes(stage.config):
        node = before  # perhaps of other code: a run goes on with what it has begun
    if name == "prepare" and prepare.gone(stage):
        (stage.folder / "result.json").unlink(missing_ok=True)
    if before == node and (stage.folder / "result.json").exists():
        result = run_node(node, stage.folder, work)
        if name == "prepare":
            prepare.check(stage)
        _console.print(Text(name, "bold"), "is done already")
        if result.mlflow_run_id:
            return result
    else:
        _console.rule(Text(name, "bold"))
    with mlflow.during(lambda tracker: tracker.stage(name)):  # the result counts even if MLflow fails
        result = run_node(node, stage.folder, work)
        mlflow.later(lambda tracker: tracker.log(name, result, stage.folder))
    mlflow.later(lambda tracker: _told(stage.folder, result, tracker, register))
    return result


def _told(folder: Path, result: StageResult, tracker: "Tracker", register: str) -> None:
    """Note in a stage's result that MLflow has it, once its run there has ended as finished; register its bundle."""
    if result.bundle and not tracker.lost:
        result = replace(result, model_uri=tracker.register(folder.name, folder / result.bundle, register))
    if not tracker.lost:
        write_stage(folder, replace(result, mlflow_run_id=tracker.ids[folder.name]))


def _begin(folder: Path, config: RunConfig) -> Run:
    """The first content of run.json, for a new run or for a resumed one, which keeps its mark."""
    now = json.loads(json.dumps(settings(config)))
    process, digest, time_now = Process.this(), config_digest(now), utc_now()
    if not (folder / "run.json").exists():
        return Run(uuid4().hex, now, digest, noted_overrides(folder), process, time_now, time_now)
    before = read_run(folder)
    overrides = before.overrides if before.config == now else noted_overrides(folder)
    again = replace(before, config=now, digest=digest, overrides=overrides, process=process)
    return replace(again, state="running", error=None, note=None)


def _anybody() -> None:
    """Let the run publish: nobody else may have it."""


def execute(
    config: RunConfig,
    folder: Path,
    reporter: Reporter = SILENT,
    before_publishing: Callable[[], None] = _anybody,
    call: Call = alone,
) -> Path:
    """Run the stages of a configuration in a folder → its result.json.

    Args:
        config: A checked configuration.
        folder: The run's, inside the folder of runs. Its run.json tells the state of the run.
        reporter: Is told of progress too, and can stop the run.
        before_publishing: Called before the result of a stage, or of the run, is written; it raises if the run belongs
            to another process meanwhile.
        call: Calls a stage, perhaps on other processes too.

    Raises:
        Cancelled: If the reporter, or a file `cancel` in the folder, stops the run.
        RecsysError: If something fails that the user can mend.
    """
    id = str(folder.resolve().relative_to(Path(config.runs).resolve()))
    try:
        with locked(folder / LOCK, wait=False):
            names = stages_to_run(config)
            done = taken_over(config, names)
            check_same(folder, config, names, done, id)
            with run_file(folder, _begin(folder, config)) as file:
                return _run_stages(config, folder, names, done, file, reporter, before_publishing, call)
    except Cancelled as error:
        raise Cancelled(f"{error}: {resuming(id)} goes on from its last checkpoint") from error
    except BlockingIOError as error:
        raise ConfigError(f"run {folder.name} is being run by another process: wait for it, or stop it") from error


def _run_stages(
    config: RunConfig,
    folder: Path,
    names: list[str],
    done: dict[str, Path],
    file: RunFile,
    reporter: Reporter,
    before_publishing: Callable[[], None],
    call: Call,
) -> Path:
    tracking, runs = config.tracking, Path(config.runs)
    title, noted = f"{config.name}-{config.seed}", config.to_json()
    stages = {name: StageOfRun(place) for name, place in done.items()}
    with (
        MLflowThread(tracking.uri, tracking.experiment, runs) as mlflow,
        mlflow.during(lambda tracker: tracker.parent(title, noted, folder, file.mark)),
    ):
        every = Reporters(reporter, file, mlflow)
        for name in names:
            raise_if_cancelled(every)
            file.stage(name)
            done[name] = folder / name
            stage = Stage(config, done[name], {n: p for n, p in done.items() if n != name}, every)
            file.stage_ended(_run_stage(name, stage, mlflow, tracking.register, before_publishing, call).metrics)
    stages |= {name: _of_run(folder / name, read_stage(folder / name)) for name in names}
    id = str(folder.resolve().relative_to(runs.resolve()))
    before_publishing()
    path = write_result(folder, RunResult(id, config.name, config.seed, mlflow.tracking, stages))
    from pipelines import summary  # its tables and plots take a second to import

    summary.show(read_result(path), config.data["name"], label_names(config.data))
    return path


def _of_run(folder: Path, result: StageResult) -> StageOfRun:
    bundle = folder / result.bundle if result.bundle else None
    return StageOfRun(folder, result.seconds, result.metrics, bundle, result.mlflow_run_id, result.model_uri)

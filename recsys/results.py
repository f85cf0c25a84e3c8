"""Files of a run for later runs and for people: run.json, and a result.json for the run and for each stage.

Paths in these files are relative to the file's own folder, so that a folder of runs may be moved.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Lt

from recsys.errors import DataError
from recsys.files import only_text, read_json, write_json
from recsys.lock import is_held

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "FIGURES",
    "LOCK",
    "VERSION",
    "Amount",
    "Process",
    "Run",
    "RunResult",
    "StageOfRun",
    "StageResult",
    "Tracking",
    "config_digest",
    "no_better_than_constant",
    "overrides",
    "prepared_folder",
    "read_as",
    "read_made",
    "read_prepared",
    "read_result",
    "read_run",
    "read_stage",
    "relative",
    "utc_now",
    "write_prepared",
    "write_result",
    "write_run",
    "write_stage",
]

FIGURES = dict[str, dict[str, float]]  # model → its metrics, in metrics.json of stage evaluate
VERSION = 2  # version of result.json; a reader reads its own version only
NOTE_VERSION = 1  # version of data.json
RUN_VERSION = 2  # version of run.json
LOCK = ".lock"  # a file in a run's folder; the process of the run holds its lock
_MEND = "run it again with this recsys"
T = TypeVar("T")
_Count = Annotated[int, Ge(0), Lt(2**63)]


def relative(path: Path, folder: Path) -> str:
    """The path relative to a folder, through `..` if it is not inside."""
    return os.path.relpath(Path(path).resolve(), Path(folder).resolve())


@dataclass(frozen=True)
class Tracking:
    """A run in MLflow: the store's address without a password, the experiment, and the id of the run."""

    uri: str
    experiment: str
    run_id: str | None


@dataclass(frozen=True)
class StageOfRun:
    """One stage in a run's result; only the folder, if the stage was reused from an earlier run."""

    folder: Path
    seconds: float | None = None
    metrics: dict[str, float] | None = None
    bundle: Path | None = None
    mlflow_run_id: str | None = None
    model_uri: str | None = None


@dataclass(frozen=True)
class RunResult:
    """result.json of a run, which the run writes last. Paths are absolute here, relative in the file."""

    id: str
    name: str
    seed: int
    mlflow: Tracking
    stages: dict[str, StageOfRun]


def read_result(path: Path) -> RunResult:
    """The result of a run.

    Args:
        path: Its result.json.

    Raises:
        DataError: If there is no such file, or it is damaged or of another version.
    """
    result = read_as(path, RunResult, "the result of a run", _MEND, VERSION)

    def absolute(stage: StageOfRun) -> StageOfRun:
        bundle = stage.bundle and _absolute(path, stage.bundle)
        return replace(stage, folder=_absolute(path, stage.folder), bundle=bundle)

    return replace(result, stages={name: absolute(stage) for name, stage in result.stages.items()})


def _absolute(file: Path, written: str | Path) -> Path:
    """The absolute form of a path that is written in a file.

    Raises:
        DataError: If it is not a valid path.
    """
    if "\0" in str(written):
        raise DataError(f"{file} is damaged: expected a path, got {str(written)!r}: {_MEND}")
    return (file.parent / written).resolve()


def write_result(folder: Path, result: RunResult) -> Path:
    """Write result.json of a run → its path."""
    written: dict[str, Any] = asdict(result)
    for stage in written["stages"].values():
        for key in ("folder", "bundle"):
            stage[key] = stage[key] and relative(stage[key], folder)
    return write_json(folder / "result.json", written, VERSION)


@dataclass(frozen=True)
class StageResult:
    """result.json of a stage, which the stage writes last; paths are relative to its folder.

    Args:
        seconds: Duration of the stage.
        metrics: Name → number.
        tags: Name → text, for its run in MLflow.
        params: Name → setting that the stage computed.
        history: One entry for each step, with a `step`, for curves.
        artifacts: Files or folders for people or later runs.
        bundle: A serving bundle.
        mlflow_run_id: Id of its run in MLflow, once all this is logged.
        model_uri: URI of the bundle in MLflow.
    """

    seconds: float
    metrics: dict[str, float]
    tags: dict[str, str]
    params: dict[str, str]
    history: list[dict[str, float]]
    artifacts: list[str]
    bundle: str | None = None
    mlflow_run_id: str | None = None
    model_uri: str | None = None


def read_stage(folder: Path) -> StageResult:
    """The result.json of one stage.

    Raises:
        DataError: If there is none, or it is damaged or of another version.
    """
    mend = "remove it, and resume the run to run the stage again"
    result = read_as(folder / "result.json", StageResult, "the result of a stage", mend, VERSION)
    for path in (*result.artifacts, result.bundle or "."):
        _absolute(folder / "result.json", path)
    return result


def write_stage(folder: Path, result: StageResult) -> Path:
    """Write the result.json of one stage."""
    return write_json(folder / "result.json", asdict(result), VERSION)


@dataclass(frozen=True)
class Process:
    """A process, for people to read; whether it is still running follows from the run's lock.

    Args:
        pid: Id of the process, on its machine or in its container.
        started: When it started, seconds since 1970.
    """

    pid: Annotated[int, Ge(-(2**31)), Lt(2**31)]
    started: float

    @classmethod
    def this(cls) -> "Process":
        """The current process."""
        import psutil

        return cls(os.getpid(), psutil.Process().create_time())


@dataclass(frozen=True)
class Amount:
    """Progress: how many units of the total are done."""

    done: _Count
    total: _Count
    unit: str


@dataclass(frozen=True)
class Run:
    """run.json: the state of a run, from its start on.

    Args:
        mark: 32 hexadecimal digits that identify the run in MLflow.
        config: All settings that its figures depend on.
        digest: Digest of `config`.
        overrides: Overrides that it was begun with; None if Hydra recorded none.
        process: The process that runs it, or ran it last.
        started: When it was first begun, UTC.
        updated: When this was written, UTC.
        state: State of the run. A killed process cannot write its state: `read_run` detects it.
        stage: The running stage.
        progress: Progress of the stage.
        metrics: Stage → its newest figures, their step, and the best look so far of a training (`best_valid_auc`);
            once the stage has ended, the figures of its result.
        note: The newest line for a person.
        error: Why it failed, on one line.
    """

    mark: str
    config: dict[str, Any]
    digest: str
    overrides: list[str] | None
    process: Process
    started: str
    updated: str
    state: Literal["running", "finished", "failed", "cancelled", "killed"] = "running"
    stage: str | None = None
    progress: Amount | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str | None = None
    error: str | None = None


def utc_now() -> str:
    """The time, as `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def config_digest(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def read_run(folder: Path, mend: str = "begin a new run") -> Run:
    """The run.json of a run; its state is `killed` if it says `running` and no process holds its lock.

    Raises:
        DataError: If there is none, or it is damaged or of another version.
    """
    run = read_as(folder / "run.json", Run, "the settings of a run", mend, RUN_VERSION)
    dead = run.state == "running" and not is_held(folder / LOCK)
    return replace(run, state="killed") if dead else run


def write_run(folder: Path, run: Run) -> Path:
    """Replace run.json of a run."""
    return write_json(folder / "run.json", asdict(run), RUN_VERSION)


def read_as(path: Path, kind: type[T], what: str, mend: str, version: int | None = None) -> T:
    """Read JSON into the type of a type hint; keys that a dataclass does not have are left out.

    Args:
        path: The file.
        kind: Type of its value: a dataclass, or a type of JSON values, such as `dict[str, float]`.
        what: What the file should be, for messages: "the result of a run".
        mend: What the user can do about an error: "run it again".
        version: The one version of the format that the caller reads; the file must have it.

    Raises:
        DataError: If there is no such file, it is not JSON, or it has another version or shape.
    """
    from pydantic import ValidationError

    value = read_json(path, what, mend, version)
    try:
        return _adapter(kind).validate_json(json.dumps(only_text(value)), strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        wrong = f"{place} is missing or of another type" if place else f"got a {type(value).__name__}"
        raise DataError(f"{path} is damaged: expected {what}, {wrong}: {mend}") from error


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    """The reader of a type: to make one takes longer than to read a file, and a folder of runs has thousands."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_made(folder: Path, name: str, what: str, kind: Any) -> Any:
    """Read a JSON file of a finished stage.

    Args:
        folder: Folder of the stage.
        name: Name of the file.
        what: What the file should be, for messages.
        kind: As for `read_as`.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    return read_as(
        folder / name, kind, what, f"remove {folder / 'result.json'} and resume its run, which makes it again"
    )


def read_prepared(folder: Path, name: str, kind: Any) -> Any:
    """Read a JSON file of prepared data; `kind` is that of `read_as`.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    return read_as(folder / name, kind, "a file of prepared data", f"remove {folder} and run stage prepare again")


def overrides(folder: Path) -> list[str] | None:
    """The overrides that a run was begun with; None if no run was begun in the folder.

    Hydra's own record is of the last attempt, which may have been refused, or killed during the write.

    Raises:
        DataError: If run.json is damaged or of another version.
    """
    return read_run(folder).overrides if (folder / "run.json").exists() else None


def write_prepared(stage: Path, prepared: Path) -> Path:
    """Write the path of the prepared data into the folder of stage prepare → the file written."""
    return write_json(stage / "data.json", {"folder": relative(prepared, stage)}, NOTE_VERSION)


def prepared_folder(stage: Path) -> Path:
    """The folder of the prepared data that a stage prepare made or found.

    Args:
        stage: Folder of the stage.

    Raises:
        DataError: If the stage wrote no path, or wrote it in another version.
    """
    note = read_json(stage / "data.json", "a note of where the prepared data is", _MEND, NOTE_VERSION, {"folder": str})
    return _absolute(stage / "data.json", note["folder"])


def no_better_than_constant(models: Mapping[str, Mapping[str, float]]) -> str:
    """A warning if no model is better than the constant, which predicts the label rate for every row; else "".

    Args:
        models: Name → metrics, with `ne` (logloss divided by that of the test rows' own label rate) and possibly
            `recalibrated_ne`. Models are compared with the `ne` of the entry `constant`, or with 1 without it.
    """
    bar = models.get("constant", {}).get("ne", 1.0)
    losses = [min(m["ne"], m.get("recalibrated_ne", m["ne"])) for n, m in models.items() if n != "constant"]
    best = min(losses, default=0.0)
    if best < bar:
        return ""
    return (
        f"No model beats always saying the label rate: the best test logloss is {best / bar:.3f} times that. The "
        "columns tell nothing of the label, or there are too few rows to learn it from; see recsys data report."
    )

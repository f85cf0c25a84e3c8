"""What a run leaves for later runs and for people: run.json, and a result.json for it and for each stage.

Paths in these files are relative to the file's own folder, so that a folder of runs may be moved.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from recsys.errors import DataError
from recsys.files import read_json, write_json
from recsys.lock import is_held

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
    "noted_overrides",
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

FIGURES = dict[str, dict[str, float]]  # of each model, by name, in metrics.json of stage evaluate
VERSION = 2  # of result.json; a reader reads its own version only
NOTE_VERSION = 1  # of data.json
RUN_VERSION = 2  # of run.json
LOCK = ".lock"  # in a run's folder; the process that runs it holds it
_MEND = "run it again with this recsys"
T = TypeVar("T")


def relative(path: Path, folder: Path) -> str:
    """The path as seen from a folder, through `..` if it is not below."""
    return os.path.relpath(Path(path).resolve(), Path(folder).resolve())


@dataclass(frozen=True)
class Tracking:
    """Where MLflow has a run: the store's address without a password, the experiment, and the id of the run."""

    uri: str
    experiment: str
    run_id: str | None


@dataclass(frozen=True)
class StageOfRun:
    """What a run says of one of its stages; of one that it took over from an earlier run, the folder alone."""

    folder: Path
    seconds: float | None = None
    metrics: dict[str, float] | None = None
    bundle: Path | None = None
    mlflow_run_id: str | None = None
    model_uri: str | None = None


@dataclass(frozen=True)
class RunResult:
    """result.json of a run, the last thing that it writes. Its paths are absolute here, relative in the file."""

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
        DataError: If there is none, or it is damaged or of another version.
    """
    result = read_as(path, RunResult, "the result of a run", _MEND, VERSION)

    def absolute(stage: StageOfRun) -> StageOfRun:
        bundle = stage.bundle and _absolute(path, stage.bundle)
        return replace(stage, folder=_absolute(path, stage.folder), bundle=bundle)

    return replace(result, stages={name: absolute(stage) for name, stage in result.stages.items()})


def _absolute(file: Path, written: str | Path) -> Path:
    """The place that a path in a file leads to.

    Raises:
        DataError: If no file can have that name.
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
    """result.json of a stage, the last thing that it writes; paths are relative to its folder.

    Args:
        seconds: That it took.
        metrics: Numbers, by name.
        tags: Words, by name, for its run in MLflow.
        params: Settings that it worked out, by name.
        history: One entry a step, with a `step`, for curves.
        artifacts: Files or folders that a person or a later run wants.
        bundle: A serving bundle.
        mlflow_run_id: Of its run in MLflow, once all this is there.
        model_uri: Of the bundle in MLflow.
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
    """A process, for people to see: whether a run's process is there still is told by the run's lock.

    Args:
        pid: Its number, on the machine or in the container that it runs in.
        started: When it started, seconds since 1970.
    """

    pid: int
    started: float

    @classmethod
    def this(cls) -> "Process":
        """The one that asks."""
        import psutil

        return cls(os.getpid(), psutil.Process().create_time())


@dataclass(frozen=True)
class Amount:
    """So many units of so many are done."""

    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class Run:
    """run.json: how a run stands, from its first second on.

    Args:
        mark: 32 hexadecimal digits by which MLflow knows the run again.
        config: All that its figures depend on.
        digest: Of `config`.
        overrides: That it was begun with; None if Hydra noted none.
        process: That runs it, or ran it last.
        started: When it was begun first, UTC.
        updated: When this was written, UTC.
        state: How it stands. A process that is killed cannot write that it was: `read_run` finds out.
        stage: The one that runs.
        progress: Of the stage.
        metrics: Stage → its newest figures, and their step.
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
    """Read JSON as what a type hint says; keys that a dataclass does not have are left out.

    Args:
        path: The file.
        kind: Of its value: a dataclass, or a type of values that JSON knows, such as `dict[str, float]`.
        what: It should be, for messages: "the result of a run".
        mend: What the user can do if it is not: "run it again".
        version: The one version of the format that the caller reads; the file must have it.

    Raises:
        DataError: If there is no such file, it is no JSON, or it is of another version or shape.
    """
    from pydantic import TypeAdapter, ValidationError

    value = read_json(path, what, mend, version)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        wrong = f"{place} is missing or of another type" if place else f"got a {type(value).__name__}"
        raise DataError(f"{path} is damaged: expected {what}, {wrong}: {mend}") from error


def read_made(folder: Path, name: str, what: str, kind: Any) -> Any:
    """A file of JSON that a finished stage left.

    Args:
        folder: The stage's.
        name: Of the file.
        what: It holds, for messages.
        kind: As for `read_as`.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    return read_as(
        folder / name, kind, what, f"remove {folder / 'result.json'} and resume its run, which makes it again"
    )


def read_prepared(folder: Path, name: str, kind: Any) -> Any:
    """A file of JSON of prepared data; its kind is that of `read_as`.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    return read_as(folder / name, kind, "a file of prepared data", f"remove {folder} and run stage prepare again")


def overrides(folder: Path) -> list[str] | None:
    """The overrides that a run was begun with; None if none was begun in the folder.

    Hydra notes those of the last attempt too, which may have been refused, or killed while they were written.

    Raises:
        DataError: If run.json is damaged or of another version.
    """
    return read_run(folder).overrides if (folder / "run.json").exists() else None


def noted_overrides(folder: Path) -> list[str] | None:
    """The overrides of the last attempt at a run, as Hydra noted them; None if it noted none."""
    from omegaconf import OmegaConf

    noted = folder / ".hydra" / "overrides.yaml"
    if not noted.is_file():
        return None
    typed: Any = OmegaConf.to_container(OmegaConf.load(noted))  # as they were typed, not resolved
    return [str(o) for o in typed] if isinstance(typed, list) else None


def write_prepared(stage: Path, prepared: Path) -> Path:
    """Note in the folder of stage prepare where the prepared data is → the note."""
    return write_json(stage / "data.json", {"folder": relative(prepared, stage)}, NOTE_VERSION)


def prepared_folder(stage: Path) -> Path:
    """Where the prepared data is that a stage prepare made or found.

    Args:
        stage: Its folder.

    Raises:
        DataError: If it noted none, or in another version.
    """
    note = read_json(stage / "data.json", "a note of where the prepared data is", _MEND, NOTE_VERSION, {"folder": str})
    return _absolute(stage / "data.json", note["folder"])


def no_better_than_constant(models: Mapping[str, Mapping[str, float]]) -> str:
    """A sentence if no model beats the constant, which says the label rate to every row; else "".

    Args:
        models: Name → metrics, among them `ne` (logloss over that of the test rows' own label rate) and, if
            there are any, `recalibrated_ne`. The entry `constant`, if there is one, is the bar; else it is 1.
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

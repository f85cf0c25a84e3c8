"""A node: one piece of work, named by all that its result depends on.

The stages of a run, and the searches and retrains of a benchmark, are nodes. Each has a folder: node.json is written
first and says what the work depends on, result.json is written last and says that it is done. Resume, `from_run` and
the cache of retrains all ask the same question: is this node finished?
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig
from pipelines.stage import CHECKPOINTS, Result
from pipelines.stages import STAGES
from recsys.config.factory import targets
from recsys.config.options import present_name
from recsys.errors import ConfigError, DataError
from recsys.files import Json, read_json, remove_folder, remove_unfinished, unfinished_folder, write_json
from recsys.lock import locked
from recsys.results import StageResult, prepared_folder, read_as, read_stage, relative, write_stage
from recsys.selection.reports.find import is_mlflow_id, named
from recsys.versions import code_version, constant

__all__ = [
    "NOT_HASHED",
    "Input",
    "Node",
    "begun",
    "check_ours",
    "inputs_read",
    "make_node",
    "run_node",
    "settings_read",
    "stage_node",
]

NODE_VERSION = 1  # of node.json
NOT_HASHED = tuple(f"recsys.{room}" for room in ("pages", "terminal", "progress", "events", "errors"))
"""Packages that no result depends on: pages, and what is printed on the screen."""

_SECONDS = {"seconds": float}
_EARLIER = "earlier.json"  # seconds of attempts that failed or were cancelled; none of a finished stage
_COMPUTE = ("torch", "torchrec", "fbgemm-gpu")  # torchrec asks for fbgemm-gpu on every machine


@dataclass(frozen=True)
class Input:
    """An earlier node that a node reads.

    Args:
        folder: Its path relative to the folder of the node that reads it.
        digest: Digest of the earlier node; for prepared data its name, which holds the digest of the table too.
    """

    folder: str
    digest: str


@dataclass(frozen=True)
class Node:
    """What a piece of work depends on.

    Args:
        stage: Name of the work.
        settings: The settings that it reads.
        inputs: Earlier nodes that it reads, by name of the stage.
        formats: Version of each kind of file that it writes.
        code: Version of the code that does it, of torch and of what computes the tables; in a cache that several
            runs or machines share, also device and precision.
    """

    stage: str
    settings: Json
    inputs: dict[str, Input]
    formats: dict[str, int]
    code: str

    @property
    def digest(self) -> str:
        """20 hexadecimal digits that depend on everything but the places of folders."""
        parts = {**asdict(self), "inputs": {name: i.digest for name, i in self.inputs.items()}}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def same_inputs(self, inputs: Mapping[str, Input]) -> bool:
        """Whether these are the node's inputs, in whatever folders."""
        return {n: i.digest for n, i in self.inputs.items()} == {n: i.digest for n, i in inputs.items()}

    def changes(self, config: RunConfig) -> list[str]:
        """How a configuration, or this recsys, differs from the node: `seed=0, not 5`, one entry for each key."""
        now = settings_read(self.stage, config)
        changed = [d for key, value in now.items() for d in _differences(self.settings.get(key), value, key)]
        return changed + _differences(self.formats, _formats(self.stage), "")


def settings_read(stage: str, config: RunConfig) -> Json:
    """The settings that a stage reads, by dotted key, as JSON holds them.

    For `select.apply` these are the names of the fields, since its file may be edited. An MLflow run's report cannot be
    edited and takes seconds to get: its id stands for it.
    """
    values, apply = config.to_json(), config.select.apply
    if "select.apply" in STAGES[stage].reads and isinstance(apply, str) and not is_mlflow_id(apply):
        values["select"]["apply"] = named(apply, Path(config.runs))

    def setting(key: str) -> Any:
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    return json.loads(json.dumps({key: setting(key) for key in STAGES[stage].reads}))


def _formats(stage: str) -> dict[str, int]:
    """Version of each kind of file that a stage writes, by the constant that holds it."""
    return {name: constant(name) for name in STAGES[stage].formats}


def _differences(before: Any, now: Any, key: str) -> list[str]:
    """What differs between two values, one entry for each key; a `_target_` that has moved is the same."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(k for k in now if k not in before)]
        inside = [_differences(before.get(k), now.get(k), f"{key}.{k}" if key else str(k)) for k in keys]
        return [d for some in inside for d in some]
    if key.endswith("._target_") and isinstance(before, str) and present_name(before) == now:
        return []
    return [] if before == now else [f"{key}={_short(before)}, not {_short(now)}"]


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def stage_node(stage: str, config: RunConfig, folder: Path, done: Mapping[str, Path]) -> Node:
    """The node of a stage.

    Args:
        stage: Its name.
        config: The whole configuration.
        folder: The stage's folder.
        done: Folders of the stages before, by name.
    """
    settings = settings_read(stage, config)
    return make_node(stage, settings, folder, done, [f"pipelines.{STAGES[stage].call.partition('.')[0]}"])


def make_node(
    stage: str,
    settings: Json,
    folder: Path,
    done: Mapping[str, Path],
    modules: Collection[str],
    without: Collection[str] = NOT_HASHED,
    device: str = "",
) -> Node:
    """The node of work that writes a stage's files; its code is that of the modules and of what settings name.

    A run's own stages name no device: a run may go on, or be taken over, on another one.
    """
    from importlib.metadata import version  # with a parser of mail, which is slow

    inputs = inputs_read(folder, done)
    code = code_version(*modules, *targets(settings), without=without)
    computes = ", ".join([code, *(f"{name} {version(name)}" for name in _COMPUTE), *filter(None, [device])])
    return Node(stage, settings, inputs, _formats(stage), computes)


def inputs_read(folder: Path, done: Mapping[str, Path]) -> dict[str, Input]:
    """The inputs of a node in a folder: the stages before it, as they are now."""
    return {name: Input(relative(place, folder), _digest_of(name, place)) for name, place in done.items()}


def _digest_of(name: str, folder: Path) -> str:
    """The digest of an earlier stage; "" if it has not begun."""
    if name == "prepare":
        return prepared_folder(folder).name if (folder / "data.json").exists() else ""
    node = begun(folder)
    return node.digest if node else ""


def begun(folder: Path) -> Node | None:
    """The node that was begun in a folder; None if none was.

    Raises:
        DataError: If its node.json is damaged or of another version.
    """
    if not (folder / "node.json").exists():
        return None
    mend = f"remove {folder}, and it is made again"
    node = read_as(folder / "node.json", Node, "what a stage depends on", mend, NODE_VERSION)
    if node.stage not in STAGES:
        raise DataError(f"{folder / 'node.json'} is damaged: expected a stage, got {node.stage!r}: {mend}")
    return node


def check_ours(folder: Path) -> None:
    """Refuse a folder that does not belong to an earlier node: no other files may be removed.

    Raises:
        ConfigError: If a link, a file, or a folder with files but without node.json is in the way.
    """
    ours = not folder.exists() or (folder.is_dir() and ((folder / "node.json").exists() or not any(folder.iterdir())))
    if folder.is_symlink() or not ours:
        raise ConfigError(
            f"{folder}: expected no such place, or the folder of a stage with its node.json, got something else, which "
            "stays: name another folder for the run by hydra.run.dir=…"
        )


def run_node(node: Node, folder: Path, work: Callable[[], Result]) -> StageResult:
    """Do the work unless it is done already → its result.

    Interrupted work goes on in its folder; files of another node there are removed. If another process works on the
    node, this one waits for it.

    Raises:
        ConfigError: If foreign files are in the folder.
        DataError: If the result in the folder is damaged or of another version.
    """
    with locked(folder.with_name(f".{folder.name}.lock")):
        before = begun(folder)
        if before is None or before.digest != node.digest:
            check_ours(folder)
            if before:
                remove_folder(folder)
            with unfinished_folder(folder) as new:
                write_json(new / "node.json", {"digest": node.digest, **asdict(node)}, NODE_VERSION)
        if not (folder / "result.json").exists():
            _timed(folder, work)
        if (folder / CHECKPOINTS).exists():
            remove_folder(folder / CHECKPOINTS)
        (folder / _EARLIER).unlink(missing_ok=True)
        remove_unfinished(folder)  # of a process that was killed just then
        return read_stage(folder)


def _timed(folder: Path, work: Callable[[], Result]) -> None:
    """Do the work and write its result; its seconds are those of all attempts but of killed ones, which leave none."""
    note = folder / _EARLIER
    mend = f"remove {note}, and only the last attempt is timed"
    earlier = 0.0
    if note.exists():
        earlier = read_json(note, "seconds of earlier attempts", mend, 1, _SECONDS)["seconds"]
    started = time.perf_counter()
    try:
        result = work()
    except BaseException:  # a cancelled run too
        with suppress(OSError):  # on a full disk the error of the work counts
            write_json(note, {"seconds": earlier + time.perf_counter() - started}, 1)
        raise
    write_stage(folder, result.to_json(folder, earlier + time.perf_counter() - started))

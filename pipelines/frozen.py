"""Runs that are composed and checked now, and executed later, exactly so: a queue holds them in between.

Imports no training code, so that a mistake is reported at once.
"""

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from pipelines.check import check
from pipelines.composed import Checked, checked, composed
from pipelines.config import RunConfig
from pipelines.continued import continued, in_full
from pipelines.earlier import check_same, settings, stages_to_run, taken_over
from pipelines.launchers.contract import TOKEN
from pipelines.one_run import run_one
from pipelines.overrides import all_runs, key_of
from recsys.config.options import own_options
from recsys.errors import Cancelled, ConfigError
from recsys.files import Json, read_json, write_json, write_text
from recsys.lock import locked
from recsys.results import LOCK, config_digest, read_as

if TYPE_CHECKING:
    from pipelines.run import Call

__all__ = [
    "OWNER",
    "Frozen",
    "freeze",
    "freeze_begun",
    "freeze_config",
    "hand_over",
    "read_frozen",
    "run_frozen",
    "write_frozen",
    "write_owner",
]

FILE, OWNER = "frozen.json", "owner.json"  # in the run's folder
VERSION = 1  # of both
_OURS = re.compile(r"hydra\.(run\.dir|sweep\.dir|searchpath)")  # all of Hydra's part that a queued run obeys
_composing = Lock()  # Hydra composes by way of global state


@dataclass(frozen=True)
class Frozen:
    """A run that is composed and checked.

    Args:
        id: Path of its folder below the folder of runs, such as `20261129-084217-demo-0`; free when it was composed. A
            run of a sweep is called `SWEEP/NUMBER`.
        overrides: What leads to it after `recsys run`.
        config: The composed configuration: JSON of `RunConfig`.
        digest: 16 hexadecimal digits that name what its figures depend on; the digest of its run.json.
        runs: The folder of runs, absolute.
        cwd: The folder in which it was composed, absolute: relative paths of the configuration start there.
        name: `name` of the configuration.
        seed: `seed` of the configuration.
        experiment: Option of the group `experiment`; None without one.
        sweep: Id of its sweep; None unless it is a run of one.
        cores: CPU cores that its own processes take on the machine that starts it, at least.
        gpus: GPUs that they take there, at least.
    """

    id: str
    overrides: list[str]
    config: Json
    digest: str
    runs: str
    cwd: str
    name: str
    seed: int
    experiment: str | None = None
    sweep: str | None = None
    cores: int = 1
    gpus: int = 0


def freeze(overrides: Sequence[str], multirun: bool = False) -> list[Frozen]:
    """Compose and check a run, or all runs of a sweep, as `recsys run` does in the current folder; nothing is written.

    Args:
        overrides: What may follow `recsys run`, without Hydra's options; `from_run=ID` too.
        multirun: Whether to run each combination of swept values, as `-m` does.

    Raises:
        ConfigError: At the first mistake, in one line.
    """
    typed = in_full(overrides)
    if wrong := next((o for o in typed if o.startswith(("-", "resume="))), None):
        mend = "recsys resume ID goes on with a run" if wrong[0] == "r" else "leave it out"
        raise ConfigError(f"expected overrides KEY=VALUE, got {wrong!r}: {mend}")
    if wrong := next((o for o in typed if key_of(o).startswith("hydra") and not _OURS.fullmatch(key_of(o))), None):
        raise ConfigError(f"{wrong}: a run of the queue obeys hydra.run.dir and hydra.searchpath alone: leave it out")
    runs = _checked(typed, multirun)
    home = _unused(runs[0].folder)
    return [_frozen(run, home, number if multirun else None) for number, run in enumerate(runs)]


def _checked(typed: list[str], multirun: bool = False) -> list[Checked]:
    with _composing:
        every = continued(typed)
        if not any(key_of(o) == "hydra.searchpath" for o in every):
            every = [*every, *own_options(Path.cwd())]
        # The name of an option may be a path out of the packaged ones, and an interpolation makes any name.
        ours = not any(key_of(o) == "hydra.searchpath" or ".." in o or "$" in o for o in every)
        return checked(composed(every, multirun, all_runs), every, multirun, ours)


def freeze_begun(id: str, runs: Path) -> Frozen:
    """Compose and check a run that `recsys run` began, as `recsys run resume=ID` does in the current folder.

    Args:
        id: Of the run.
        runs: The folder of runs.

    Raises:
        ConfigError: If it cannot go on: it is a sweep, or the files of its configuration have changed.
    """
    place = [] if runs.resolve() == Path("runs").resolve() else [f"runs={runs}"]
    (run,) = _checked([f"resume={id}", *place])
    names = stages_to_run(run.config)
    check_same(run.folder, run.config, names, taken_over(run.config, names), id)
    return _frozen(run, run.folder, None)


def hand_over(frozen: Frozen) -> None:
    """Let the queue go on with a run that `recsys run` began.

    Raises:
        ConfigError: If a process runs it.
    """
    folder = Path(frozen.runs) / frozen.id
    try:
        with locked(folder / LOCK, wait=False):
            write_json(folder / FILE, asdict(frozen), VERSION)
            os.utime(folder / "run.json")  # so that the table of the queue reads the folder again
    except BlockingIOError as error:
        raise ConfigError(f"run {frozen.id} is being run: recsys cancel {frozen.id} stops it") from error


def _unused(folder: Path) -> Path:
    """The folder or, if it is there, the first of FOLDER-2, FOLDER-3 … that is not."""
    path, number = folder, 1
    while path.exists():
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")
    return path


def _frozen(run: Checked, home: Path, number: int | None) -> Frozen:
    home_id = str(home.resolve().relative_to(Path(run.config.runs).resolve()))
    id, sweep = (home_id, None) if number is None else (f"{home_id}/{number}", home_id)
    return freeze_config(run.config, run.overrides, id, sweep, run.whole.hydra.runtime.choices.get("experiment"))


def freeze_config(
    config: RunConfig, overrides: Sequence[str], id: str, sweep: str | None = None, experiment: str | None = None
) -> Frozen:
    """A run of a configuration that is checked; the current folder is where its relative paths start.

    Args:
        config: The configuration.
        overrides: What leads to it after `recsys run`.
        id: As of `Frozen`; so are the others.
        sweep: Id of its sweep.
        experiment: Option of the group `experiment`.
    """
    part = config.launcher or {}
    here = int(part.get("processes", 1)) if str(part.get("_target_", "")).endswith(".Torchrun") else 1
    far = str(part.get("_target_", "")).endswith((".Ray", ".Slurm"))
    return Frozen(
        id=id,
        overrides=[o for o in overrides if key_of(o).split(".")[0] != "hydra"],
        config=json.loads(json.dumps(config.to_json())),
        digest=config_digest(json.loads(json.dumps(settings(config)))),
        runs=str(Path(config.runs).resolve()),
        cwd=str(Path.cwd()),
        name=config.name,
        seed=config.seed,
        experiment=experiment,
        sweep=sweep,
        cores=here,
        gpus=here if config.device == "cuda" and not far else 0,
    )


def write_frozen(frozen: Frozen) -> Path:
    """Make the folder of a run that is to be executed → the folder; `recsys run resume=ID` reads it like any other's.

    If the folder has a frozen.json, as that of a run that goes on has, it stays.

    Raises:
        ConfigError: If the folder is that of another run.
    """
    folder = Path(frozen.runs) / frozen.id
    frozen_before = (folder / FILE).exists()
    if frozen_before and read_frozen(folder).config == frozen.config:
        return folder
    if frozen_before or (folder / "run.json").exists():
        raise ConfigError(f"{folder}: expected a new folder, got that of another run: submit it again")
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    overrides = OmegaConf.to_yaml(OmegaConf.create(frozen.overrides))
    write_text(folder / ".hydra" / "overrides.yaml", overrides)  # as Hydra notes them
    write_json(folder / FILE, asdict(frozen), VERSION)
    return folder


def read_frozen(folder: Path) -> Frozen:
    """What a run's folder says that the run executes.

    Raises:
        DataError: If there is no such file, or it is damaged or of another version.
    """
    return read_as(folder / FILE, Frozen, "a frozen run", "submit it again", VERSION)


def write_owner(folder: Path, token: str, attempt: int) -> None:
    """Say whose the run is: processes with another token in their environment can publish nothing from now on."""
    write_json(folder / OWNER, {"token": token, "attempt": attempt}, VERSION)


def _check_owner(folder: Path) -> None:
    """Check that the run has not been handed to another worker, if a worker started this process.

    Raises:
        Cancelled: If it has.
    """
    mine = os.environ.get(TOKEN)
    if mine is None:
        return
    owner: Json = read_json(folder / OWNER, "the owner of a run", "submit it again", VERSION, {"token": str})
    if owner["token"] != mine:
        raise Cancelled(f"run {folder.name} belongs to another worker now, which goes on from the last checkpoint")


def run_frozen(folder: Path, call: "Call | None" = None) -> int:
    """Execute a frozen run, from its last checkpoint if it has begun → exit code, as of `recsys run`.

    The current folder must be that of its frozen.json.

    Args:
        folder: The run's.
        call: As for `run_one`.
    """

    def read() -> RunConfig:
        _check_owner(folder)
        frozen = read_frozen(folder)
        try:
            config = RunConfig.from_json(frozen.config)
        except ConfigError as error:
            anew = f"in {frozen.cwd}, {shlex.join(['recsys', 'submit', *frozen.overrides])} composes it anew"
            raise ConfigError(f"it was composed by another version of recsys ({error}): {anew}") from error
        check(config)
        return config

    return run_one(read, folder, lambda: ["frozen"], lambda: _check_owner(folder), call)

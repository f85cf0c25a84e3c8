"""Runs the trials of a sweep by the queue, several at once.

Each trial is a run whose parent is the sweep. The sweep itself takes no room on a worker: it is the process that the
user started, and its folder says how it stands, as that of any run that the queue did not begin. Trials go on without
that process, and `recsys sweep resume=ID` finds them again by their keys: the sweep's mark, and the trial's name.
"""

import errno
import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge

from pipelines.frozen import freeze_config
from pipelines.sweep.executor import Begun, NotOfTheTrial, Ready, Several, Watch
from recsys.errors import Cancelled, ConfigError, DataError
from recsys.events import CANCEL, CURVES
from recsys.files import write_json
from recsys.results import read_as
from recsys.service.door import Submission
from recsys.service.queue.errors import QueueDown
from recsys.service.queue.folders import read_folders
from recsys.service.queue.records import ENDED, PRUNED, STOPPED, Load, Needs, NewRun, QueuedRun
from recsys.service.queue.sql import SqlQueue
from recsys.service.submit import git_state, of_queue, user_name
from recsys.terminal import console

__all__ = ["FILE", "QueuedTrials", "Wishes", "read_wishes", "slots"]

FILE, VERSION = "queue.json", 1  # in the sweep's folder: how its trials are queued
_PAUSE = 0.5  # seconds between two looks at a trial
_PATIENCE = 5.0  # seconds between two attempts to reach a database, and between two looks at the workers
_ALIVE = 60.0  # seconds since the last heartbeat of a worker that takes runs
T = TypeVar("T")


@dataclass(frozen=True)
class Wishes:
    """How the trials of a sweep are queued.

    Args:
        parallel: Most trials that wait or run at once; None is as many as the workers have room for.
        needs: What each trial takes of a machine.
        priority: Larger runs earlier.
    """

    parallel: Annotated[int, Ge(1)] | None = None
    needs: Needs = field(default_factory=Needs)
    priority: int = 0


def read_wishes(folder: Path) -> Wishes | None:
    """How the trials of the sweep in a folder are queued; None if they are not.

    Raises:
        DataError: If the file that says it is damaged.
    """
    file = folder / FILE
    return read_as(file, Wishes, "how trials are queued", "begin a new sweep", VERSION) if file.exists() else None


def slots(load: Load, needs: Needs) -> int:
    """How many such runs fit on the machines whose workers were heard of within a minute, if nothing else runs."""
    rooms = {w.host: w.room for w in load.workers if load.now - w.heartbeat_at <= _ALIVE}
    wanted = asdict(needs)
    return sum(min(have // wanted[k] for k, have in asdict(room).items() if wanted[k]) for room in rooms.values())


class _Looks:
    """Tells the watch of a trial each look at validation, as the trial's process has noted it, once.

    Args:
        folder: The trial's.
        watch: Is told.
    """

    def __init__(self, folder: Path, watch: Watch):
        self._file, self._watch = folder / CURVES, watch
        self._size, self._told = 0, set[int]()

    def tell(self) -> None:
        """Tell what is new."""
        with suppress(FileNotFoundError):
            if (size := self._file.stat().st_size) != self._size:
                self._size = size
                for line in self._file.read_text(encoding="utf-8", errors="replace").split("\n"):
                    self._take(line)

    def _take(self, line: str) -> None:
        try:
            point: Any = json.loads(line)
            rows, seconds = int(point["pace"]["rows"]), point["pace"]["step_seconds"]
            logloss = float(point["valid_logloss"])
        except (ValueError, TypeError, KeyError):
            return  # of another stage, or unfinished: its process is writing it, or was killed
        if point["stage"] == "train" and rows not in self._told:
            self._told.add(rows)
            self._watch.looked(rows, logloss, math.nan if seconds is None else float(seconds))


def _threads(wishes: Wishes) -> tuple[int, int]:
    """What a trial's speed depends on."""
    return wishes.needs.cores, wishes.needs.gpus


class QueuedTrials:
    """Submits trials, follows them, and stops those that their watch stops; implements `Executor`.

    Args:
        queue: The queue.
        begun: The sweep.
        wishes: How to queue its trials; if seconds count, they run one at a time.

    Raises:
        ConfigError: If the trials ran in one process so far; or if seconds count, and several were to run at once, or
            on other cores or GPUs than those so far.
    """

    def __init__(self, queue: SqlQueue, begun: Begun, wishes: Wishes):
        if begun.timed and (wishes.parallel or 1) > 1:
            raise ConfigError(
                "parallel: expected 1, since seconds count in this search, and trials that run at once slow each "
                f"other down, got {wishes.parallel}: leave it out, or set search.objective=logloss search.beta=0"
            )
        if (begun.folder / "study.db").exists() and not (begun.folder / FILE).exists():
            raise ConfigError(
                f"sweep {begun.id} was begun in one process: recsys sweep resume={begun.id} goes on with it there"
            )
        before = read_wishes(begun.folder)
        if begun.timed and before and _threads(before) != _threads(wishes):
            was, now = _threads(before), _threads(wishes)
            raise ConfigError(
                f"cores, gpus: expected {was[0]} and {was[1]}, on which the default and the trials so far were timed, "
                f"since seconds count in this search, got {now[0]} and {now[1]}: leave them out, or begin a new sweep"
            )
        write_json(begun.folder / FILE, asdict(wishes), VERSION)
        self._queue, self._begun = queue, begun
        self._wishes = replace(wishes, parallel=1) if begun.timed else wishes
        self._left, self._lock = threading.Event(), threading.Lock()
        self._listed, self._down = False, False  # whether the queue knows the sweep; does not answer
        self._slots, self._looked = 1, -math.inf  # room for so many trials, seen when
        self._git, self._user = git_state(Path.cwd()), user_name()
        self.several = Several(self._room, self._left.set)
        self._introduce()

    def _introduce(self) -> None:
        """Say what becomes of trials without this process, and whether a worker is there."""
        id, stderr = self._begun.id, console()
        stderr.print(
            f"trials are runs of the queue, and go on without this process: recsys cancel {id} stops all, recsys sweep "
            f"resume={id} goes on",
            style="dim", soft_wrap=True,
        )  # fmt: skip
        if slots(self._queue.load(), self._wishes.needs) < 1:
            text = "no worker with room for a trial was heard of in the last minute: start one: recsys worker"
            stderr.print(text, soft_wrap=True)

    def run(self, trial: Ready, watch: Watch) -> Path:
        """Submit a trial, or find it in the queue, and follow it until it has ended → its result.json."""
        looks = _Looks(trial.folder, watch)
        if watch.cancelled():
            raise Cancelled("the sweep was asked to stop")
        row = self._ask(lambda: self._submitted(trial))
        while row.cancel_asked_at is not None and row.state not in ENDED:  # the sweep was cancelled just before
            if self._left.wait(_PAUSE):
                raise NotOfTheTrial(f"run {row.id} goes on without the sweep")
            row = self._ask(lambda: self._submitted(trial))
        if row.state in ENDED and row.state != "finished":
            looks.tell()
            if watch.cancelled():  # the sweep was killed before it could note that it had stopped the trial
                raise Cancelled(f"run {row.id} was stopped")
            self._ask(lambda: self._queue.resume(row.id))
        return self._follow(row.id, trial.folder, looks, watch)

    def _follow(self, id: str, folder: Path, looks: _Looks, watch: Watch) -> Path:
        asked = False
        while True:
            row = self._ask(lambda: self._queue.get(id))
            looks.tell()  # after the row is read: of a run that has ended, all of them
            if row.state in ENDED:
                return self._result(row, folder, asked)
            left = self._left.wait(_PAUSE)
            if watch.cancelled() and not asked:
                asked = True
                self._ask(lambda: self._cancel(id, PRUNED if watch.stopped else STOPPED))
            if left:
                raise NotOfTheTrial(f"run {id} goes on without the sweep")

    def _result(self, row: QueuedRun, folder: Path, asked: bool) -> Path:
        """The result.json of a trial that has ended well, or what ended it as an error."""
        reason = row.reason or f"run {row.id} is {row.state}"
        if row.state == "finished":
            return folder / "result.json"
        if row.state == "cancelled" and (asked or (self._begun.folder / CANCEL).exists()):
            raise Cancelled(f"run {row.id} was stopped")
        if row.state == "cancelled":
            raise DataError(f"run {row.id} was stopped on request, by itself")
        if "No space left on device" in reason:
            raise OSError(errno.ENOSPC, reason)
        raise DataError(reason)

    def _submitted(self, trial: Ready) -> QueuedRun:
        """The trial's row, which is new if the queue does not have it.

        Raises:
            NotOfTheTrial: If it cannot be submitted.
        """
        self._list_sweep()
        new = self._new(trial)
        try:
            if new.id not in self._queue.configs([new.id]):
                if trial.folder.exists():
                    raise NotOfTheTrial(
                        f"{trial.folder}: expected no folder, since the queue has no run {new.id} (its database may be "
                        f"new): remove the folder, then recsys sweep resume={self._begun.id} runs the trial again"
                    )
                return self._queue.submit([new])[0]
            row = self._queue.get(new.id)
        except ConfigError as error:
            raise NotOfTheTrial(str(error)) from error
        if row.new.client_key != new.client_key:
            raise NotOfTheTrial(
                f"the queue has a run {new.id} of another sweep: begin this one in another folder (hydra.run.dir)"
            )
        return row

    def _new(self, trial: Ready) -> NewRun:
        name = trial.folder.name
        options = [o.partition("=")[2] for o in trial.overrides if o.startswith("experiment=")]
        frozen = freeze_config(
            trial.config, trial.overrides, f"{self._begun.id}/{name}", self._begun.id, next(iter(options), None)
        )
        asked = Submission(trial.overrides, priority=self._wishes.priority, needs=self._wishes.needs)
        run = of_queue(frozen, asked, self._user)
        return replace(run, client_key=f"{self._begun.mark}/{name}", git=self._git)

    def _list_sweep(self) -> None:
        """Let the queue know the sweep from its folder, as it knows what `recsys run` begins."""
        with self._lock:
            if not self._listed:
                read_folders(self._queue, self._begun.runs)
                if self._queue.get(self._begun.id).new.kind != "direct":
                    raise NotOfTheTrial(
                        f"the queue has another run {self._begun.id}: begin the sweep in another folder (hydra.run.dir)"
                    )
            self._listed = True

    def _cancel(self, id: str, reason: str) -> None:
        with suppress(ConfigError):  # it has ended meanwhile
            self._queue.cancel(id, reason)

    def _ask(self, ask: Callable[[], T]) -> T:
        """Ask the queue until it answers: meanwhile trials go on.

        Raises:
            NotOfTheTrial: If the sweep stops before.
        """
        while True:
            try:
                answer = ask()
            except QueueDown as error:
                if not self._down:
                    self._down = True
                    console().print(f"the queue does not answer, trials go on: {error}", soft_wrap=True)
                if self._left.wait(_PATIENCE):
                    raise NotOfTheTrial(str(error)) from error
            else:
                self._down = False
                return answer

    def _room(self) -> int:
        """How many trials may wait or run at once, now."""
        if self._wishes.parallel is not None:
            return self._wishes.parallel
        if time.monotonic() >= self._looked + _PATIENCE:
            self._looked = time.monotonic()
            with suppress(QueueDown):
                self._slots = max(1, slots(self._queue.load(), self._wishes.needs))
        return self._slots

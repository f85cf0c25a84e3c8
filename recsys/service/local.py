"""The door of a database that this process opens itself. Imports late what `recsys submit` does without."""

import os
import shlex
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.files import Json
from recsys.service.door import LogPart, Submission
from recsys.service.inside import LOGS
from recsys.service.queue.open import address, open_queue
from recsys.service.queue.records import ENDED, Event, QueuedRun, Schedule, State
from recsys.service.queue.sql import SqlQueue

__all__ = ["LocalDoor"]

_PIECE = 1 << 20  # bytes of a log at once


class LocalDoor:
    """Works on the database itself; implements `recsys.service.door.Door`.

    Args:
        queue: The queue.
        runs: Folder of runs, in which `recsys run` begins others.
        check: Refuses configurations that callers may not run.
        turn: What a run is composed in when the queue takes it over; it may refuse.
    """

    def __init__(
        self,
        queue: SqlQueue,
        runs: Path,
        check: Callable[[dict[str, Any]], None] | None = None,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self._queue, self._runs, self._check, self._turn = queue, runs, check, turn

    @classmethod
    def open(cls, runs: Path) -> "LocalDoor":
        """Open the database of a folder of runs, or that of RECSYS_DATABASE."""
        return cls(open_queue(address(runs)), runs)

    def submit(self, asked: Submission) -> list[QueuedRun]:
        from recsys.service.submit import new_runs

        return self._queue.submit(new_runs(asked))

    def check(self, asked: Submission) -> list[dict[str, Any]]:
        from recsys.service.submit import new_runs

        return [run.config for run in new_runs(asked) if run.kind == "run"]

    def runs(
        self,
        states: Sequence[State] = (),
        parent: str | None = None,
        text: str = "",
        before: int | None = None,
        limit: int = 50,
    ) -> list[QueuedRun]:
        self._look()
        return self._queue.find(states, parent, text, before, limit)

    def get(self, id: str) -> QueuedRun:
        try:
            row = self._queue.get(id)
        except ConfigError:  # perhaps recsys run has begun it just now
            row = None
        if row is None or row.new.kind == "direct":
            self._look()
            row = self._queue.get(id)
        return row

    def compare(self, ids: Sequence[str]) -> Json:
        from recsys.service.compare import chosen, compare
        from recsys.service.outcomes import Figures

        self._look()
        return compare(chosen(self._queue, ids), Figures(lambda run: Path(run.new.runs)))

    def _look(self, runs: Path | None = None) -> None:
        """Bring rows of runs that the queue did not begin up to date with their folders."""
        from recsys.service.queue.folders import read_folders

        read_folders(self._queue, runs or self._runs)

    def log(self, id: str, start: int = 0) -> LogPart:
        row = self.get(id)
        folder = Path(row.new.runs) / row.id
        if row.host not in (None, socket.gethostname()) and not folder.is_dir():
            raise ConfigError(
                f"{id} ran on {row.host}, and its folder {folder} is not to be seen from here: ask there, or a service "
                "(RECSYS_URL)"
            )
        path = next((p for name in LOGS if (p := folder / name).is_file()), folder / LOGS[0])
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a link could lead elsewhere
        except OSError:
            return LogPart(b"", start)
        with os.fdopen(handle, "rb") as file:
            start = start if 0 <= start <= os.fstat(handle).st_size else 0
            file.seek(start)
            return LogPart(file.read(_PIECE), start)

    def cancel(self, id: str) -> QueuedRun:
        self.get(id)  # brings what its folder says into the queue
        return self._queue.cancel(id)

    def resume(self, id: str, dead: bool = False) -> QueuedRun:
        row = self.get(id)
        if row.new.kind == "direct" and row.state in ENDED - {"finished"}:
            self._take_over(row)
        return self._queue.resume(id, dead)

    def _take_over(self, row: QueuedRun) -> None:
        """Let the queue have a run that `recsys run` began and that ended."""
        from pipelines.frozen import freeze_begun, hand_over

        with self._turn():
            frozen = freeze_begun(row.id, Path(row.new.runs))
        if self._check is not None:
            self._check(frozen.config)
        hand_over(frozen)
        self._look(Path(row.new.runs))

    def retry(self, id: str) -> QueuedRun:
        row = self.get(id)
        if row.new.kind == "direct":
            typed = shlex.join(row.new.overrides)
            raise ConfigError(f"{id} was begun by recsys run: recsys submit {typed} queues its like")
        return self._queue.retry(id)

    def events(self, after: int = 0, run: str | None = None, limit: int = 1000) -> list[Event]:
        return self._queue.events(after, run, limit)

    def schedule(self, asked: Submission) -> Schedule:
        from recsys.service.queue.schedules import add_schedule
        from recsys.service.submit import new_runs

        (run,) = new_runs(asked)
        return add_schedule(self._queue, run.name, str(asked.every), run)

    def schedules(self) -> list[Schedule]:
        from recsys.service.queue.schedules import list_schedules

        return list_schedules(self._queue)

    def remove_schedule(self, id: str) -> Schedule:
        from recsys.service.queue.schedules import remove_schedule

        return remove_schedule(self._queue, id)

    def close(self) -> None:
        self._queue.close()

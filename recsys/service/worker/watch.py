"""What a run's run.json says while it runs, and how the run has ended."""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.errors import DataError, in_one_line, printable
from recsys.results import RUN_VERSION, Run, read_as
from recsys.service.inside import LOGS
from recsys.service.queue.records import STOPPED, Live

__all__ = ["Outcome", "Watch", "Why", "why_not"]

LOST_PROCESS = 75  # exit code of a run that lost a process; starting it again mends that
_SMOOTH = 10.0  # seconds over which the rate is smoothed
_FULL = 1 << 20  # bytes that are free on a disk which is full
_NO_SPACE = "No space left on device while it ran: free some, then resume the run"
_TAIL = 8192  # bytes of the log that may hold the reason
Why = Literal["cancel", "stop"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended.

    Args:
        state: Of the run; `killed` if its process died, so that it is to go on later.
        exit: Exit code, or −signal; None if no process was started.
        reason: Why, on one line.
    """

    state: Literal["finished", "failed", "cancelled", "killed", "queued"]
    exit: int | None
    reason: str | None = None


class Watch:
    """Reads run.json of an attempt at a run; what an earlier attempt left there does not count.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path):
        self._folder, self._log_from = folder, _size(folder / LOGS[0])
        self._before = self._seen = self._stamp()
        self._was_full = False
        self._rate: float | None = None
        self._last: tuple[str | None, int, float] | None = None  # stage, what is done, when

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._folder / "run.json").stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _run(self) -> Run | None:
        if self._stamp() in (None, self._before):
            return None
        try:
            return read_as(self._folder / "run.json", Run, "the state of a run", "submit it again", RUN_VERSION)
        except DataError:
            return None

    def live(self) -> Live | None:
        """How far the run has got; None if nothing is new."""
        self._look_at_disk()
        stamp = self._stamp()
        if stamp == self._seen or (run := self._run()) is None:
            return None
        self._seen = stamp
        amount = run.progress
        progress = None
        if amount is not None:
            self._measure(run.stage, amount.done)
            progress = {"done": amount.done, "total": amount.total, "unit": amount.unit}
            progress |= {} if self._rate is None else {"per_second": self._rate}
        return Live(run.stage, progress, run.metrics, run.note)

    def _measure(self, stage: str | None, done: int) -> None:
        now = time.monotonic()
        if self._last is None or self._last[0] != stage or done < self._last[1]:
            self._rate = None
        elif now > self._last[2]:
            seconds = now - self._last[2]
            rate, share = (done - self._last[1]) / seconds, min(1.0, seconds / _SMOOTH)
            self._rate = rate if self._rate is None else (1 - share) * self._rate + share * rate
        self._last = stage, done, now

    def outcome(self, code: int, why: Why | None, worker: str) -> Outcome:
        """How the attempt ended.

        Args:
            code: Exit code of its process, or −signal.
            why: Why the worker has told it to stop; None if it has not.
            worker: Name of the worker.
        """
        if code == 0:
            return Outcome("finished", code)
        run = self._run()
        state = run.state if run else "running"
        if run and state == "failed":
            return Outcome("failed", code, run.error)
        if why == "cancel":
            return Outcome("cancelled", code, STOPPED)
        if why == "stop":
            return Outcome("queued", code, f"worker {worker} was stopped: goes on from its checkpoint")
        if run and state == "cancelled":
            return Outcome("cancelled", code, run.note)
        if code < 0 or code == LOST_PROCESS:
            return Outcome("killed", code, f"its process ended with {code}")
        self._look_at_disk()
        reason = self._last_line() or (_NO_SPACE if self._was_full else f"its process ended with {code}")
        return Outcome("failed", code, reason)

    def _look_at_disk(self) -> None:
        """Note that the disk is full: a run cannot even write then why it fails."""
        with suppress(OSError):
            self._was_full |= shutil.disk_usage(self._folder).free < _FULL

    def _last_line(self) -> str | None:
        """The last error in what the attempt said, else its last line."""
        try:
            with (self._folder / LOGS[0]).open("rb") as file:
                file.seek(max(self._log_from, file.seek(0, os.SEEK_END) - _TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return None
        return _reason(line.strip() for line in lines)


def _reason(lines: Iterable[str]) -> str | None:
    said = [line for line in lines if line]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return printable((errors or said)[-1], 1000) if said else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def why_not(error: Exception) -> str:
    """Why a run could not be started, on one line."""
    text = in_one_line(error)
    return f"{error.filename}: {error.strerror}: mend it, then resume the run" if isinstance(error, OSError) else text

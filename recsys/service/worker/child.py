"""The small process above each run: `python -m recsys.service.worker.child FOLDER PIPE LOCK GRACE COMMAND…`.

It leads the run's process group, and lives until all processes of the run have ended: by itself it stops them if its
worker dies, which closes the pipe. It imports next to nothing, so that it starts in no time and takes little.
"""

import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.launchers.contract import TOKEN
from recsys.service.worker.processes import adopt_orphans, die_with_parent, identity, living, mark

__all__ = ["GO", "KILL", "PATIENCE", "STOP", "main"]

GO, STOP, KILL = b"g", b"s", b"k"  # what a worker says: begin; stop at a checkpoint; end at once
_CANCEL = "cancel"  # a file in a run's folder that asks the run to stop at its next step
_LOOK = 0.1  # seconds between two looks
PATIENCE = 1.5  # SIGKILL follows after so many times the seconds until SIGTERM
_POLITE = 10.0  # seconds, at most, from SIGTERM to SIGKILL for what a run leaves behind


class _Child:
    """Runs a command and what it starts.

    Args:
        folder: The run's.
        pipe: Where the worker speaks; it ends with the worker.
        lock: Handle of the lock by which others see that the run lives; the command holds it too.
        grace: Seconds from the wish to stop to SIGTERM, > 0.
    """

    def __init__(self, folder: Path, pipe: int, lock: int, grace: float):
        self._folder, self._pipe, self._lock, self._grace = folder, pipe, lock, grace
        self._stop_at: float | None = None  # when somebody asked to stop
        self._termed, self._mark = False, mark(os.environ.get(TOKEN))
        mine = identity(os.getpid())
        assert mine is not None
        self._mine = mine

    def run(self, command: Sequence[str]) -> int:
        """Run it once the worker says so → exit code, or −signal."""
        if os.read(self._pipe, 1) != GO:
            return 0  # the worker died, or lost the run, before it began
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, pass_fds=[self._lock])
        while (code := process.poll()) is None:
            self._listen()
            self._press()
        self._end_others()
        return code

    def _listen(self) -> None:
        """Wait a moment for a word of the worker."""
        if self._pipe < 0:
            time.sleep(_LOOK)
            return
        if not select.select([self._pipe], [], [], _LOOK)[0]:
            return
        said = os.read(self._pipe, 1)
        if said == KILL:
            self._signal(signal.SIGKILL)
        elif self._stop_at is None:  # STOP, or the worker died
            self._stop_at = time.monotonic()
        if not said:
            os.close(self._pipe)
            self._pipe = -1

    def _press(self) -> None:
        """Ask by the file, then by SIGTERM, then by SIGKILL."""
        if self._stop_at is None:
            return
        waited = time.monotonic() - self._stop_at
        with suppress(OSError):  # a full disk: SIGTERM follows
            (self._folder / _CANCEL).touch()  # again and again: a run that has just begun removes it
        if waited >= PATIENCE * self._grace:
            self._signal(signal.SIGKILL)
        elif waited >= self._grace and not self._termed:  # not earlier: a checkpoint may be on its way
            self._termed = True
            self._signal(signal.SIGTERM)

    def _others(self) -> list[int]:
        return living(self._mine.group, self._mine.start, self._mark, but=self._mine.pid)

    def _signal(self, number: int) -> None:
        for pid in self._others():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end_others(self) -> None:
        """End what the command has left behind."""
        until = time.monotonic() + min(_POLITE, self._grace / 3)
        number = signal.SIGTERM
        while self._others():
            self._signal(number)
            time.sleep(_LOOK)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if time.monotonic() >= until:
                number = signal.SIGKILL


def main(arguments: Sequence[str]) -> int:
    """Run a command as the leader of its process group → its exit code; by a signal, if a signal ended it."""
    folder, pipe, lock, grace, *command = arguments
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # meant for the run; a handler, since the command would inherit SIG_IGN
    adopt_orphans()
    code = _Child(Path(folder), int(pipe), int(lock), float(grace)).run(command)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

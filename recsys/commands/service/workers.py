"""Workers as child processes of the service: started, started again if one dies, and ended in order."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from recsys.commands.service.worker import PARENT
from recsys.service.logs import note

__all__ = ["Workers"]

_LOOK = 0.2  # seconds between two looks
_SOON = 10.0  # seconds: a worker that dies sooner makes the next one wait
_LONGEST = 30.0  # seconds that it waits at most


class Workers:
    """Keeps worker processes running until `stop`.

    Args:
        arguments: Of `recsys worker`.
        count: How many.
    """

    def __init__(self, arguments: Sequence[str], count: int):
        self._command = [sys.executable, "-m", "recsys", "worker", *arguments]
        self._count, self._children = count, list[subprocess.Popen[bytes]]()
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start them, each watched by a thread, whose end would end the worker too."""
        for _ in range(self._count):
            thread = threading.Thread(target=self._keep, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _keep(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            with self._lock:
                if self._stopping.is_set():
                    return
                child = self._begin()
            began = time.monotonic()
            code = child.wait()
            if self._stopping.is_set():
                return
            with self._lock:
                self._children.remove(child)
            soon = time.monotonic() - began < _SOON
            pause = min(_LONGEST, max(1.0, 2 * pause)) if soon else 0.0
            note(logging.WARNING, "a worker has ended and is started again", code=code, pause=pause)

    def _begin(self) -> subprocess.Popen[bytes]:
        """Start one; in a session of its own, so that Ctrl-C reaches it once, by way of `stop`."""
        environment = {**os.environ, PARENT: str(os.getpid())}
        child = subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        self._children.append(child)
        return child

    def ask(self) -> None:
        """Tell them to stop, once: a second signal would end their runs without a checkpoint."""
        with self._lock:
            if not self._stopping.is_set():
                self._stopping.set()
                for child in self._children:
                    child.terminate()

    def stop(self) -> None:
        """Tell them to stop, and wait until their runs have written a checkpoint and are given back.

        Ctrl-C or SIGTERM meanwhile ends their runs at once; once more, the workers.
        """
        self.ask()
        asked = 0
        while True:
            try:
                while any(child.poll() is None for child in self._children):
                    time.sleep(_LOOK)
                return
            except (KeyboardInterrupt, SystemExit):
                asked += 1
            for child in self._children:
                child.kill() if asked >= 2 else child.terminate()

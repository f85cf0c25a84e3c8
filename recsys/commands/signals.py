"""Ends a process properly on SIGTERM."""

import signal
import sys
import threading
from types import FrameType

__all__ = ["obey_sigterm"]


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def obey_sigterm() -> None:
    """Let SIGTERM end this process as an error does: unfinished files are removed, and MLflow is told.

    Without a handler SIGTERM kills at once, and the first process of a container ignores it altogether. An
    existing handler stays.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)

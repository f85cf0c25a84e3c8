"""End a process in order when it is told to end."""

import signal
import sys
import threading
from types import FrameType

__all__ = ["obey_sigterm"]

_AGAIN = 0.05  # seconds until a signal is obeyed whose exception a callback swallowed


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _obey_in_callbacks() -> None:
    """Raise again, a moment later, what a signal raised inside a `__del__` or a weak reference's callback.

    Python prints and ignores such an exception, so that the signal would be lost.
    """
    usual = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        here = threading.current_thread() is threading.main_thread() and not sys.is_finalizing()
        if not here or not isinstance(error, SystemExit | KeyboardInterrupt):
            usual(unraisable)
            return

        def again(number: int, frame: FrameType | None) -> None:
            raise error

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    sys.unraisablehook = hook


def obey_sigterm() -> None:
    """Let SIGTERM end this process as an error does: what is unfinished is removed, MLflow is told.

    Without a handler it kills at once; and the first process of a container ignores it altogether. A handler
    that is there already stays.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
        _obey_in_callbacks()

"""End a process in order when it is told to end."""

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["obey_signals", "signals_win"]

_AGAIN = 0.05  # seconds until a signal is obeyed whose exception a callback swallowed
_raised: KeyboardInterrupt | SystemExit | None = None  # what the last signal raised


def _end(number: int, frame: FrameType | None) -> None:
    global _raised
    _raised = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    raise _raised


@contextmanager
def signals_win() -> Generator[None]:
    """Raise what a signal raised, if the block ends with another error after it; also a decorator.

    Code in C may replace an exception. `torch.asarray` of a storage, by which safetensors reads a tensor, says of
    whatever its first number raises that the storage has no shape: a ValueError, without a cause.
    """
    try:
        yield
    except Exception as error:
        if _raised is None:
            raise
        raise _raised from error


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


def obey_signals() -> None:
    """Let SIGTERM and SIGINT end this process as an error does: what is unfinished is removed, MLflow is told.

    Without a handler SIGTERM kills at once; and the first process of a container ignores it altogether. A handler
    that is there already stays.
    """
    global _raised
    if threading.current_thread() is not threading.main_thread():
        return
    _raised = None
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
        _obey_in_callbacks()

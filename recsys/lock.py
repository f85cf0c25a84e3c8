"""A lock on a file, for one process at a time."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["is_held", "locked", "take"]

_MOMENT = 0.5  # seconds of attempts if nobody is to wait, since `is_held` of another process holds the lock briefly


@contextmanager
def locked(path: Path, wait: bool = True) -> Generator[None]:
    """Hold the file's lock; it is released if the process is killed.

    Args:
        path: Lock file, empty; created, with its folder, if missing.
        wait: Whether to wait until another process releases it.

    Raises:
        BlockingIOError: If another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link could lead elsewhere
    with os.fdopen(opened, "r+") as file:
        if wait:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            take(file.fileno())
        yield


def take(handle: int) -> None:
    """Lock an open file, for as long as it is open.

    Args:
        handle: Of the file.

    Raises:
        BlockingIOError: If another process holds the lock, and still does after a moment.
    """
    until = time.monotonic() + _MOMENT
    while time.monotonic() < until:
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.01)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether a process holds the file's lock; this neither waits nor creates a file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # no such file, or a link, which cannot be the lock of a run
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False

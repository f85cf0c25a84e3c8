"""One process at a time."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked"]


@contextmanager
def locked(path: Path, wait: bool = True) -> Generator[None]:
    """Hold the file's lock; a process that is killed lets go of it.

    Args:
        path: Lock file, empty; created, with its folder, if missing.
        wait: Until another process lets go of it.

    Raises:
        BlockingIOError: If another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link would lead elsewhere
    with os.fdopen(opened, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield

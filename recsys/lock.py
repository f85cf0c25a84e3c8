"""One process at a time."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked"]


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the file's lock; a process that is killed lets go of it.

    Args:
        path: An empty file, made with its folder where it lacks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Opens files of a run's folder, and none outside of it: each part of a path is opened from the folder before it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import DataError

__all__ = ["LOGS", "SECRET", "Opened", "open_inside", "read_inside"]

LOGS = ("log.txt", "rank-0.log", "submit.log")  # of a worker's run; of one on several processes; that Hydra wrote
SECRET = ("owner.json",)  # holds the token by which a worker owns the run


@dataclass(frozen=True)
class Opened:
    """An open file, or a folder.

    Args:
        handle: File descriptor, which the receiver closes.
        size: Bytes.
        name: The last part of its path.
        is_folder: Whether it is a folder.
        identity: Differs if another file gets the name.
        changed: When it was changed last, nanoseconds since 1970.
    """

    handle: int
    size: int
    name: str
    is_folder: bool
    identity: tuple[int, int]
    changed: int


def open_inside(runs: Path, run: str, path: str) -> Opened:
    """Open a file or folder of a run; no part of its path may be a link, so that nobody can swap one in.

    Args:
        runs: The folder of runs.
        run: Id of the run, whose parts are checked alike.
        path: Path below the run's folder; empty for the folder itself.

    Raises:
        DataError: If there is none, or it is none for people: hidden, a link, a pipe, a secret.
    """
    parts = [*run.split("/"), *(p for p in path.split("/") if p)]
    if any(p in ("", "..") or p.startswith(".") or not p.isprintable() or "\\" in p for p in parts):
        raise _absent(path)
    if parts[-1] in SECRET:
        raise _absent(path)
    handle = -1
    try:
        handle = os.open(runs, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts:
            before, handle = handle, os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
            os.close(before)
        seen = os.fstat(handle)
    except (OSError, ValueError) as error:
        if handle >= 0:
            os.close(handle)
        raise _absent(path) from error
    if not stat.S_ISREG(seen.st_mode) and not stat.S_ISDIR(seen.st_mode):
        os.close(handle)
        raise _absent(path)
    is_folder = stat.S_ISDIR(seen.st_mode)
    return Opened(handle, seen.st_size, parts[-1], is_folder, (seen.st_dev, seen.st_ino), seen.st_mtime_ns)


def read_inside(runs: Path, run: str, path: str, most: int = 64 << 20) -> bytes:
    """The content of a file of a run.

    Args:
        runs: The folder of runs.
        run: Id of the run.
        path: Path below the run's folder.
        most: Largest size.

    Raises:
        DataError: As `open_inside`; and if it is a folder, or larger.
    """
    opened = open_inside(runs, run, path)
    if opened.is_folder:
        os.close(opened.handle)
        raise _absent(path)
    with os.fdopen(opened.handle, "rb") as file:
        if opened.size > most:
            raise DataError(f"{path[:200]!a}: expected at most {most:,} bytes, got {opened.size:,}: it is no such file")
        return file.read(most)


def _absent(path: str) -> DataError:
    return DataError(f"expected a file of the run, got none at {path[:200]!a}: files/ lists them")

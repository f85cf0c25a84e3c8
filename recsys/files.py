"""Write a file whole or not at all, and read it with one clear word if it is damaged or of another version."""

import json
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from recsys.errors import DataError

__all__ = ["read_json", "sync_folder", "whole", "write_json", "write_text"]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mode() -> int:
    """What a new file's permissions are; a temporary file would be its owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def whole(path: Path, mode: str = "w", newline: str | None = None) -> Generator[IO[Any]]:
    """Open a file that takes its name only when all of it is written and on the disk.

    An earlier file of that name stays until then, and stays for good if the block raises. A symbolic link
    stays: the file that it points to is replaced. A device or a pipe is written to as it stands.

    Args:
        path: The file; its folder exists.
        mode: `w` or `wb`.
        newline: As for `open`.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open(mode, newline=newline) as file:
            yield file
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".unfinished", dir=path.parent)
    try:
        with os.fdopen(handle, mode, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, stat.S_IMODE(path.stat().st_mode) if path.exists() else _mode())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> Path:
    """Write text whole or not at all → the path."""
    with whole(path) as file:
        file.write(text)
    return path


def write_json(path: Path, value: Any, version: int | None = None) -> Path:
    """Write JSON whole or not at all → the path.

    Args:
        path: The file.
        value: What it holds; a mapping if a version is given.
        version: Of the format, which `read_json` asks for.
    """
    return write_text(path, json.dumps(value if version is None else {"version": version, **value}, indent=1))


def read_json(path: Path, what: str, mend: str, version: int | None = None) -> Any:
    """Read JSON.

    Args:
        path: The file.
        what: It should be, for messages: "the result of a run".
        mend: What the user can do if it is not: "run it again".
        version: The one version of the format that the caller reads; the file must have it.

    Raises:
        DataError: If there is no such file, it is no JSON, or it is of another version.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"expected {what} at {path}, found none: {mend}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: expected {what}, got no JSON: {mend}") from error
    if version is not None:
        got = value.get("version", "none") if isinstance(value, dict) else "none"
        if got != version:
            raise DataError(f"{path}: expected {what} of version {version}, got {got}: {mend}")
    return value

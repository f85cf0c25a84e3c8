"""Write a file whole or not at all, and read it with a clear error if it is damaged or of another version."""

import errno
import fcntl
import glob
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataError

__all__ = [
    "Json",
    "check_place",
    "check_text",
    "disk_full",
    "followed",
    "only_text",
    "read_json",
    "remove_folder",
    "remove_unfinished",
    "sync_file",
    "sync_folder",
    "unfinished_folder",
    "whole",
    "write_json",
    "write_text",
]

Json = dict[str, Any]  # a JSON object
_UNFINISHED = ".unfinished"
_HALF = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, as for a byte of a path that is no UTF-8


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that the names in it survive a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(file: Path) -> None:
    """Sync a file that has been written and closed, so that its content survives a power cut."""
    _sync(file, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mask() -> int:
    """The umask of the process, for files made from temporary ones, which only their owner may read."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def disk_full(error: OSError) -> bool:
    """Whether the disk was full; NumPy's error says only that it wrote less than it was asked to."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or " requested and " in str(error)


def check_place(path: Path) -> None:
    """Check that a file can be written at a path, before the work that fills it.

    Raises:
        DataError: If there is no such folder, or the path is a folder.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir() or path.is_dir():
        wrong = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise DataError(f"cannot write {path}: {wrong}: give another path, or make the folder")


def followed(path: Path) -> Path:
    """The target of a symbolic link, only for a path that a user names: others may put links into a run's folder."""
    return Path(os.path.realpath(path))


@contextmanager
def whole(path: Path, mode: str = "w", newline: str | None = None) -> Generator[Any]:
    """Open a file that gets its name only after all of it is written and on the disk.

    An earlier file of that name stays until then, and stays for good if the block raises. A symbolic link
    is replaced, and its target stays: see `followed`. A device or a pipe is written to directly. Temporary
    files that killed processes left are removed.

    Args:
        path: The file; its folder exists.
        mode: `w` or `wb`.
        newline: As for `open`.

    Raises:
        DataError: If there is no such folder, or the path is a folder.
    """
    path, encoding = Path(os.path.abspath(path)), None if "b" in mode else "utf-8"
    if not path.is_symlink():
        check_place(path)
    before = path.lstat().st_mode if os.path.lexists(path) else 0
    if before and not stat.S_ISREG(before) and not stat.S_ISLNK(before):
        with path.open(mode, newline=newline, encoding=encoding) as file:
            yield file
        return
    _sweep(path)
    name, handle = _begin(path)
    try:
        with os.fdopen(handle, mode, newline=newline, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(name, stat.S_IMODE(before) if stat.S_ISREG(before) else 0o666 & ~_mask())
            os.replace(name, path)
    except BaseException as error:
        name.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk: add the file's name
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def _held(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """A handle that holds the lock of a file or folder; None if another process has it, or it is gone."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def _sweep(target: Path) -> None:
    """Remove the temporary files and folders of a target that dead processes left: those whose lock nobody holds."""
    pattern = f".{glob.escape(_stem(target))}.*{_UNFINISHED}"
    for name in glob.glob(pattern, root_dir=target.parent, include_hidden=True):
        with suppress(OSError):  # a link, or a file of another user: it stays
            _remove(target.parent / name)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes left in a folder."""
    for name in glob.glob(f".*{_UNFINISHED}", root_dir=folder, include_hidden=True):
        with suppress(OSError):
            _remove(folder / name)


def _remove(left: Path) -> None:
    if (handle := _held(left)) is None:
        return
    try:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _stem(target: Path) -> str:
    """The target's name, short enough to be part of another: a file system counts bytes."""
    return os.fsencode(target.name)[:100].decode(errors="ignore")


def _begin(target: Path, folder: bool = False) -> tuple[Path, int]:
    """→ an empty file or folder beside the target, and the handle that holds its lock."""
    make = tempfile.mkdtemp if folder else _new_file
    while True:  # another process may remove it before it is locked
        unfinished = Path(make(prefix=f".{_stem(target)}.", suffix=_UNFINISHED, dir=target.parent))
        if (handle := _held(unfinished, os.O_RDONLY if folder else os.O_RDWR)) is not None:
            return unfinished, handle


def _new_file(prefix: str, suffix: str, dir: Path) -> str:
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=dir)
    os.close(handle)
    return name


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            handle = os.open(Path(place) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(place))


@contextmanager
def unfinished_folder(target: Path) -> Generator[Path]:
    """A new folder beside the target, which becomes the target when the block ends.

    Its name is unique and this process holds its lock, so that no other process, in any machine or
    container that shares the disk, removes it as left over. If the block raises, it is removed; if
    the process is killed, the next one that makes the same target removes it.

    Args:
        target: If it exists at the end, it stays and the new folder is removed.

    Raises:
        FileExistsError: If the target exists at the end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    folder, handle = _begin(target, folder=True)
    try:
        folder.chmod(0o777 & ~_mask())
        yield folder
        _sync_tree(folder)
        _rename_folder(folder, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder whole: if the process is killed meanwhile, all of it is left, or nothing of that name."""
    _sweep(folder)
    folder.rename(folder.with_name(f".{_stem(folder)}.old{_UNFINISHED}"))
    _sweep(folder)


def _rename_folder(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, "is there already", str(target)) from error
        raise


def write_text(path: Path, text: str) -> Path:
    """Write text whole or not at all → the path."""
    with whole(path) as file:
        file.write(text)
    return path


def write_json(path: Path, value: Any, version: int | None = None) -> Path:
    """Write JSON whole or not at all → the path.

    Args:
        path: The file.
        value: The value to write; a mapping if a version is given.
        version: Version of the format, which `read_json` checks.
    """
    return write_text(path, json.dumps(value if version is None else {"version": version, **value}, indent=1))


def _misfit(value: Any, shape: Any, place: str) -> str | None:
    """The first place at which a value has another shape, such as `stages.train.folder`; None if it fits."""
    if isinstance(shape, tuple):
        return None if any(_misfit(value, s, place) is None for s in shape) else place
    if isinstance(shape, dict) and isinstance(value, dict):
        inside = [(k, s) for key, s in shape.items() for k in (value if key is str else [key])]
        return next((m for k, s in inside if (m := _misfit(value.get(k), s, f"{place}.{k}")) is not None), None)
    if isinstance(shape, list) and isinstance(value, list):
        return next((m for i, v in enumerate(value) if (m := _misfit(v, shape[0], f"{place}.{i}")) is not None), None)
    return None if isinstance(shape, type) and isinstance(value, shape) else place


def only_text(value: Any) -> Any:
    """JSON in which halves of surrogate pairs, which neither UTF-8 nor a page can hold, are escaped as in Python."""
    whole = json.dumps(value, ensure_ascii=False)
    return json.loads(_HALF.sub(lambda half: rf"\\u{ord(half[0]):04x}", whole)) if _HALF.search(whole) else value


def check_text(name: str, value: Any) -> None:
    """Check that a value, as JSON, is text in UTF-8 without the letter NUL.

    Args:
        name: Of the value, for the message.
        value: JSON; no file, page or answer can hold it if a path in it has a byte that is no UTF-8, and Postgres holds
            no NUL.

    Raises:
        ConfigError: If it is not.
    """
    text = json.dumps(value, ensure_ascii=False)
    if "\\u0000" in text.replace("\\\\", ""):
        raise ConfigError(f"{name}: expected text in UTF-8, got the letter NUL in it: leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = error.object[max(0, error.start - 40) : error.end + 40]
        mend = "rename the file or folder"
        raise ConfigError(f"{name}: expected text in UTF-8, got another byte in {shown!r}: {mend}") from error


def _text_of(path: Path) -> str | None:
    """The text of a file; None if it is no plain file: to open a pipe would wait for ever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        with open(handle, encoding="utf-8", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def read_json(
    path: Path, what: str, mend: str, version: int | tuple[int, ...] | None = None, shape: Any = object
) -> Any:
    """Read JSON.

    Args:
        path: The file.
        what: What the file should be, for messages: "the result of a run".
        mend: What the user can do about an error: "run it again".
        version: The version of the format that the caller reads, or all of them, the newest last.
        shape: The shape that the caller needs: a type; several in a tuple; `{"key": shape}`, `{str: shape}` for any
            keys, or `[shape]` for a list of such. A key that may be missing has `NoneType` among its types.

    Raises:
        DataError: If there is no such file, it is not JSON, or it has another version or shape.
    """
    try:
        if (text := _text_of(path)) is None:
            raise DataError(f"{path}: expected {what}, got no plain file: {mend}")
        value = json.loads(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"expected {what} at {path}, found none: {mend}") from error
    except OSError as error:
        raise DataError(f"{path}: expected {what}, cannot read it: {error.strerror}: {mend}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: expected {what}, got no JSON: {mend}") from error
    if version is not None:
        got = value.get("version", "none") if isinstance(value, dict) else "none"
        versions = version if isinstance(version, tuple) else (version,)
        if got not in versions:
            raise DataError(f"{path}: expected {what} of version {versions[-1]}, got {got}: {mend}")
    if (place := _misfit(value, shape, "")) is not None:
        where = f"{place[1:]} is missing or of another type" if place else f"got a {type(value).__name__}"
        raise DataError(f"{path} is damaged: expected {what}, {where}: {mend}")
    return value

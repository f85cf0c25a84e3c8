"""Files of a run for people: confined to the run's folder, through no link, in types that run nothing here."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import DataError
from recsys.files import Json
from recsys.service.http.auth import Refusal
from recsys.service.http.settings import Settings
from recsys.service.inside import LOGS, SECRET, Opened, open_inside
from recsys.service.queue.records import QueuedRun

__all__ = ["LogPiece", "blocks", "headers", "home_of", "listing", "read_log"]

_PIECE = 1 << 20  # most bytes of a log at once
_BLOCK = 1 << 18
_MOST = 1000  # entries of a folder that are listed
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".log": "text/plain; charset=utf-8",
    ".yaml": "text/plain; charset=utf-8",
    ".csv": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}
# A saved page runs its own script (Plotly's), in an origin of its own: it reads nothing of ours, and reaches nobody.
_PAGE = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; frame-ancestors 'self'"
)
_OTHER = "sandbox; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'"


def home_of(run: QueuedRun, settings: Settings) -> Path:
    """The folder of runs that holds a run's folder: not the service's own if it was submitted straight to the database.

    Raises:
        Refusal: 409 if it lies outside of the folders that the service may show.
    """
    home = Path(os.path.realpath(run.new.runs))
    if any(home.is_relative_to(os.path.realpath(f)) for f in (settings.runs, settings.cwd, *settings.roots)):
        return home
    raise Refusal(
        409,
        f"run {run.id} is in {home}, outside of the folders that this service shows: use recsys logs on its machine, "
        f"or start the service with --root {home}",
    )


def headers(opened: Opened) -> dict[str, str]:
    """Headers of a file that let a browser show it, and run nothing of it in our origin."""
    suffix = Path(opened.name).suffix.lower()
    known = {
        "content-type": _TYPES.get(suffix, "application/octet-stream"),
        "content-length": str(opened.size),
        "content-security-policy": _PAGE if suffix == ".html" else _OTHER,
    }
    return known if suffix in _TYPES else {**known, "content-disposition": "attachment"}


def blocks(opened: Opened) -> Iterator[bytes]:
    """The bytes of a file, as many as it had when it was opened; it is closed after the last."""
    file = os.fdopen(opened.handle, "rb", buffering=0)  # here, so that it is closed even if nobody takes a block

    def each() -> Iterator[bytes]:
        left = opened.size
        with file:
            while left > 0 and (block := file.read(min(_BLOCK, left))):
                left -= len(block)
                yield block

    return each()


def listing(folder: Opened) -> Json:
    """What a folder holds, by name; at most 1,000 entries."""
    entries = list[Json]()
    try:
        for name in sorted(os.listdir(folder.handle)):
            try:
                seen = os.stat(name, dir_fd=folder.handle, follow_symlinks=False)
            except OSError:  # it was removed a moment ago
                continue
            kind = "folder" if stat.S_ISDIR(seen.st_mode) else "file"
            if name.startswith(".") or name in SECRET or not (kind == "folder" or stat.S_ISREG(seen.st_mode)):
                continue
            entries.append({"name": name, "kind": kind, "bytes": seen.st_size, "changed": seen.st_mtime})
    finally:
        os.close(folder.handle)
    return {"entries": entries[:_MOST], "more": len(entries) > _MOST}


@dataclass(frozen=True)
class LogPiece:
    """A piece of a log.

    Args:
        body: Its bytes, which end with a whole letter; empty at the end of the log.
        start: Offset of the first.
        size: Of the whole log now.
    """

    body: bytes
    start: int
    size: int

    @property
    def next(self) -> int:
        """The offset to ask for next."""
        return self.start + len(self.body)


def read_log(runs: Path, run: str, start: int, most: int = _PIECE) -> LogPiece:
    """A piece of a run's log; empty if it has none yet.

    Args:
        runs: The folder of runs.
        run: Id of the run.
        start: The first byte; negative counts from the end; 0 is meant if the log has become shorter than that.
        most: Most bytes.
    """
    opened = _open_log(runs, run)
    if opened is None:
        return LogPiece(b"", 0, 0)
    with os.fdopen(opened.handle, "rb", buffering=0) as file:
        begin = max(0, opened.size + start) if start < 0 else start if start <= opened.size else 0
        file.seek(begin)
        body = file.read(min(most, _PIECE)) or b""
    return LogPiece(_whole_letters(body), begin, opened.size)


def _open_log(runs: Path, run: str) -> Opened | None:
    for name in LOGS:
        with suppress(DataError):
            opened = open_inside(runs, run, name)
            if not opened.is_folder:
                return opened
            os.close(opened.handle)
    return None


def _whole_letters(body: bytes) -> bytes:
    """The bytes without a letter of UTF-8 at the end that is not whole yet."""
    for back in range(1, min(4, len(body)) + 1):
        byte = body[-back]
        if byte >= 0xC0:  # begins a letter of so many bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return body[:-back] if length > back else body
        if byte < 0x80:
            return body
    return body

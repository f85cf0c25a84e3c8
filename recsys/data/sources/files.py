"""Which files a path names, on any pyarrow filesystem, and their bytes a block at a time."""

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from recsys.data.sources.json_list import as_lines
from recsys.errors import ConfigError, DataError

__all__ = ["BLOCK", "ENDINGS", "FORMATS", "File", "blocks", "find", "one_line", "reader"]

BLOCK = 8 << 20  # bytes parsed at once: enough for several threads, few enough for the cache
LONGEST = 64 << 20  # bytes; in a longer record a quote was never closed
FORMATS = (
    "csv", "tsv", "parquet", "orc", "feather", "arrow", "jsonl", "libsvm", "libffm", "criteo", "avazu",
)  # fmt: skip
ENDINGS = {
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".orc": "orc", ".feather": "feather",
    ".arrow": "arrow", ".ipc": "arrow", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".libsvm": "libsvm", ".svm": "libsvm", ".libffm": "libffm", ".ffm": "libffm", ".criteo": "criteo",
    ".avazu": "avazu",
}  # fmt: skip
_COMPRESSED = {".gz", ".zst"}
_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def one_line(error: BaseException) -> str:
    """The message of an exception, on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def reader(block: bytes) -> pa.BufferReader:
    """A block, copied to memory that Arrow owns.

    Arrow's threads release what they read a moment after they return the table. To release memory of
    Python they need the interpreter, and abort the process if it is just ending (pyarrow 25).
    """
    copy = pa.allocate_buffer(len(block))
    memoryview(copy).cast("B")[:] = block
    return pa.BufferReader(copy)


@dataclass(frozen=True)
class File:
    """One file of a table.

    Args:
        filesystem: The filesystem that holds it.
        path: Its path on the filesystem.
        size: Bytes, or None if the filesystem does not know.
        mtime_ns: Time of change, or None if the filesystem does not know.
        format: One of `FORMATS`.
        split: The split that its rows belong to, if the user gave one.
    """

    filesystem: pafs.FileSystem
    path: str
    size: int | None
    mtime_ns: int | None
    format: str
    split: str | None = None

    def stream(self) -> pa.NativeFile:
        """A stream of the decompressed bytes."""
        return self.filesystem.open_input_stream(self.path, compression="detect")

    def seekable(self) -> pa.NativeFile:
        """The bytes as stored, for random access."""
        return self.filesystem.open_input_file(self.path)


def _ending(path: str) -> str:
    name = PurePosixPath(path.lower())
    return PurePosixPath(name.stem).suffix if name.suffix in _COMPRESSED else name.suffix


def _open(path: str) -> tuple[pafs.FileSystem, str, str]:
    """→ filesystem, the folder or file to list, and the pattern that paths must match ("" for no pattern)."""
    remote = re.match(r"[a-z][a-z0-9+.-]+://", path)
    path = path if remote else str(Path(path).expanduser())
    wild = re.search(r"[*]" if remote else r"[*?]", path)  # in a URI a question mark begins the options
    if wild and not remote and Path(path).exists():
        wild = None
    base = path if wild is None else path[: path.rfind("/", 0, wild.start()) + 1] or "."
    rest = "" if wild is None else path[path.rfind("/", 0, wild.start()) + 1 :]
    try:
        filesystem, inner = pafs.FileSystem.from_uri(base) if remote else (pafs.LocalFileSystem(), base)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"cannot open {path}: {one_line(error)}: check source.path") from error
    return filesystem, inner, rest


def _matches(info: pafs.FileInfo, base: str, pattern: str) -> bool:
    inside = PurePosixPath(info.path).relative_to(base).parts if base != "." else PurePosixPath(info.path).parts
    if info.type != pafs.FileType.File or any(part[0] in "._" for part in inside):  # _SUCCESS, .unfinished
        return False
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return not pattern or bool(re.fullmatch("".join(_WILD.get(p, re.escape(p)) for p in parts), "/".join(inside)))


def _list(path: str) -> tuple[pafs.FileSystem, list[pafs.FileInfo], bool]:
    """→ filesystem, files, and whether the user named the file itself."""
    filesystem, base, pattern = _open(path)
    try:
        info = filesystem.get_file_info(base)
        if not pattern and info.type == pafs.FileType.File:
            return filesystem, [info], True
        if info.type != pafs.FileType.Directory:
            raise DataError(f"expected a table at {path}, found none: check source.path")
        inside = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot list {path}: {one_line(error)}: check source.path") from error
    base = base.rstrip("/") or "/"
    return filesystem, sorted((i for i in inside if _matches(i, base, pattern)), key=lambda i: i.path), False


def _files(path: str, format: str, split: str | None) -> list[File]:
    filesystem, infos, named = _list(path)
    files: list[File] = []
    for info in infos:
        kind = ENDINGS.get(_ending(info.path)) if format == "auto" else format
        if kind is None and named:
            known = ", ".join(ENDINGS)
            raise DataError(f"{path}: expected one of {known} (.gz, .zst after it): convert it, or set source.format")
        if kind is not None:  # other files of a folder, such as a README, are skipped
            files.append(File(filesystem, info.path, info.size, info.mtime_ns, kind, split))
    if not files:
        raise DataError(
            f"expected a table at {path}, found none: files must end in {', '.join(ENDINGS)}, or set source.format"
        )
    return files


def find(path: str | list[str] | Mapping[str, str | list[str]], format: str) -> list[File]:
    """The files that a path names, in the order given; those of a folder are sorted by name.

    Args:
        path: A file, folder, glob (`*`, `?`, `**`) or pyarrow filesystem URI, a list of them, or
            `{split: path or paths}`.
        format: One of `FORMATS`, or "auto": by each file's ending.

    Raises:
        ConfigError: If the format is unknown or no path is given.
        DataError: If no file is found.
    """
    if format not in ("auto", *FORMATS):
        raise ConfigError(f"source.format: expected auto, {', '.join(FORMATS)}, got {format!r}: choose one of them")
    if isinstance(path, Mapping):
        parts = [(str(s), p) for s, ps in path.items() for p in ([ps] if isinstance(ps, str) else ps)]
    else:
        parts = [(None, p) for p in ([path] if isinstance(path, str) else path)]
    if not parts or not all(p for _, p in parts):
        raise ConfigError(f"source.path: expected a file, folder, glob, list or splits of them, got {path!r}: set it")
    return [file for split, p in parts for file in _files(p, format, split)]


def _chunks(file: File, stream: pa.NativeFile, size: int) -> Iterator[bytes]:
    """The bytes without a byte order mark; a JSON list becomes JSON lines."""
    first = stream.read(size)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file.path}: expected UTF-8, got UTF-16: save the file as UTF-8")
    chunks = chain([first.removeprefix(b"\xef\xbb\xbf")] if first else [], iter(lambda: stream.read(size), b""))
    return as_lines(file.path, chunks, LONGEST) if file.format == "jsonl" else chunks


def blocks(file: File, cut: Callable[[bytes], int], size: int = BLOCK) -> Generator[bytes, None, None]:
    """The bytes of a text file in blocks that end where a record ends, without a byte order mark.

    Args:
        file: The file, compressed or not.
        cut: Returns how many bytes of a block are whole records; 0 for none.
        size: Bytes read at once.

    Raises:
        DataError: If the file cannot be read, is empty, is UTF-16, or a record never ends.
    """
    rest, first = b"", True
    try:
        with file.stream() as stream:
            for data in _chunks(file, stream, size):
                block = rest + data
                first, end = False, cut(block)
                if end:
                    yield block[:end]
                rest = block[end:]
                if len(rest) > LONGEST:
                    raise DataError(
                        f"{file.path}: a record that starts with {rest[:40]!r} does not end within {LONGEST >> 20} "
                        "MiB: close its quote"
                    )
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{file.path} cannot be read: {one_line(error)}: fetch or write it again") from error
    if first:
        raise DataError(f"{file.path} is empty: expected a table, check source.path")
    if rest:
        yield rest

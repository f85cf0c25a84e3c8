"""Reads text tables in blocks: fast if all rows are good; slowly if one is bad, to find and name it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from recsys.data.sources.delimited import Delimited
from recsys.data.sources.files import File, blocks, one_line
from recsys.data.sources.json_lines import JsonLines
from recsys.data.sources.sparse_lines import SparseLines
from recsys.errors import ConfigError, DataError

__all__ = ["POLICIES", "BadRows", "dialect", "schema", "tables"]

POLICIES = ("stop", "skip", "quarantine")
SAMPLE = 16 << 20  # bytes over which types are inferred
_ERRORS = (pa.ArrowException, ValueError)


class Dialect(Protocol):
    """The parts of reading in which text formats differ."""

    ending: str

    def cut(self, block: bytes) -> int: ...
    def records(self, block: bytes) -> list[bytes]: ...
    def header(self, file: File, block: bytes) -> tuple[bytes, bytes]: ...
    def check(self, block: bytes) -> None: ...
    def infer(self, sample: bytes) -> pa.Schema: ...
    def parse(self, block: bytes, schema: pa.Schema, columns: Sequence[str]) -> pa.Table: ...
    def explain(self, record: bytes, schema: pa.Schema, columns: Sequence[str]) -> str: ...


def dialect(format: str, types: Mapping[str, str]) -> Dialect | None:
    """The dialect of a text format, with the types that the user gave; None for a columnar one."""
    dialects: dict[str, Callable[[], Dialect]] = {
        "csv": lambda: Delimited(",", types=types),
        "tsv": lambda: Delimited("\t", types=types),
        "criteo": lambda: Delimited.criteo(types),
        "avazu": lambda: Delimited.avazu(types),
        "jsonl": lambda: JsonLines(types),
        "libsvm": lambda: SparseLines(fields=False),
        "libffm": lambda: SparseLines(fields=True),
    }
    if types and format in ("libsvm", "libffm"):
        raise ConfigError(
            f"source.types: expected none for {format}, whose types are fixed, got {dict(types)}: drop it"
        )
    return dialects[format]() if format in dialects else None


class BadRows:
    """What to do with rows that do not parse, and how many there were.

    Args:
        policy: stop, skip or quarantine.
        folder: Gets the quarantined rows, in one file for each file with bad rows.

    Attributes:
        counts: Bad rows of each file, as of the last time it was read.
        kept: File → the file with its bad rows.
    """

    def __init__(self, policy: str, folder: Path | None = None) -> None:
        if policy not in POLICIES:
            raise ConfigError(f"source.on_bad_rows: expected {', '.join(POLICIES)}, got {policy!r}: choose one of them")
        self.policy, self.folder = policy, folder
        self.counts: dict[str, int] = {}
        self.kept: dict[str, Path] = {}

    @property
    def total(self) -> int:
        """Bad rows of all files."""
        return sum(self.counts.values())

    def add(self, file: File, head: bytes, records: Sequence[bytes], to: Path | None) -> None:
        """Count records, and append them to a file that begins with the header of the table."""
        self.counts[file.path] += len(records)
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            with to.open("ab") as out:
                if out.tell() == 0:
                    out.write(head)
                out.writelines(r.rstrip(b"\r\n") + b"\n" for r in records)

    def place(self, file: File, ending: str, number: int) -> Path | None:
        """Where a file's bad rows go; None if they are not kept.

        Raises:
            ConfigError: If they are to be kept and no folder is given.
        """
        if self.policy != "quarantine":
            return None
        if self.folder is None:
            raise ConfigError(
                "source.on_bad_rows: quarantine needs source.quarantine, a folder for the bad rows: set it"
            )
        return self.folder / f"{number:04d}-{Path(file.path).name.split('.')[0]}.{ending}"


def schema(file: File, kind: Dialect, like: pa.Schema | None) -> pa.Schema:
    """The columns of a file, with the types of an earlier file (`like`) or, without one, inferred types.

    Raises:
        DataError: If the file is empty, has no good header, or no row of it parses.
    """
    with closing(blocks(file, kind.cut, SAMPLE)) as parts:
        _, sample = kind.header(file, next(parts))
    if like is not None and isinstance(kind, Delimited):
        return _typed(kind.names, like)
    try:
        schema = kind.infer(sample)
        return schema if like is None else _typed(schema.names, like)
    except _ERRORS:
        records = kind.records(sample)
    bad = set(_faulty(kind.check, records))
    try:
        schema = kind.infer(b"".join(r for i, r in enumerate(records) if i not in bad))
    except _ERRORS as error:
        raise DataError(f"{file.path} does not parse as {file.format}: {one_line(error)}: mend the file") from error
    if len(bad) == len(records):
        why = kind.explain(records[0], schema, [])
        raise DataError(f"{file.path}: no row parses as {file.format}; the first one{why}")
    return schema if like is None else _typed(schema.names, like)


def _typed(names: Sequence[str], like: pa.Schema) -> pa.Schema:
    """A schema with the types of an earlier file: a value of another type is an error with its row when it is read."""
    known = set(like.names)
    return pa.schema([like.field(n) if n in known else pa.field(n, pa.string()) for n in names])


def _faulty(parse: Callable[[bytes], object], records: Sequence[bytes], start: int = 0) -> Iterator[int]:
    """The places of the records that do not parse, in order; found by bisection."""
    try:
        parse(b"".join(records))
    except _ERRORS:
        if len(records) == 1:
            yield start
            return
        half = len(records) // 2
        yield from _faulty(parse, records[:half], start)
        yield from _faulty(parse, records[half:], start + half)


def _lines(block: bytes) -> int:
    data = np.frombuffer(block, np.uint8)  # counts in a third of the time of bytes.count, and other threads may run
    return int(np.count_nonzero(data == b"\n"[0]) or np.count_nonzero(data == b"\r"[0]))


def tables(
    file: File, kind: Dialect, schema: pa.Schema, columns: Sequence[str], bad: BadRows, number: int
) -> Iterator[pa.Table]:
    """The file's rows in order.

    Args:
        file: The file.
        kind: Its dialect, not used before.
        schema: Types of all columns.
        columns: Columns to read. Unless bad rows stop, all columns are parsed anyway: which rows are
            skipped must not depend on the columns that are read.
        bad: What to do with bad rows.
        number: The file's place among the files.

    Raises:
        DataError: If a row is bad and the policy is to stop, or the file cannot be read.
    """
    parsed = list(columns) if bad.policy == "stop" else schema.names
    to = bad.place(file, kind.ending, number)
    unfinished = to.with_name(f".{to.name}.unfinished") if to else None
    if unfinished:
        unfinished.unlink(missing_ok=True)
    bad.counts[file.path], head, line = 0, b"", 1
    try:
        for n, block in enumerate(blocks(file, kind.cut)):
            if n == 0:
                head, block = kind.header(file, block)
                line += _lines(head)
            try:
                table = kind.parse(block, schema, parsed)
            except _ERRORS as error:
                records = kind.records(block)
                places = _faulty(lambda b: kind.parse(b, schema, parsed), records)
                if bad.policy == "stop":
                    raise _stop(file, kind, schema, parsed, records, next(places, None), line) from error
                out = set(places)
                bad.add(file, head, [records[i] for i in sorted(out)], unfinished)
                table = _again(file, kind, schema, parsed, [r for i, r in enumerate(records) if i not in out], line)
            line += _lines(block)
            yield table.select(list(columns))
        if to and unfinished and unfinished.exists():
            bad.kept[file.path] = unfinished.rename(to)
    finally:
        if unfinished:
            unfinished.unlink(missing_ok=True)


def _stop(
    file: File, kind: Dialect, schema: pa.Schema, columns: list[str], records: list[bytes], place: int | None, line: int
) -> DataError:
    if place is None:
        return DataError(f"{file.path}, from row {line} on: does not parse as {file.format}: mend the file")
    row = line + sum(map(_lines, records[:place]))
    return DataError(f"{file.path}, row {row}{kind.explain(records[place], schema, columns)}")


def _again(
    file: File, kind: Dialect, schema: pa.Schema, columns: list[str], records: list[bytes], line: int
) -> pa.Table:
    try:
        return kind.parse(b"".join(records), schema, columns)
    except _ERRORS as error:
        reason = one_line(error)
        raise DataError(f"{file.path}, from row {line} on: does not parse as {file.format}: {reason}") from error

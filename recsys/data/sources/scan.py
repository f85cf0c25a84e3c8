"""Read any table from a file, folder, glob or list of them, streamed in bounded memory.

>>> clicks = scan("clicks/*.csv.gz", on_bad_rows="skip")  # doctest: +SKIP
>>> for batch in clicks.batches(["user", "click"]): ...  # doctest: +SKIP
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.data.sources import columnar, text
from recsys.data.sources.columnar import conform
from recsys.data.sources.files import File, find
from recsys.data.sources.text import BadRows
from recsys.data.sources.types import CODED, TYPES, plain
from recsys.errors import ConfigError, DataError

__all__ = ["BadRows", "Scan", "scan"]

SPLIT = "split"  # the column that names the split of each row, if the files were given by split


def _one_type(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type of the same kind that can hold both; None if there is none."""
    t = pa.types
    kinds = (t.is_signed_integer, t.is_unsigned_integer, t.is_floating)
    if any(kind(first) and kind(other) for kind in kinds):
        return first if first.bit_width >= other.bit_width else other
    return first if first == other else None


def _unify(whole: pa.Schema, part: pa.Schema, first: str, other: str) -> pa.Schema:
    known, given = set(whole.names), set(part.names)
    if gone := [n for n in whole.names if n not in given]:
        raise DataError(
            f"{other}: expected the columns of {first}, {gone[:5]} are missing: add or drop them in all files"
        )
    if extra := [n for n in part.names if n not in known]:
        raise DataError(
            f"{other}: expected the columns of {first}, {extra[:5]} are extra: add or drop them in all files"
        )
    fields = []
    for f in whole:
        kind = _one_type(f.type, part.field(f.name).type)
        if kind is None:
            raise DataError(
                f"{other}, column {f.name!r}: expected {f.type} as in {first}, got {part.field(f.name).type}: "
                f"set source.types: {{{f.name}: string}}"
            )
        fields.append((f.name, kind))
    return pa.schema(fields)


class Scan:
    """A table on disk or in memory that can be read repeatedly, a batch at a time. Made by `scan`.

    Args:
        sources: Its files.
        schema: All columns, including `split` if the files are given by split.
        types: Types that the user gave.
        bad: What to do with bad rows.
        table: The table itself, if it is in memory.

    Attributes:
        bad: Counts of bad rows, and where they are kept.
    """

    def __init__(
        self,
        sources: Sequence[File],
        schema: pa.Schema,
        types: Mapping[str, str],
        bad: BadRows,
        table: pa.Table | None = None,
    ) -> None:
        self._sources, self.schema, self._types, self.bad, self._table = list(sources), schema, dict(types), bad, table

    @classmethod
    def of(cls, table: pa.Table) -> "Scan":
        """A scan of a table in memory."""
        schema = pa.schema([(f.name, plain(f.type)) for f in table.schema])
        return cls([], schema, {}, BadRows("stop"), table)

    @property
    def files(self) -> list[str]:
        """The paths of the files, in order."""
        return [f.path for f in self._sources]

    @property
    def quarantine(self) -> Path | None:
        """The folder for rows that do not parse."""
        return self.bad.folder

    @quarantine.setter
    def quarantine(self, folder: Path | None) -> None:
        self.bad.folder = folder

    def fingerprint(self) -> list[Any]:
        """Path, size and time of change of each file, and the options: these identify the data without reading it."""
        if self._table is not None:
            return []
        files = [[f.path, f.size, f.mtime_ns, f.format, f.split] for f in self._sources]
        return [files, sorted(self._types.items()), self.bad.policy]

    def _tables(self, schema: pa.Schema, columns: list[str]) -> Iterator[pa.Table]:
        if self._table is not None:
            yield conform(self._table, schema, columns, "the table")
        for number, file in enumerate(self._sources):
            inside = [n for n in columns if not (n == SPLIT and file.split is not None)]
            # only a read tells how many rows a file has, whichever columns are wanted
            asked = inside or [n for n in schema.names if n != SPLIT][:1]
            bare = pa.schema([f for f in schema if not (f.name == SPLIT and file.split is not None)])
            kind = text.dialect(file.format, self._types)
            if kind is None:
                tables = columnar.tables(file, bare, asked)
            else:
                tables = text.tables(file, kind, bare, asked, self.bad, number)
            for table in tables:
                if file.split is not None and SPLIT in columns:
                    table = table.append_column(SPLIT, pa.repeat(pa.scalar(file.split, pa.string()), table.num_rows))
                yield table.select(columns)

    def _schema(self, coded: Collection[str]) -> pa.Schema:
        """The columns as they will come; only Parquet has text as dictionaries."""
        if not self._sources or any(f.format != "parquet" for f in self._sources):
            return self.schema
        names = {n for n in coded if self.schema.field(n).type == pa.string()}
        return pa.schema([(f.name, CODED if f.name in names else f.type) for f in self.schema])

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = 65536, coded: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, in batches of exactly `rows` except the last.

        Args:
            columns: Columns to read, in this order; all by default.
            rows: Rows of a batch, at least 1.
            coded: Columns of text that may come as dictionaries, if that is faster.

        Raises:
            DataError: If a column does not exist, a file does not parse, or a row is bad and bad rows stop.
        """
        wanted = list(self.schema.names if columns is None else columns)
        known = set(self.schema.names)
        if unknown := [n for n in wanted if n not in known]:
            have = ", ".join(self.schema.names)
            raise DataError(f"expected a column {unknown[0]!r}, the table has {have[:300]}: check the spelling")
        whole_schema = self._schema(coded)
        schema = pa.schema([whole_schema.field(n) for n in wanted])
        waiting, count = [], 0
        for table in self._tables(whole_schema, wanted):
            waiting.append(table.cast(schema))
            count += table.num_rows
            while count >= rows:
                whole = pa.concat_tables(waiting)
                yield _batch(whole.slice(0, rows))
                count -= rows
                waiting = [whole.slice(rows)]
        if count:
            yield _batch(pa.concat_tables(waiting))

    def read(self, columns: Sequence[str] | None = None, limit: int | None = None) -> pa.Table:
        """The rows as one table, at most `limit` of them."""
        wanted = list(self.schema.names if columns is None else columns)
        tables, count = [], 0
        for batch in self.batches(wanted):
            tables.append(batch)
            count += len(batch)
            if limit is not None and count >= limit:
                break
        table = pa.Table.from_batches(tables, pa.schema([self.schema.field(n) for n in wanted]))
        return table if limit is None else table.slice(0, limit)


def _batch(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def scan(
    path: str | list[str] | dict[str, str | list[str]],
    format: str = "auto",
    on_bad_rows: str = "stop",
    types: dict[str, str] | None = None,
    quarantine: str | None = None,
) -> Scan:
    """Open a table; only headers and first blocks are read.

    Args:
        path: A file, folder, glob or URI of a pyarrow filesystem; a list of them; or `{train: …,
            valid: …, test: …}`, which adds a column `split`.
        format: csv, tsv, parquet, orc, feather, arrow, jsonl, libsvm, libffm, criteo or avazu;
            auto: by each file's ending. Text may be compressed (.gz, .zst).
        on_bad_rows: stop: an error names file, row, column and value. skip: leave such rows out and
            count them. quarantine: also keep them in a file. Only text has bad rows; a columnar
            file that does not parse is an error.
        types: Column → string, int, float, bool or timestamp, instead of the type that the first
            block of the first file suggests.
        quarantine: The folder for quarantined rows.

    Raises:
        ConfigError: If an option is not one of these.
        DataError: If no file is found, a header is wrong, or files do not have the same columns.
    """
    types = dict(types or {})
    for column, kind in types.items():
        if kind not in TYPES:
            raise ConfigError(f"source.types.{column}: expected {', '.join(TYPES)}, got {kind!r}: choose one of them")
    bad = BadRows(on_bad_rows, Path(quarantine) if quarantine else None)
    sources = find(path, format)
    whole: pa.Schema | None = None
    for file in sources:
        kind = text.dialect(file.format, types)
        part = columnar.schema(file, types) if kind is None else text.schema(file, kind, whole)
        whole = part if whole is None else _unify(whole, part, sources[0].path, file.path)
    assert whole is not None  # find gives at least one file
    if not whole.names:
        raise DataError(f"{sources[0].path}: expected columns, the table has none: write rows that have some")
    if unknown := [c for c in types if c not in whole.names]:
        raise ConfigError(f"source.types: no column {unknown[0]!r}: expected some of {', '.join(whole.names)[:300]}")
    if sources[0].split is not None:
        if SPLIT in whole.names:
            raise DataError(
                f"{sources[0].path}: has a column {SPLIT!r}, and source.path gives splits: rename the column"
            )
        whole = whole.append(pa.field(SPLIT, pa.string()))
    return Scan(sources, whole, types, bad)

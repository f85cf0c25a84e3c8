"""Columnar tables: Parquet, ORC, Feather and Arrow files, a part at a time."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.orc
import pyarrow.parquet

from recsys.data.sources.files import File, one_line
from recsys.data.sources.types import CODED, TYPES, plain
from recsys.errors import DataError

__all__ = ["conform", "schema", "tables"]

_ROWS = 1 << 16
_FIRST, _LAST = (int(np.datetime64(t, "us").astype(int)) for t in ("0001-01-01", "9999-12-31T23:59:59.999999"))
_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, MemoryError)


def _arrow(file: File) -> pa.RecordBatchReader | pa.RecordBatchFileReader:
    """A Feather or Arrow file, or a stream written to a file."""
    try:
        return pa.ipc.open_file(file.seekable())
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(file.seekable())


def _schema(file: File) -> pa.Schema:
    if file.format == "parquet":
        with file.seekable() as source:
            return pyarrow.parquet.ParquetFile(source).schema_arrow
    if file.format == "orc":
        with file.seekable() as source:
            return pyarrow.orc.ORCFile(source).schema
    return _arrow(file).schema


def _parts(file: File, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    columns = list(columns)
    coded = [n for n in columns if schema.field(n).type == CODED]
    if file.format == "parquet":
        # pre_buffer would keep every part that was read until the file ends
        read = partial(pyarrow.parquet.ParquetFile, pre_buffer=False, read_dictionary=coded)
        with file.seekable() as source, read(source) as parquet:
            for batch in parquet.iter_batches(_ROWS, columns=columns):
                yield pa.Table.from_batches([batch])
    elif file.format == "orc":
        with file.seekable() as source:
            orc = pyarrow.orc.ORCFile(source)
            for stripe in range(orc.nstripes):
                yield pa.Table.from_batches([orc.read_stripe(stripe, columns)])
    else:
        reader = _arrow(file)
        if isinstance(reader, pa.RecordBatchFileReader):
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        for batch in batches:
            batch.validate(full=True)  # before anything uses its offsets
            yield pa.Table.from_batches([batch])


def schema(file: File, types: Mapping[str, str]) -> pa.Schema:
    """The columns of a file as they will be read.

    Raises:
        DataError: If the file does not parse or two columns have one name.
    """
    try:
        written = _schema(file)
    except _ERRORS as error:
        kind = file.format.capitalize()
        raise DataError(f"{file.path} does not parse as {kind}: {one_line(error)}: write it again") from error
    if twice := [n for n, times in Counter(written.names).items() if times > 1]:
        raise DataError(f"{file.path}: expected each column name once, got {twice[:5]} again: rename them")
    return pa.schema([(f.name, TYPES[types[f.name]] if f.name in types else plain(f.type)) for f in written])


def _column(column: pa.ChunkedArray, wanted: pa.DataType, place: str) -> pa.ChunkedArray:
    try:
        if wanted == CODED:
            return column if column.type == wanted else _column(column, pa.string(), place).dictionary_encode()
        while pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        column = column if column.type == wanted else column.cast(wanted)
        if pa.types.is_timestamp(wanted) and len(column) > column.null_count:
            ends = pc.min_max(column.cast(pa.int64()))
            if wanted.unit == "us" and not _FIRST <= ends["min"].as_py() <= ends["max"].as_py() <= _LAST:
                raise ValueError("a date before the year 1 or after 9999")
        return column
    except _ERRORS as error:
        mend = "mend those rows, or name another type in source.types"
        raise DataError(f"{place}: expected {wanted}, got {column.type}: {one_line(error)}: {mend}") from error


def conform(table: pa.Table, schema: pa.Schema, columns: Sequence[str], place: str) -> pa.Table:
    """These columns, cast to the schema; `place` names the file and rows, for messages."""
    return pa.table({n: _column(table[n], schema.field(n).type, f"{place}, column {n!r}") for n in columns})


def tables(file: File, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The file's rows in order, cast to the schema.

    Raises:
        DataError: If the file does not parse, or a column does not cast; the message names file and column.
    """
    parts = _parts(file, schema, columns)
    row = 0
    while True:
        try:
            part = next(parts, None)
            if part is None:
                return
            part.validate(full=True)
        except _ERRORS as error:
            raise DataError(
                f"{file.path} does not parse as {file.format} after row {row}: {one_line(error)}: write it again"
            ) from error
        place = f"{file.path}, rows {row + 1} to {row + part.num_rows}"
        row += part.num_rows
        yield conform(part, schema, columns, place)

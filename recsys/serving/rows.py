"""Scores the raw rows of a file, a chunk at a time: JSON lines, JSON, CSV, TSV or Parquet."""

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from recsys.errors import DataError
from recsys.features.encoders import Words
from recsys.features.row_encoder import Row, RowEncoder
from recsys.serving.bundle import Bundle

__all__ = ["CHUNK", "parse_json", "predict_file", "read_rows"]

CHUNK = 1024  # rows scored at once: memory stays flat whatever the file's size
_MOST_LETTERS = 2**24  # most characters in a CSV cell; Python's default is 131,072

# Cells that preparation's CSV reader (pyarrow) reads as missing in a column of numbers or booleans.
_GAPS = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A", "NA", "NULL",
    "NaN", "n/a", "nan", "null",
}  # fmt: skip
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def _no_constant(name: str) -> NoReturn:
    raise DataError(f"expected JSON, got {name}, which JSON does not have: write null for a missing number")


def parse_json(text: str | bytes) -> Any:
    """Parse strict JSON.

    Raises:
        DataError: If it is not JSON (NaN and Infinity are not), or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise DataError("expected JSON, got brackets that are nested too deep: a row holds values and lists") from error
    except ValueError as error:
        raise DataError(f"expected JSON, got something else: {error}: mend it") from error


def _json_rows(file: TextIO) -> Iterator[Any]:
    """Read one object, a list of objects, or one object per line."""
    first = next((line for line in file if line.strip()), None)
    if first is None:
        return
    rest = "" if first.lstrip().startswith("[") else None
    if rest is None:
        try:
            yield parse_json(first)
        except DataError:
            rest = ""  # an object over several lines, or no JSON at all: parse the whole text
    if rest is not None:
        whole = parse_json(first + file.read())
        yield from whole if isinstance(whole, list) else [whole]
        return
    for number, line in enumerate(file, 2):
        if line.strip():
            try:
                yield parse_json(line)
            except DataError as error:
                raise DataError(f"line {number}: {error}") from error


def _cell(text: str, dtype: str, column: str) -> Any:
    if text == "" or (dtype != "string" and text in _GAPS):
        return None
    if dtype == "list":
        try:
            return parse_json(text)
        except DataError as error:
            raise DataError(f"column {column!r}: expected a list as JSON, got {text[:40]!r}: mend the cell") from error
    if dtype == "string":
        return text
    if dtype == "bool" and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    for read in (int, float) if dtype != "bool" else ():
        try:
            return read(text)
        except ValueError:
            continue
    if dtype == "time":  # ISO text; the encoder refuses any other
        return text
    kind = "true or false" if dtype == "bool" else "a number"
    raise DataError(f"column {column!r}: expected {kind} or nothing, got {text[:40]!r}: mend the cell")


def _cells(encoder: RowEncoder) -> dict[str, str]:
    """Column → what its cells hold: a dtype, or `list` for a list written as JSON."""
    cells = dict(encoder.schema.lookup_columns)
    for f in encoder.schema.fields:
        whole = f.kind in ("multi", "sequence", "vector") and not f.separator
        whole = whole and not isinstance(encoder.encoders[f.name], Words)  # a text becomes ids only in the model
        cells |= {c: "list" if whole else t for c, t in zip(f.inputs, f.dtypes, strict=True)}
    return cells


def _check_once(names: list[str], wanted: Iterable[str]) -> None:
    """Refuse columns that share a name: only one of them would be read."""
    if twice := next((c for c in wanted if names.count(c) > 1), None):
        raise DataError(f"expected one column {twice!r}, got {names.count(twice)}: remove or rename the others")


def _csv_rows(file: TextIO, cells: dict[str, str], delimiter: str) -> Iterator[Row]:
    """Parse each cell by its column's type; leave out columns that the encoder does not read."""
    csv.field_size_limit(_MOST_LETTERS)
    lines = csv.reader(file, delimiter=delimiter, strict=True)
    header = next(lines, [])
    _check_once(header, cells)
    for cell in lines:
        if not cell:
            continue
        if len(cell) != len(header):
            raise DataError(f"line {lines.line_num}: expected {len(header)} cells, got {len(cell)}: mend the line")
        given = dict(zip(header, cell, strict=True))
        try:
            yield {c: _cell(given[c], cells[c], c) for c in cells if c in given}
        except DataError as error:
            raise DataError(f"line {lines.line_num}: {error}") from error


def _in_microseconds(batch: Any) -> Any:
    """Convert nanoseconds to microseconds, as preparation does: Python's datetime holds nothing finer."""
    import pyarrow as pa

    for i, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            coarse = pa.timestamp("us", field.type.tz)
            batch = batch.set_column(i, field.with_type(coarse), batch.column(i).cast(coarse, safe=False))
    return batch


def _parquet_rows(path: Path, wanted: Iterable[str]) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or send JSON lines") from error
    try:
        with pq.ParquetFile(path) as file:
            _check_once(file.schema_arrow.names, wanted)
            columns = [c for c in wanted if c in file.schema_arrow.names]
            for batch in file.iter_batches(CHUNK, columns=columns):
                yield from _in_microseconds(batch).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: a time of the year 300,000
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path} does not parse as Parquet: {reason}: mend the file") from error


def read_rows(source: str, encoder: RowEncoder) -> Iterator[Any]:
    """Stream the raw rows of a source.

    Args:
        source: A file (.parquet, .csv, .tsv; anything else is JSON lines, a JSON list or one JSON
            object), or `-` for JSON from standard input.
        encoder: Gives the types of CSV cells, and the Parquet columns to read.

    Raises:
        DataError: If the file is missing or does not parse.
    """
    path = Path(source)
    if source != "-" and (not path.exists() or path.is_dir()):  # a pipe, such as /dev/stdin, is no regular file
        raise DataError(f"expected rows in {source}, found no such file: check the path, or give - for standard input")
    cells = _cells(encoder)
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, cells)
        return
    try:
        with _opened(source) as file:
            if path.suffix in (".csv", ".tsv"):
                yield from _csv_rows(file, cells, "," if path.suffix == ".csv" else "\t")
            else:
                yield from _json_rows(file)
    except UnicodeDecodeError as error:
        name = "standard input" if source == "-" else source
        raise DataError(f"{name} is not UTF-8: {error}: decompress it, or save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{source} does not parse as CSV: {error}: mend the file") from error


def _opened(source: str) -> TextIO:
    """Open a file, or standard input, as UTF-8 text, whatever the locale."""
    if source != "-":
        return Path(source).open(encoding="utf-8-sig", newline="")
    return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig")


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


def predict_file(bundle: Bundle, source: str, out: TextIO) -> int:
    """Score every row of a source and write `{"probability": p}` a line, in order (p as the server gives it).

    Args:
        bundle: The model.
        source: See `read_rows`.
        out: Where the lines are written, 1,024 at a time.

    Returns:
        Number of rows.

    Raises:
        DataError: If a row cannot be scored; the message counts rows from 0.
    """
    done = 0
    for chunk in _chunks(read_rows(source, bundle.encoder)):
        for p in bundle.answers(chunk, done):
            out.write(json.dumps({"probability": p}) + "\n")
        done += len(chunk)
    return done

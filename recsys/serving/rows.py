"""Raw rows from a file to probabilities, a chunk at a time: JSON lines, JSON, CSV, TSV or Parquet."""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from recsys.errors import DataError
from recsys.schema import Schema
from recsys.serving.bundle import Bundle

__all__ = ["CHUNK", "parse_json", "predict_file", "read_rows"]

CHUNK = 1024  # rows scored at once: memory stays flat whatever the file's size

# What preparation's CSV reader (pyarrow) takes for a gap in a column of numbers or booleans.
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
        DataError: If it is not JSON; NaN and Infinity are not.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected JSON, got something else: {error}: mend it") from error


def _json_rows(file: TextIO) -> Iterator[Any]:
    """One object, a list of objects, or one object a line."""
    first = next((line for line in file if line.strip()), None)
    if first is None:
        return
    rest = "" if first.lstrip().startswith("[") else None
    if rest is None:
        try:
            yield parse_json(first)
        except DataError:
            rest = ""  # an object over several lines, or no JSON at all: the whole text will tell
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


def _cell(text: str, dtype: str, is_list: bool, column: str) -> Any:
    if text == "" or (dtype != "string" and text in _GAPS):
        return None
    if is_list:
        return parse_json(text)
    if dtype == "string":
        return text
    if dtype == "bool" and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    for read in (int, float) if dtype != "bool" else ():
        try:
            return read(text)
        except ValueError:
            continue
    kind = "true or false" if dtype == "bool" else "a number"
    raise DataError(f"column {column!r}: expected {kind} or nothing, got {text[:40]!r}: mend the cell")


def _csv_rows(file: TextIO, schema: Schema, delimiter: str) -> Iterator[dict[str, Any]]:
    """Cells become what the schema's columns hold; a list stands as JSON in its cell."""
    cells = {
        c: (t, f.kind in ("multi", "vector")) for f in schema.fields for c, t in zip(f.inputs, f.dtypes, strict=True)
    }
    lines = csv.reader(file, delimiter=delimiter, strict=True)
    header = next(lines, [])
    for cell in lines:
        if not cell:
            continue
        if len(cell) != len(header):
            raise DataError(f"line {lines.line_num}: expected {len(header)} cells, got {len(cell)}: mend the line")
        given = dict(zip(header, cell, strict=True))
        try:
            yield {c: _cell(given[c], *cells[c], c) for c in cells if c in given}
        except DataError as error:
            raise DataError(f"line {lines.line_num}: {error}") from error


def _parquet_rows(path: Path, schema: Schema) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or send JSON lines") from error
    try:
        with pq.ParquetFile(path) as file:
            columns = [c for c in schema.raw_columns if c in file.schema_arrow.names]
            for batch in file.iter_batches(CHUNK, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} does not parse as Parquet: {str(error).splitlines()[0]}: mend the file") from error


def read_rows(source: str, schema: Schema) -> Iterator[Any]:
    """Stream the raw rows of a source.

    Args:
        source: A file (.parquet, .csv, .tsv; anything else is JSON lines, a JSON list or one JSON
            object), or `-` for JSON from standard input.
        schema: Tells the types of CSV cells, and which Parquet columns to read.

    Raises:
        DataError: If the file is missing or does not parse.
    """
    if source == "-":
        yield from _json_rows(sys.stdin)
        return
    path = Path(source)
    if not path.is_file():
        raise DataError(f"expected rows in {source}, found no such file: check the path, or give - for standard input")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, schema)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix in (".csv", ".tsv"):
                yield from _csv_rows(file, schema, "," if path.suffix == ".csv" else "\t")
            else:
                yield from _json_rows(file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} does not parse: {error}: save it as UTF-8 {path.suffix or 'JSON'}") from error


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


def predict_file(bundle: Bundle, source: str, out: TextIO) -> int:
    """Score every row of a source and write `{"probability": p}` a line, in order.

    Args:
        bundle: The model.
        source: See `read_rows`.
        out: Gets the lines, 1,024 at a time.

    Returns:
        Count of rows.

    Raises:
        DataError: If a row cannot be scored; its number counts from 0.
    """
    done = 0
    for chunk in _chunks(read_rows(source, bundle.schema)):
        for p in bundle.score(chunk, done).tolist():
            out.write(json.dumps({"probability": p}) + "\n")
        done += len(chunk)
    return done

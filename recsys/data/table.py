"""Read a user's table: Parquet, CSV, TSV, Feather or JSON lines, with a header."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet

from recsys.errors import DataError

__all__ = ["load", "read_rows"]

_READERS = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".tsv": lambda p: pyarrow.csv.read_csv(p, parse_options=pyarrow.csv.ParseOptions(delimiter="\t")),
    ".feather": pyarrow.feather.read_table,
    ".jsonl": pyarrow.json.read_json,
}


def load(path: str) -> pa.Table:
    """Read one file whole; its ending tells the format.

    Raises:
        DataError: If the file is missing, its ending is unknown, or it does not parse.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"expected a table at {file}, found none: check data.source.path")
    if file.suffix not in _READERS:
        raise DataError(f"{file}: expected one of {', '.join(_READERS)}, got {file.suffix!r}: convert the file")
    try:
        return _READERS[file.suffix](file)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file} does not parse as {file.suffix[1:]}: {reason}: mend the file") from error


def read_rows(path: str) -> list[dict[str, object]]:
    """The rows of a table as dicts, as `predict` takes them."""
    return load(path).to_pylist()

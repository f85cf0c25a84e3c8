"""Tables of JSON lines: one object a line. `json_list` turns a list of objects into lines."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from recsys.data.sources.files import File, one_line, reader
from recsys.data.sources.types import EXACT, TYPES, plain, why
from recsys.files import Json

__all__ = ["JsonLines"]


_DEEPEST = 64  # levels of nested lists and objects; pyarrow 25 crashes at some ten thousand
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
_TEXT = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL
)  # a string that is not closed matches to the end; else the search would start anew at each quote


def _depth(block: bytes) -> int:
    """An upper bound of how deep the brackets nest."""
    step = _STEP[np.frombuffer(block, np.uint8)]
    level = np.cumsum(step[step != 0], dtype=np.int64)
    return int((level - np.minimum.accumulate(np.minimum(level, 0))).max(initial=0))


def _check_depth(block: bytes) -> None:
    """Refuse lines that overflow the stack of a recursive parser.

    Raises:
        ValueError: If a line nests deeper than `_DEEPEST`.
    """
    if _depth(block) <= _DEEPEST:
        return
    for line in block.split(b"\n"):  # brackets inside strings may have added up
        if _depth(line) > _DEEPEST and _depth(_TEXT.sub(b"", line)) > _DEEPEST:
            raise ValueError(f"nested deeper than {_DEEPEST}")


def _once(pairs: list[tuple[str, Any]]) -> Json:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key stands there twice")
    return row


def _row(record: bytes) -> Json:
    _check_depth(record)
    row = json.loads(record, object_pairs_hook=_once)
    if not isinstance(row, dict):
        raise ValueError("not an object")
    return row


def _lines(block: bytes) -> int:
    """Count of lines that are not blank."""
    if (
        block.endswith(b"\n")
        and not re.search(rb"\n[ \t\r]*\n", block)
        and block[:1] not in (b"\n", b"\r", b" ", b"\t")
    ):
        return block.count(b"\n")
    return sum(bool(line.strip()) for line in block.split(b"\n"))


def _kind(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "string", dict: "object", list: "list"}
    return names[type(value)]


def _spelled(value: Any) -> str | None:
    if isinstance(value, list | dict):
        raise pa.ArrowInvalid(f"expected one value, got {_kind(value)}")
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _array(values: list[Any], kind: pa.DataType, spell: bool) -> pa.Array:
    if spell or pa.types.is_timestamp(kind):
        return pa.array([_spelled(v) for v in values], pa.string()).cast(kind)
    if kind == pa.float64() and any(isinstance(v, int) and abs(v) > EXACT for v in values):
        raise pa.ArrowInvalid("whole numbers past 2^53")
    return pa.array(values, kind)


class JsonLines:
    """The dialect of JSON lines.

    Args:
        types: Column → a name of `TYPES`, for types that the user gave. These columns may mix numbers
            and strings; Python reads them, slowly but exactly.
    """

    ending = "jsonl"

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = dict(types)

    def cut(self, block: bytes) -> int:
        """Count of the bytes of a block that are whole lines."""
        return block.rfind(b"\n") + 1

    def records(self, block: bytes) -> list[bytes]:
        """The lines with their ends."""
        lines = block.split(b"\n")
        return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])

    def header(self, file: File, block: bytes) -> tuple[bytes, bytes]:
        """JSON lines have no header."""
        return b"", block

    def check(self, block: bytes) -> None:
        """Raise ValueError if a line is not a JSON object."""
        for record in self.records(block):
            if record.strip():
                _row(record)

    def infer(self, sample: bytes) -> pa.Schema:
        """Types of the columns over a sample; a column of mixed types gets the type of its first value."""
        known = {c: TYPES[t] for c, t in self._types.items()}
        if not sample.strip():
            return pa.schema(list(known.items()))
        try:
            schema = self._read(sample).schema
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            schema = self._read(b"\n".join(json.dumps(r).encode() for r in self._alike(sample))).schema
        types = {f.name: plain(f.type) for f in schema} | known
        return pa.schema(list(types.items()))

    def _alike(self, sample: bytes) -> list[Json]:
        rows, kinds = [], dict.fromkeys(self._types, "")
        for record in self.records(sample):
            if not record.strip():
                continue
            row = {k: v for k, v in _row(record).items() if v is not None and k not in self._types}
            if all(kinds.setdefault(k, _kind(v)) == _kind(v) for k, v in row.items()):
                rows.append(row)
        return rows or [{}]

    def _read(self, block: bytes, schema: pa.Schema | None = None) -> pa.Table:
        _check_depth(block)
        # pyarrow 25 crashes if all rows are null, and reads null among objects as a row
        if block.lstrip().startswith(b"null") or re.search(rb"\n[ \t\r]*null", block):
            raise pa.ArrowInvalid("expected objects, got null")
        table = pyarrow.json.read_json(
            reader(block),
            pyarrow.json.ReadOptions(block_size=len(block) + 1),  # a line must not span two of its blocks
            pyarrow.json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="error" if schema is not None else "infer"
            ),
        )
        if table.num_rows != _lines(block):  # two objects on one line
            raise pa.ArrowInvalid("expected one object a line")
        return table

    def parse(self, block: bytes, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        """A block of whole lines as a table of these columns.

        Raises:
            pa.ArrowInvalid, ValueError: If a line is not an object, or a value does not convert.
        """
        if not block.strip():
            return pa.schema([schema.field(n) for n in columns]).empty_table()
        if self._types:
            return self._exactly(block, schema, columns)
        table = self._read(block, schema)
        table.validate(full=True)  # checks that strings are UTF-8
        for n in columns:
            column = table[n]
            if column.type == pa.float64():
                top = pc.max(pc.abs(column.filter(pc.is_finite(column)))).as_py()
                if (top or 0) >= EXACT:
                    return self._exactly(block, schema, columns)
        return table.select(list(columns))

    def _exactly(self, block: bytes, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        rows = [_row(r) for r in self.records(block) if r.strip()]
        if unknown := {k for row in rows for k in row} - set(schema.names):
            raise pa.ArrowInvalid(f"unexpected {sorted(unknown)[:5]}")
        fields = [schema.field(n) for n in columns]
        try:
            arrays = [_array([r.get(f.name) for r in rows], f.type, f.name in self._types) for f in fields]
        except OverflowError as error:
            raise pa.ArrowInvalid(str(error)) from error
        return pa.table(arrays, pa.schema(fields))

    def explain(self, record: bytes, schema: pa.Schema, columns: Sequence[str]) -> str:
        """Why a line does not parse, and how to mend it."""
        try:
            row = _row(record)
        except UnicodeDecodeError as error:
            byte = record[error.start]
            return f": expected UTF-8, got byte 0x{byte:02x} at byte {error.start + 1}: save the file as UTF-8"
        except ValueError as error:
            shown = record.strip()[:40].decode(errors="replace")
            return f": expected one JSON object, got {shown!r} ({one_line(error)}): mend the line"
        for name in row:
            if name not in schema.names:
                return (
                    f", column {name!r}: expected one of the columns of the first rows, got a new one: "
                    f"set source.types: {{{name!r}: string}} to read it"
                )
        for name in columns:
            try:
                self.parse(json.dumps({name: row.get(name)}).encode(), schema, [name])
            except (pa.ArrowException, ValueError):
                value = row[name]
                shown = value if isinstance(value, str) else json.dumps(value)
                return why(name, shown.encode(errors="replace"), schema.field(name).type)
        return ": does not parse: mend the line, or set on_bad_rows: skip"

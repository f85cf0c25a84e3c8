"""Tables of delimited text: CSV, TSV, and the layouts of the Criteo and Avazu sets."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recsys.data.sources.files import File, reader
from recsys.data.sources.types import BIG, EXACT, TYPES, plain, why
from recsys.errors import DataError

__all__ = ["CRITEO", "Delimited"]

CRITEO = ["label", *(f"i{i}" for i in range(1, 14)), *(f"c{i}" for i in range(1, 27))]
_CRITEO_TYPES = {c: "string" if c[0] == "c" else "int" for c in CRITEO}
_AVAZU_CODES = (
    "id", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id", "device_ip",
    "device_model",
)  # fmt: skip
_AVAZU_TYPES = {**dict.fromkeys(_AVAZU_CODES, "string"), "hour": "timestamp"}
_QUOTE, _NEWLINE, _RETURN = b'"'[0], b"\n"[0], b"\r"[0]
_UTC = pa.timestamp("ns", "UTC")
_CODE = r"^\s*-?0[0-9A-Za-z]"  # 007 and 0x1f would read as 7 and 31


def _quotes(data: np.ndarray, delimiter: int) -> np.ndarray:
    """Places of the quotes that alternately open and close cells.

    If all quotes of a block are well placed, they alternate as they are, doubled ones included. A quote
    inside a cell that no quote opened is a letter: in that case the quotes are walked one by one.
    """
    quote = np.flatnonzero(data == _QUOTE)
    edges = (delimiter, _NEWLINE, _RETURN)
    opens, closes = quote[::2], quote[1::2]
    opened = (opens == 0) | np.isin(data[opens - 1], (*edges, _QUOTE))
    closed = (closes + 1 == len(data)) | np.isin(data[np.minimum(closes + 1, len(data) - 1)], (*edges, _QUOTE))
    doubled = opened & (opens > 0) & (data[opens - 1] == _QUOTE)
    doubled[1:] &= opens[1:] == closes[: len(opens) - 1] + 1
    if opened.all() and closed.all() and not doubled[:1].any():
        return quote
    kept, inside, skip, places = [], False, -1, quote.tolist()
    for i, p in enumerate(places):
        if p == skip:
            continue
        if not inside:
            inside = p == 0 or int(data[p - 1]) in edges
            kept += [p] * inside
        elif i + 1 < len(places) and places[i + 1] == p + 1:
            skip = p + 1
        else:
            kept.append(p)
            inside = False
    return np.array(kept, dtype=np.int64)


def _exact(values: pa.ChunkedArray) -> bool:
    """Whether the whole numbers among these texts are within ±2^53."""
    big = values.filter(pc.match_substring_regex(values, BIG)).to_pylist()
    return all(abs(int(v)) <= EXACT for v in big)


class Delimited:
    """A dialect of delimited text.

    Args:
        delimiter: One character.
        names: The columns, if the file has no header.
        types: Column → a name of `TYPES`, for types known beforehand.
        parsers: strptime formats of timestamps; none for ISO 8601.
        quoted: Whether a cell may be in quotes.
    """

    ending = "csv"

    def __init__(
        self,
        delimiter: str = ",",
        names: Sequence[str] = (),
        types: Mapping[str, str] | None = None,
        parsers: Sequence[str] = (),
        quoted: bool = True,
    ) -> None:
        self._delimiter, self._fixed, self._types = delimiter, list(names), dict(types or {})
        self._parsers, self._quoted = list(parsers), quoted
        self._convert: dict[object, pyarrow.csv.ConvertOptions] = {}
        self.names: list[str] = self._fixed

    @classmethod
    def criteo(cls, types: Mapping[str, str]) -> "Delimited":
        """Tab-separated, no header: label, i1 … i13 whole numbers, c1 … c26 strings, empty if missing."""
        return cls("\t", CRITEO, {**_CRITEO_TYPES, **types}, quoted=False)

    @classmethod
    def avazu(cls, types: Mapping[str, str]) -> "Delimited":
        """Comma-separated with a header; `hour` is YYMMDDHH."""
        return cls(",", types={**_AVAZU_TYPES, **types}, parsers=["%y%m%d%H"])

    def cut(self, block: bytes) -> int:
        """Count of the bytes of a block that are whole records."""
        if not self._quoted or b'"' not in block:
            return max(block.rfind(b"\n"), -1 if b"\n" in block else block.rfind(b"\r", 0, -1)) + 1
        ends = self._ends(block)
        return int(ends[-1]) if len(ends) else 0

    def _ends(self, block: bytes) -> np.ndarray:
        data = np.frombuffer(block, np.uint8)
        feed, back = data == _NEWLINE, data == _RETURN
        back[:-1] &= ~feed[1:]
        if not feed.any():
            feed = back
        else:
            back[-1:] = False  # its line feed may be in the next block
            feed |= back
        ends = np.flatnonzero(feed)
        if self._quoted:
            quotes = _quotes(data, ord(self._delimiter))
            ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
        return ends + 1

    def _open(self, block: bytes) -> bool:
        """Whether a quote is never closed: the parser would read everything after it as one cell."""
        if not self._quoted or b'"' not in block:
            return False
        return bool(len(_quotes(np.frombuffer(block, np.uint8), ord(self._delimiter))) % 2)

    def records(self, block: bytes) -> list[bytes]:
        """The records with their line ends, empty lines too."""
        places = [0, *self._ends(block).tolist()]
        if places[-1] < len(block):
            places.append(len(block))
        return [block[a:b] for a, b in pairwise(places)]

    def header(self, file: File, block: bytes) -> tuple[bytes, bytes]:
        """A file's first block → its lines up to the header, and the rest. This sets `names`.

        Raises:
            DataError: If there is no header, or it does not name each column once.
        """
        if self._fixed:
            return b"", block
        start = len(block) - len(block.lstrip(b"\r\n"))
        ends = self._ends(block[start:])
        end = start + int(ends[0]) if len(ends) else len(block)
        try:
            names = [c.decode() for c in self._cells(block[start:end])]
        except UnicodeDecodeError as error:
            raise DataError(f"{file.path}, row 1: expected UTF-8, got {error}: save the file as UTF-8") from error
        except pa.ArrowInvalid as error:
            raise DataError(f"{file.path}: expected a header of column names, found none: write one") from error
        self.names = [n or f"column_{i}" for i, n in enumerate(names, 1)]
        self._check_header(file, names)
        return block[:end], block[end:]

    def _check_header(self, file: File, names: list[str]) -> None:
        if twice := [n for n, times in Counter(self.names).items() if times > 1]:
            raise DataError(f"{file.path}, row 1: expected each name once, got {twice[:5]} again: rename them")
        numbers = [n for n in names if n]
        counted = [str(i) for i in range(len(numbers))], [str(i) for i in range(1, len(numbers) + 1)]
        if all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", n) for n in numbers) and numbers not in counted:
            shown = ", ".join(names[:5])
            raise DataError(f"{file.path}, row 1: expected a header of column names, got {shown[:80]}: write one")
        if len(names) == 1 and (other := re.search(r"[,;\t|]", names[0])):
            raise DataError(
                f"{file.path}, row 1: expected columns apart by {self._delimiter!r}, got one named {names[0][:60]!r}: "
                f"is it {other[0]!r}? save it as CSV (commas) or set source.format: tsv"
            )

    def _cells(self, record: bytes) -> list[bytes]:
        """The cells of one record, even if it is malformed."""
        record = record.rstrip(b"\r\n") + b"\n"
        read = pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=len(record) + 1)
        wide = pyarrow.csv.ConvertOptions(default_column_type=pa.binary(), null_values=[], check_utf8=False)
        row = pyarrow.csv.read_csv(reader(record), read, self._parse_options(record), wide)
        if row.num_rows != 1:
            raise pa.ArrowInvalid(f"expected one record, got {row.num_rows}")
        return [c[0].as_py() for c in row.columns]

    def _parse_options(self, block: bytes) -> pyarrow.csv.ParseOptions:
        quoted = self._quoted and b'"' in block
        return pyarrow.csv.ParseOptions(
            delimiter=self._delimiter, quote_char='"' if self._quoted else False, newlines_in_values=quoted
        )

    def _read(self, block: bytes, convert: pyarrow.csv.ConvertOptions, whole: bool = False) -> pa.Table:
        """Read one block; it must have a line that is not empty."""
        # Threads share a block in pieces; if there are many columns, a piece costs more than it saves.
        piece = len(block) + 1 if whole or len(self.names) > 1000 else 2 << 20
        small = len(block) < 1 << 16
        read = pyarrow.csv.ReadOptions(
            column_names=self.names, use_threads=not small, block_size=max(1, min(piece, len(block) + 1))
        )
        try:
            return pyarrow.csv.read_csv(reader(block), read, self._parse_options(block), convert)
        except pa.ArrowInvalid as error:
            if read.block_size > len(block) or "straddl" not in str(error):
                raise
            return self._read(block, convert, whole=True)  # a record is longer than a piece

    def check(self, block: bytes) -> None:
        """Raise ArrowInvalid if records differ in their count of cells."""
        if block.lstrip(b"\r\n"):
            texts = pyarrow.csv.ConvertOptions(
                include_columns=self.names[:1], column_types={self.names[0]: pa.binary()}
            )
            self._read(block, texts)

    def infer(self, sample: bytes) -> pa.Schema:
        """Types of the columns over a sample of whole records with equal counts of cells."""
        known = {c: TYPES[t] for c, t in self._types.items() if c in self.names}
        if not sample.lstrip(b"\r\n"):
            return pa.schema([(n, known.get(n, pa.string())) for n in self.names])
        texts = dict.fromkeys(known, pa.binary())
        table = self._read(sample, pyarrow.csv.ConvertOptions(column_types=texts), whole=True)
        types = {n: known.get(n) or plain(table.schema.field(n).type) for n in self.names}
        fine = {n: pa.timestamp("us", t.tz) for n, t in types.items() if t in (pa.timestamp("ns"), _UTC)}
        types |= {n: t for n, t in fine.items() if _casts(table[n], t)}
        whole = [n for n, t in types.items() if t == pa.int64() and n not in known]
        if whole:
            spelled = self._read(
                sample,
                pyarrow.csv.ConvertOptions(include_columns=whole, column_types=dict.fromkeys(whole, pa.string())),
            )
            codes = [n for n in whole if pc.any(pc.match_substring_regex(spelled[n], _CODE)).as_py()]
            types |= dict.fromkeys(codes, pa.string())
        return pa.schema([(n, types[n]) for n in self.names])

    def parse(self, block: bytes, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        """A block of whole records as a table of these columns.

        Raises:
            pa.ArrowInvalid: If a record has too few or too many cells, or a cell does not convert.
        """
        if not block.lstrip(b"\r\n"):
            return pa.schema([schema.field(n) for n in columns]).empty_table()
        if self._open(block):
            raise pa.ArrowInvalid("a quote is left open")
        key = (schema, tuple(columns))
        if key not in self._convert:
            self._convert[key] = pyarrow.csv.ConvertOptions(
                column_types={n: schema.field(n).type for n in columns},
                include_columns=list(columns),
                timestamp_parsers=self._parsers,
            )
        table = self._read(block, self._convert[key])
        for i, n in enumerate(columns):
            column = table.column(i)
            if column.type == pa.string():
                table = table.set_column(i, n, pa.chunked_array(map(_gaps, column.chunks), pa.string()))
            elif column.type == pa.float64() and n not in self._types and len(column):
                top = pc.max(pc.abs(column.filter(pc.is_finite(column)))).as_py()
                if (top or 0) >= EXACT and not _exact(self._texts(block, n)):
                    raise pa.ArrowInvalid(f"{n}: whole numbers past 2^53")
        return table

    def _texts(self, block: bytes, column: str) -> pa.ChunkedArray:
        texts = pyarrow.csv.ConvertOptions(include_columns=[column], column_types={column: pa.string()})
        return self._read(block, texts)[column]

    def explain(self, record: bytes, schema: pa.Schema, columns: Sequence[str]) -> str:
        """Why a record does not parse, and how to mend it: `, column 'a': expected int, got 'x': …`."""
        if self._open(record):
            return f": expected {len(self.names)} cells, got {record[:40]!r} …, whose quote is left open: close it"
        cells = self._cells(record)
        if len(cells) != len(self.names):
            return f": expected {len(self.names)} cells, got {len(cells)}: mend the line, or set on_bad_rows: skip"
        for name in columns:
            try:
                self.parse(record, schema, [name])
            except pa.ArrowInvalid:
                cell = cells[self.names.index(name)]
                return why(name, cell, schema.field(name).type)
        return ": does not parse: mend the line, or set on_bad_rows: skip"


def _casts(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        return column.cast(kind) is not None
    except pa.ArrowInvalid:
        return False


def _gaps(texts: pa.Array) -> pa.Array:
    """Empty strings become nulls; the text is not copied."""
    if texts.offset or texts.null_count or not len(texts):
        return texts
    start_B = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1)
    bits = np.packbits(start_B[1:] != start_B[:-1], bitorder="little")
    return pa.Array.from_buffers(pa.string(), len(texts), [reader(bits.tobytes()).read_buffer(), *texts.buffers()[1:]])

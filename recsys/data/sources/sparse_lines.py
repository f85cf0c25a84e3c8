"""Tables of sparse lines: libsvm (`label index:value …`) and libffm (`label field:index:value …`)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.files import File

__all__ = ["SparseLines"]

_PAIR = r"^(?P<index>\d+):(?P<value>[^:]+)$"
_TRIPLE = r"^(?P<field>\d+):(?P<index>\d+):(?P<value>[^:]+)$"


class SparseLines:
    """The dialect of libsvm and libffm.

    libsvm: columns `label`, `index` (a list) and `value` (a list of the same length). libffm: `label`,
    and for each field f the lists `field_f` and `field_f_value`. Text after a `#` is a comment.

    Args:
        fields: Whether entries name a field, as in libffm.
    """

    ending = "txt"

    def __init__(self, fields: bool) -> None:
        self._fields = fields

    def cut(self, block: bytes) -> int:
        """Count of the bytes of a block that are whole lines."""
        return block.rfind(b"\n") + 1

    def records(self, block: bytes) -> list[bytes]:
        """The lines with their ends."""
        return block.splitlines(keepends=True)

    def header(self, file: File, block: bytes) -> tuple[bytes, bytes]:
        """Sparse lines have no header."""
        return b"", block

    def _entries(self, block: bytes) -> tuple[pa.Array, np.ndarray, pa.StructArray]:
        """→ label_B, the row of each entry, and the entries."""
        lines = [line.partition("#")[0].strip() for line in block.decode().splitlines()]
        tokens = pc.ascii_split_whitespace(pa.array([line for line in lines if line], pa.string()))
        length_B = pc.list_value_length(tokens).to_numpy()
        flat = tokens.flatten()
        first = np.zeros(len(flat), dtype=bool)
        first[np.cumsum(length_B) - length_B] = True
        entries = pc.extract_regex(flat.filter(pa.array(~first)), _TRIPLE if self._fields else _PAIR)
        if entries.null_count:
            raise pa.ArrowInvalid("an entry is not index:value")
        label_B = flat.filter(pa.array(first)).cast(pa.float64())
        return label_B, np.repeat(np.arange(len(length_B)), length_B - 1), entries

    def check(self, block: bytes) -> None:
        """Raise ArrowInvalid if a line has another form."""
        self._entries(block)

    def infer(self, sample: bytes) -> pa.Schema:
        """The columns; for libffm two for each field in the sample."""
        pairs = [("index", "value")]
        if self._fields:
            names = pc.unique(pc.struct_field(self._entries(sample)[2], "field")).to_pylist()
            pairs = [(f"field_{f}", f"field_{f}_value") for f in sorted(names, key=int)]
        lists = [c for i, v in pairs for c in (pa.field(i, pa.list_(pa.int64())), pa.field(v, pa.list_(pa.float64())))]
        return pa.schema([pa.field("label", pa.float64()), *lists])

    def parse(self, block: bytes, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        """A block of whole lines as a table of these columns.

        Raises:
            pa.ArrowInvalid, ValueError: If a line has another form, or names a field that the
                schema does not have.
        """
        label_B, row, entries = self._entries(block)
        index = pc.struct_field(entries, "index").cast(pa.int64())
        value = pc.struct_field(entries, "value").cast(pa.float64())
        arrays: dict[str, pa.Array] = {"label": label_B}
        if not self._fields:
            arrays |= {"index": _lists(row, len(label_B), index), "value": _lists(row, len(label_B), value)}
        else:
            field = pc.struct_field(entries, "field")
            for f in [n for n in schema.names if n.startswith("field_") and not n.endswith("_value")]:
                inside = pc.equal(field, f.removeprefix("field_"))
                rows = row[inside.to_numpy(zero_copy_only=False)]
                arrays[f] = _lists(rows, len(label_B), index.filter(inside))
                arrays[f"{f}_value"] = _lists(rows, len(label_B), value.filter(inside))
            known = sum(len(arrays[n].values) for n in arrays if n.endswith("_value"))
            if known < len(field):
                raise pa.ArrowInvalid("an unknown field")
        return pa.table({n: arrays[n] for n in columns})

    def explain(self, record: bytes, schema: pa.Schema, columns: Sequence[str]) -> str:
        """Why a line does not parse, and how to mend it."""
        form = "label field:index:value …" if self._fields else "label index:value …"
        known = ", with fields that the first rows have" if self._fields else ""
        shown = record.strip()[:60].decode(errors="replace")
        return f": expected {form}{known}, got {shown!r}: mend the line"


def _lists(row: np.ndarray, rows: int, values: pa.Array) -> pa.ListArray:
    ends = np.cumsum(np.bincount(row, minlength=rows))
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), values)

"""A folder of plain tensors: tables in ranges of rows, everything else by name, and a manifest that says what is where.

    manifest.json                  what is listed below, and every number and text that is no tensor
    tables/RANK.NUMBER.safetensors row ranges of tables, weight and optimiser state side by side
    dense.NUMBER.safetensors       all other tensors

The folder does not depend on how tables are split among processes: each process writes the row ranges that it holds,
and reads whichever ranges it holds next time. NumPy can read the files. torch.distributed.checkpoint is not used: its
files are pickled, named by process, and only torch reads them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recsys.data.ranks import Ranks
from recsys.errors import ConfigError
from recsys.frame.contracts import TableRows

__all__ = [
    "DTYPES",
    "MANIFEST",
    "VERSION",
    "Manifest",
    "Part",
    "SavedTable",
    "check_split",
    "dtype_name",
    "saved_table",
]

VERSION = 1  # version of manifest.json and of what lies beside it
MANIFEST = "manifest.json"
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class SavedTable:
    """A table in a folder.

    Args:
        rows: Count of rows.
        dim: Width of a row.
        dtype: As safetensors names it: F32, F16 …
        state: The optimiser's state: `row` (a number a row) or `element`, and its dtype: `row F32`; empty if there is
            none.
    """

    rows: int
    dim: int
    dtype: str
    state: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """`weight`, and `state` if there is one."""
        return ("weight", "state") if self.state else ("weight",)

    def described(self, kind: str, rows: int) -> tuple[str, tuple[int, ...]]:
        """The dtype and the shape of so many rows of `weight` or `state`."""
        if kind == "weight":
            return self.dtype, (rows, self.dim)
        each, _, dtype = self.state.partition(" ")
        return dtype, (rows,) if each == "row" else (rows, self.dim)


@dataclass(frozen=True)
class Part:
    """A range of rows of a table, or another tensor, in a file.

    Args:
        file: Path of the file inside the folder.
        tensor: Name of the tensor in the file.
        checksum: XXH3 (128 bits) of its bytes.
        table: The table; empty for a tensor that is no table.
        kind: `weight` or `state` of a table.
        start: Its first row.
        stop: Its last row, plus 1.
    """

    file: str
    tensor: str
    checksum: str
    table: str = ""
    kind: str = ""
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Manifest:
    """What is in a folder, or what one of several processes wrote into it.

    Args:
        tables: The tables.
        files: Path → bytes.
        parts: What is in the files.
        world: Count of processes that wrote it.
        rest: Everything but tables, with names in the places of tensors.
    """

    tables: dict[str, SavedTable] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    world: int = 1
    rest: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: "Manifest") -> "Manifest":
        """What both list; a table that both list must be the same.

        Raises:
            ConfigError: If it is not.
        """
        for name in self.tables.keys() & other.tables.keys():
            if self.tables[name] != other.tables[name]:
                raise ConfigError(_by_columns(name))
        return Manifest(
            self.tables | other.tables,
            self.files | other.files,
            self.parts + other.parts,
            self.world + other.world,
            self.rest | other.rest,
        )

    def ranges(self) -> dict[tuple[str, str], list[Part]]:
        """The parts of each table's `weight` and `state`, in the order of rows.

        Raises:
            ConfigError: If not every row is in one part.
        """
        ranges: dict[tuple[str, str], list[Part]] = {
            (name, kind): [] for name, t in self.tables.items() for kind in t.kinds
        }
        for part in sorted(self.parts, key=lambda p: p.start):
            if (part.table, part.kind) in ranges:
                ranges[part.table, part.kind].append(part)
        for (name, _), parts in ranges.items():
            _check_cover(name, self.tables[name].rows, [(p.start, p.stop) for p in parts])
        return ranges

    @classmethod
    def joined(cls, shares: Iterable["Manifest"]) -> "Manifest":
        """What several processes wrote, as one.

        Raises:
            ConfigError: If they do not hold one table's rows at one width, or not each row once.
        """
        whole = sum(shares, cls(world=0))
        whole.ranges()
        return whole


def _check_cover(table: str, rows: int, ranges: Iterable[tuple[int, int]]) -> None:
    """Check that ranges of rows hold each row of a table once.

    Raises:
        ConfigError: If they do not.
    """
    end = 0
    for start, stop in sorted(ranges):
        if start < end:
            raise ConfigError(_by_columns(table))
        if start > end:
            break
        end = stop
    if end != rows:
        raise ConfigError(f"table {table!r}: expected each of {rows} rows to be saved by a process, row {end} is not")


def _by_columns(table: str) -> str:
    return (
        f"table {table!r}: expected each row whole in one process, got it in columns or twice. Row-wise Adagrad with "
        "columns apart would keep a moment for each piece of a row, which is another optimiser: split tables by rows"
    )


def dtype_name(x: Tensor, what: str) -> str:
    """The name of a tensor's dtype in a file.

    Raises:
        ConfigError: If a file cannot hold it.
    """
    if x.dtype not in DTYPES:
        raise ConfigError(f"cannot save {what}: expected one of {', '.join(DTYPES.values())}, got {x.dtype}")
    return DTYPES[x.dtype]


def check_split(held: Sequence[TableRows], ranks: Ranks) -> None:
    """Check, before a training begins, that its processes could save it: each row whole, and by one of them.

    Raises:
        ConfigError: If they could not.
    """
    saved = [r for r in held if r.saved]
    kinds = ("weight", "state")
    parts = [Part("", "", "", r.table, k, r.start, r.start + len(r.weight_RD)) for r in saved for k in kinds]
    Manifest.joined(ranks.gather(Manifest({r.table: saved_table(r) for r in held}, parts=parts)))


def saved_table(rows: TableRows) -> SavedTable:
    """How a table is described, from some of its rows."""
    weight, state = dtype_name(rows.weight_RD, f"table {rows.table!r}"), ""
    if rows.state is not None:
        kind = "row" if rows.state.ndim == 1 else "element"
        state = f"{kind} {dtype_name(rows.state, f'the optimiser state of table {rows.table!r}')}"
    return SavedTable(rows.total, rows.weight_RD.shape[1], weight, state)

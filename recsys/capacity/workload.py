"""The work of a training, counted from its tables and its model: bytes, reads and operations a row.

B rows a step, R processes, D width of a table's row, P dense parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FLOAT", "ID", "TableSize", "Workload"]

FLOAT, ID = 4, 8  # bytes of a number, and of an id on its way to a table


@dataclass(frozen=True)
class TableSize:
    """A table, and what a row of the data reads of it.

    Args:
        name: Of the table.
        rows: Count of its rows.
        dim: D.
        reads: Table rows that a row of the data reads, at most: a list counts with its full length.
        pooled: Numbers that these reads give, after lists are pooled.
    """

    name: str
    rows: int
    dim: int
    reads: int
    pooled: int


@dataclass(frozen=True)
class Workload:
    """A training, as far as its cost depends on it.

    Args:
        tables: All tables.
        states: What the tables' optimiser keeps: nothing (SGD), a number a `row` (row-wise Adagrad: 4 bytes) or one an
            `element` of it (Adagrad: 4·D bytes).
        dense_parameters: P.
        flops: Floating-point operations of the forward pass of a row: its matrix products.
        activations: Bytes that the forward pass of a row writes.
        operations: Operations of a forward pass, however many rows it has.
        numbers: Numbers of a row that are no ids, its labels included.
    """

    tables: Sequence[TableSize]
    states: Sequence[Literal["row", "element"]]
    dense_parameters: int
    flops: float
    activations: float
    operations: int
    numbers: int

    def state_bytes(self, dim: int) -> int:
        """Bytes that the tables' optimiser keeps of a row of D numbers."""
        return sum(FLOAT if kind == "row" else FLOAT * dim for kind in self.states)

    def bytes_of(self, table: TableSize) -> int:
        """rows · (4·D + state)."""
        return table.rows * (FLOAT * table.dim + self.state_bytes(table.dim))

    @property
    def table_rows(self) -> int:
        """Rows of all tables."""
        return sum(t.rows for t in self.tables)

    @property
    def table_bytes(self) -> int:
        """Tables and the state of their optimiser."""
        return sum(map(self.bytes_of, self.tables))

    @property
    def checkpoint_bytes(self) -> int:
        """Tables with their state, and 12·P: each dense parameter and its two moments."""
        return self.table_bytes + 3 * FLOAT * self.dense_parameters

    @property
    def reads(self) -> int:
        """Table rows that a row of the data reads."""
        return sum(t.reads for t in self.tables)

    @property
    def row_bytes(self) -> int:
        """A row of the data in a shard: ids and numbers of 4 bytes."""
        return FLOAT * (self.reads + self.numbers)

    @property
    def train_flops(self) -> float:
        """3 · flops: the backward pass has two matrix products for each of the forward pass."""
        return 3 * self.flops

    @property
    def gather_bytes(self) -> float:
        """Σ over reads of 4·D + 2·(4·D + state): read forward; read and written by the update."""
        return sum(t.reads * (3 * FLOAT * t.dim + 2 * self.state_bytes(t.dim)) for t in self.tables)

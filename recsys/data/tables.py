"""An in-memory table as a source that is read in batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from recsys.data.spool import CHUNK

__all__ = ["TableSource"]


class TableSource:
    """A table that is in memory.

    Args:
        table: All of it.
    """

    def __init__(self, table: pa.Table):
        self.table = table

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def batches(self, columns: Sequence[str] | None = None, rows: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """The rows in order, `rows` at a time."""
        table = self.table if columns is None else self.table.select(list(columns))
        for start in range(0, table.num_rows, rows):
            yield from table.slice(start, rows).combine_chunks().to_batches()

    def fingerprint(self) -> list[Any]:
        """Nothing: the configuration says it all."""
        return []

"""A bounded sample of a table of any size, in which all rows are equally likely."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import Progress, TextColumn

from recsys.data.preparation.labels import to_binary
from recsys.errors import DataError
from recsys.progress import progress

if TYPE_CHECKING:
    from recsys.data.preparation.first_pass import Source

__all__ = ["labels", "plain", "sample"]

_SALT = 0x5A3


def sample(source: "Source", rows: int, seed: int = 0, columns: list[str] | None = None) -> tuple[pa.Table, int]:
    """Read a table once and keep a random share of its rows, in their order.

    Each row draws u in [0, 1) and is kept while u < p; p halves when more than 2·rows are held. Thereby every
    row is as likely as any other. Memory holds 2·rows.

    Args:
        source: The table.
        rows: Most rows to keep, at least 1.
        seed: Seed of the draw.
        columns: Columns to read; all by default.

    Returns:
        The rows kept, and the count of rows in the table.

    Raises:
        DataError: If the table has no rows.
    """
    rng, share, total, held = np.random.default_rng([seed, _SALT]), 1.0, 0, 0
    parts: list[tuple[np.ndarray, pa.RecordBatch]] = []
    with progress(*Progress.get_default_columns(), TextColumn("{task.completed:,} rows")) as bar:
        task = bar.add_task("read", total=None)
        for batch in source.batches(columns):
            u_B = rng.random(len(batch))
            total += len(batch)
            parts.append(_thin(u_B, batch, share))
            held += len(parts[-1][0])
            while held > 2 * rows:
                share /= 2
                parts = [_thin(u, b, share) for u, b in parts]
                held = sum(len(u) for u, _ in parts)
            bar.update(task, completed=total)
    if not total:
        raise DataError("expected rows, the table has none: check the path")
    table = pa.Table.from_batches([b for _, b in parts], schema=parts[0][1].schema)
    if held > rows:
        keep = np.sort(np.argpartition(np.concatenate([u for u, _ in parts]), rows)[:rows])
        table = table.take(pa.array(keep))
    return table, total


def _thin(u_B: np.ndarray, batch: pa.RecordBatch, share: float) -> tuple[np.ndarray, pa.RecordBatch]:
    if share == 1.0:
        return u_B, batch
    kept_B = u_B < share
    return u_B[kept_B], batch.filter(pa.array(kept_B))


def labels(table: pa.Table, name: str, observed: bool = True) -> np.ndarray:
    """The label of every row, float32 0 or 1; NaN if it is missing and `observed` is false.

    Raises:
        DataError: If there is no such column, a label is missing and `observed`, or labels are not both 0 and 1.
    """
    if name not in table.column_names:
        have = ", ".join(table.column_names[:40])
        raise DataError(f"label: expected a column {name!r}, the table has {have}: name one of them")
    return to_binary(table[name], name, observed)


def plain(table: pa.Table) -> pl.DataFrame:
    """The table in polars, without dictionaries; empty text and NaN become null."""
    columns: dict[str, pl.Series] = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        series = pl.Series(name, column)
        if series.dtype == pl.String:
            series = series.set(series == "", None)
        elif series.dtype.is_float():
            series = series.fill_nan(None)
        columns[name] = series
    return pl.DataFrame(columns)

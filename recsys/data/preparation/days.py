"""The rows of a table by day, counted and encoded; `recsys.data.preparation.prepare` fitted the encoders that stay.

B rows, L values a list, V distinct values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.preparation.encode import TableEncoder
from recsys.data.preparation.fields import FieldConfig, data_fields, label_names
from recsys.data.preparation.first_pass import Source, read_source
from recsys.data.preparation.fit import column_of
from recsys.data.preparation.history import add_past
from recsys.data.preparation.labels import zeros_and_ones
from recsys.data.preparation.shard_writer import ShardWriter, SplitFacts
from recsys.data.preparation.spool import CHUNK, NO_TIME, Spool
from recsys.data.sources.scan import Scan
from recsys.errors import DataError
from recsys.events import SILENT, Reporter
from recsys.features.encoders import AnyEncoder
from recsys.features.growth import Seen
from recsys.features.schema import Schema
from recsys.files import write_json

__all__ = ["DAY", "DayRows", "Span"]

DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Span:
    """A range of time: start ≤ t < stop, in microseconds since 1970."""

    start: int
    stop: int

    @classmethod
    def between(cls, start: datetime, stop: datetime) -> "Span":
        """From two times without a zone."""
        return cls(*(int(np.datetime64(t, "us").astype(np.int64)) for t in (start, stop)))

    @property
    def last_day(self) -> int:
        """The day since 1970 at which it ends, this day excluded unless it ends inside it."""
        return -(-self.stop // DAY)

    def __str__(self) -> str:
        first, after = (np.datetime64(t, "us").astype("datetime64[m]") for t in (self.start, self.stop))
        return f"{first} to {after}"


class DayRows:
    """All rows of a table, read once, from which the rows of any days are taken.

    Args:
        spool: The first pass.
        configs: The fields' entries.
        schema: The fields of the model, and the columns that are no inputs.
    """

    def __init__(self, spool: Spool, configs: Sequence[FieldConfig], schema: Schema):
        self._spool, self._configs, self._schema = spool, configs, schema
        self._by_name = {c.name: c for c in configs}
        self._time = f"us/{schema.time}"
        self._parts: list[tuple[int, int, int, int]] = []
        for a in range(0, spool.rows, CHUNK):
            us_B = spool.read(self._time, a, b := min(spool.rows, a + CHUNK))
            self._parts.append((a, b, int(us_B.min()), int(us_B.max())))
        self.first, self.last = min(p[2] for p in self._parts), max(p[3] for p in self._parts)

    @classmethod
    def read(
        cls,
        config: Mapping[str, Any],
        load: Callable[[], "pa.Table | Source"],
        schema: Schema,
        folder: Path,
        reporter: Reporter = SILENT,
    ) -> "DayRows":
        """Read a table whose encoders were fitted before.

        Args:
            config: The `data` group; it names a column of times.
            load: Gives the raw table, or a `Scan` that reads it in batches.
            schema: The fields as they were prepared, or some of them.
            folder: An empty folder for the columns; the caller removes it after `close`.
            reporter: Can stop it.

        Raises:
            DataError: If a row has no time, or a column has another type than before.
        """
        table, configs = load(), data_fields(config)
        source = Scan.of(table) if isinstance(table, pa.Table) else table
        spool = read_source(source, configs, config, folder, reporter)
        try:
            _check_types(spool, schema)
            for name, column in zip(label_names(config), _labels(schema), strict=True):
                spool.replace(column, zeros_and_ones(spool.read(column), name, observed=column == "label"))
            rate = next((f.past.rate for f in schema.fields if f.past), 0.0)
            add_past(spool, configs, config, rate)
            rows = cls(spool, configs, schema)
            if rows.first == NO_TIME:
                raise DataError(f"time {schema.time!r}: expected one in every row, some have none: drop or fill them")
            return rows
        except BaseException:
            spool.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._spool.close()

    def _chosen(self, span: Span) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Ranges of rows that hold rows of a span → start, stop, which of them are in it, and their times."""
        for a, b, first, last in self._parts:
            if first < span.stop and last >= span.start:
                us_B = self._spool.read(self._time, a, b)
                yield a, b, (us_B >= span.start) & (us_B < span.stop), us_B

    def count(self, span: Span) -> int:
        """Rows of a span."""
        return sum(int(chosen_B.sum()) for _, _, chosen_B, _ in self._chosen(span))

    def seen(self, name: str, span: Span) -> Seen:
        """The values of a field with a vocabulary in a span."""
        c = self._by_name[name]
        column, dictionary = column_of(c, c), self._spool.dictionary(c.past.of if c.past else c.inputs[0])
        count, last = np.zeros(dictionary.size, np.int64), np.zeros(dictionary.size, np.int64)
        for a, b, chosen_B, us_B in self._chosen(span):
            code = self._spool.read(column, a, b)[chosen_B]
            day = np.repeat(us_B[chosen_B] // DAY, code[0].size if len(code) else 1)
            code = code.ravel()
            count += np.bincount(code[code >= 0], minlength=dictionary.size)
            np.maximum.at(last, code[code >= 0], day[code >= 0])
        seen = np.flatnonzero(count)
        return Seen(dictionary.values().gather(seen).to_list(), count[seen], last[seen])

    def write(
        self, folder: Path, split: str, span: Span, schema: Schema, encoders: Mapping[str, AnyEncoder]
    ) -> SplitFacts:
        """Write the rows of a span as shards that `Shards(folder, split)` reads.

        Args:
            folder: A prepared folder in the making; its schema.json is written.
            split: Name of the split, which the folder does not have yet.
            span: Whose rows.
            schema: The fields, with the cardinalities of the encoders.
            encoders: One for each field.

        Raises:
            DataError: If the span has no rows.
        """
        rows = self.count(span)
        if not rows:
            first, last = (np.datetime64(t, "us").astype("datetime64[D]") for t in (self.first, self.last))
            raise DataError(
                f"expected rows from {span}, found none: the table has rows from {first} to {last}: raise daily.days, "
                "or end before the gap (daily.end)"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "schema.json", schema.to_json())
        encode = TableEncoder(self._spool, self._configs, schema, encoders)
        extras = {"weight": "weight", "group": f"codes/{schema.group}"}
        columns = {k: v for k, v in extras.items() if v in self._spool and getattr(schema, k)}
        writer, first = ShardWriter(folder / split, schema, encoders, rows), 0
        try:
            for a, b, chosen_B, _ in self._chosen(span):
                if not chosen_B.any():
                    continue
                ids_BL, dense_BN = encode(a, b)
                label_BT = np.stack([self._spool.read(c, a, b) for c in _labels(schema)], 1)
                label = label_BT if len(schema.labels) > 1 else label_BT[:, 0]
                rest = {"label": label, **{k: self._spool.read(v, a, b) for k, v in columns.items()}}
                writer.append(first, ids_BL[chosen_B], dense_BN[chosen_B], {k: v[chosen_B] for k, v in rest.items()})
                first += int(chosen_B.sum())
            return writer.facts()
        finally:
            writer.close()


def _labels(schema: Schema) -> list[str]:
    """The spool's columns of the labels, the main one first."""
    return ["label", *(f"label/{name}" for name in schema.other_labels)]


def _check_types(spool: Spool, schema: Schema) -> None:
    """Check that every column of ids has the type that it was prepared with."""
    for f in schema.fields:
        for column, dtype in zip(f.inputs, f.dtypes, strict=True):
            got = spool.dtypes.get(column, dtype)
            got = "int" if got == "float" else got  # whole numbers with gaps
            if not f.past and dtype in ("string", "int", "bool") and got != dtype:
                raise DataError(
                    f"column {column!r}: expected {dtype}, as on the first day, got {got}: an id of another type "
                    "would be another id: convert the column"
                )

"""First pass: a raw table, batch by batch, to narrow columns of numbers on disk (`Spool`).

Each batch is read while the one before is encoded, by two threads. B rows, L ids a list.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import TextColumn

from recsys.data.preparation.columns import (
    distinct_values,
    dtype_of,
    flat_lists,
    floats,
    hashed,
    instants,
    is_list,
    spelled,
    vectors,
)
from recsys.data.preparation.fields import FieldConfig, label_names
from recsys.data.preparation.fit import column_of
from recsys.data.preparation.labels import label_values
from recsys.data.preparation.spool import CHUNK, NO_TIME, PAD, Dictionary, Spool
from recsys.errors import DataError
from recsys.events import SILENT, Reporter, raise_if_cancelled
from recsys.features.derived import PARTS
from recsys.features.encoders import MISSING, Words
from recsys.progress import progress

__all__ = ["Source", "read_source"]


class Source(Protocol):
    """Any table that can be read more than once in batches (see `recsys.data.sources.scan.Scan`)."""

    @property
    def schema(self) -> pa.Schema: ...

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = CHUNK, coded: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]: ...


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; each is read while the caller works on the one before."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


class _Plan:
    """Which columns of numbers the fields and the rest of the configuration need."""

    def __init__(self, spool: Spool, schema: pa.Schema):
        self.spool, self.schema = spool, schema
        self.jobs: dict[str, Callable[[pa.RecordBatch], np.ndarray | None]] = {}
        self.columns: list[str] = []
        self._plain: set[str] = set()

    @property
    def coded(self) -> list[str]:
        """Columns of text that may come as dictionaries."""
        return [c for c in self.columns if c not in self._plain and self.spool.dtypes[c] == "string"]

    def need(self, column: str, who: str, coded: bool = False) -> str:
        """Check that the table has the column → its dtype; `coded`: it may come as a dictionary."""
        names = self.schema.names
        if column not in names:
            shown = ", ".join(names[:40]) + (", …" if len(names) > 40 else "")
            raise DataError(f"{who}: expected a column {column!r}, the table has {shown}: rename it")
        if not coded:
            self._plain.add(column)
        if column not in self.columns:
            self.columns.append(column)
            self.spool.dtypes[column] = dtype_of(self.schema.field(column).type, column)
        return self.spool.dtypes[column]

    def whole(self, column: str) -> str:
        """The dtype in which the column is spelled: `int` for floats, which must be whole (integers with gaps)."""
        dtype = self.spool.dtypes[column]
        return "int" if dtype == "float" else dtype

    def speller(self, column: str) -> Callable[[pl.Series], pl.Series]:
        """Spells values of the column."""
        return lambda values: spelled(values, self.whole(column), column)

    def _hashes(self, batch: pa.RecordBatch, c: FieldConfig, owner: FieldConfig) -> np.ndarray:
        columns = [batch[each] for each in c.inputs]
        if len(columns) == 1 and pa.types.is_dictionary(columns[0].type):
            distinct, index_B = distinct_values(columns[0])
            ids_K = hashed([self.speller(c.inputs[0])(pl.Series(distinct))], owner.buckets, owner.seed)
            return np.append(ids_K, np.int32(MISSING)).take(index_B)
        parts = [self.speller(name)(_series(x)) for name, x in zip(c.inputs, columns, strict=True)]
        return hashed(parts, owner.buckets, owner.seed)

    def key(self, column: str, who: str) -> None:
        """Add a scalar column as codes in order of first appearance."""
        self.need(column, who)
        self.scalar(column, "categorical")
        self._codes(f"codes/{column}", column, self.spool.dictionary(column))

    def _codes(self, name: str, column: str, dictionary: Dictionary) -> None:
        self.jobs[name] = lambda batch: dictionary.codes(batch[column], self.speller(column))

    def scalar(self, column: str, kind: str) -> None:
        column_type = self.schema.field(column).type
        if is_list(column_type):
            raise DataError(
                f"column {column!r}: {kind} expected single values, got {column_type}: set kind to multi or vector"
            )

    def time(self, column: str, who: str) -> None:
        """Add a scalar column as microseconds, `NO_TIME` where missing."""
        self.need(column, who)

        def values(batch: pa.RecordBatch) -> np.ndarray:
            us_B, there_B = instants(batch[column], column, self.spool.rows)
            return np.where(there_B, us_B, NO_TIME)

        self.jobs[f"us/{column}"] = values

    def field(self, c: FieldConfig, owner: FieldConfig) -> None:
        """Add all that one field needs; `owner` is the field whose encoder it uses, mostly itself."""
        who = f"data.fields.{c.name}"
        if c.past is not None:
            for column in (*c.past.by, *filter(None, [c.past.of])):
                self.key(column, who)
            return
        for column in c.inputs:
            self.need(column, who, coded=c.kind == "categorical" and c.encoding in ("vocabulary", "hash"))
        column = c.inputs[0]
        if c.is_list and not c.separator:
            kind = self.schema.field(column).type
            if not is_list(kind):
                raise DataError(
                    f"column {column!r}: {c.kind} expected lists, got {kind}: set kind to categorical, or a separator"
                )
        elif not c.is_list:
            for each in c.inputs:
                self.scalar(each, c.kind)
        readers = {"vector": self._vector, "multi": self._list, "sequence": self._list, "text": self._text}
        if c.kind in readers:
            readers[c.kind](c, owner)
        elif c.kind == "numeric" or c.encoding in ("bucket", "learned_bucket"):
            self.jobs[f"float/{column}"] = lambda batch: floats(batch[column], column)
        elif c.encoding in PARTS:
            self.time(column, who)
        elif owner.encoding == "hash":
            self.jobs[f"hash/{c.name}"] = lambda batch: self._hashes(batch, c, owner)
        else:
            self._codes(column_of(c, owner), column, self.spool.dictionary(owner.inputs[0]))

    def _vector(self, c: FieldConfig, _: FieldConfig) -> None:
        column, name = c.inputs[0], f"vector/{c.name}"

        def values(batch: pa.RecordBatch) -> np.ndarray | None:
            if name in self.spool:
                width = self.spool.width(name)
            else:
                lengths = pc.unique(pc.list_value_length(batch[column])).drop_null()
                if len(lengths) == 0:
                    return None  # no vector so far, so their length is not known
                width = lengths[0].as_py()
            return vectors(batch[column], width, column)

        self.jobs[name] = values

    def _list(self, c: FieldConfig, owner: FieldConfig) -> None:
        column = c.inputs[0]
        dictionary = None if owner.encoding == "hash" else self.spool.dictionary(owner.inputs[0])

        def values(batch: pa.RecordBatch) -> np.ndarray:
            flat, length_B = flat_lists(batch[column], column, c.separator)
            if dictionary is None:
                ids = hashed([self.speller(column)(_series(flat))], owner.buckets, owner.seed)
            else:
                ids = dictionary.codes(flat, self.speller(column))
            return self._padded(c, ids, length_B)

        self.jobs[f"list/{c.name}"] = values
        if c.weights:
            self._weights(c)

    def _padded(self, c: FieldConfig, flat: np.ndarray, length_B: np.ndarray) -> np.ndarray:
        """→ B×L, the kept values first, then PAD (NaN for floats)."""
        self.spool.clipped[c.name] = self.spool.clipped.get(c.name, 0) + int((length_B > c.max_length).sum())
        position = np.arange(len(flat)) - np.repeat(np.cumsum(length_B) - length_B, length_B)
        if c.reverse:
            position = np.repeat(length_B, length_B) - 1 - position
        row = np.repeat(np.arange(len(length_B)), length_B)
        out_BL = np.full((len(length_B), c.max_length), PAD, flat.dtype)
        kept = position < c.max_length
        out_BL[row[kept], position[kept]] = flat[kept]
        return out_BL

    def _weights(self, c: FieldConfig) -> None:
        who = f"data.fields.{c.name}.weights"
        self.need(c.weights, who)

        def values(batch: pa.RecordBatch) -> np.ndarray:
            flat, length_B = flat_lists(batch[c.weights], c.weights)
            _, wanted_B = flat_lists(batch[c.inputs[0]], c.inputs[0])
            if (length_B != wanted_B).any():
                row = self.spool.rows + int(np.flatnonzero(length_B != wanted_B)[0])
                raise DataError(f"{who}: expected one weight a value, row {row} has other counts: mend it")
            w = floats(flat, c.weights)
            if (w < 0).any() or np.isnan(w).any():
                raise DataError(
                    f"{who}: expected weights of at least 0, got {np.nanmin(w) if len(w) else w}: mend them"
                )
            return np.maximum(self._padded(c, w, length_B), 0).astype(np.float32)

        self.jobs[f"weight/{c.name}"] = values

    def _text(self, c: FieldConfig, _: FieldConfig) -> None:
        column = c.inputs[0]
        if self.spool.dtypes[column] != "string":
            raise DataError(f"column {column!r}: expected text, got {self.spool.dtypes[column]}: set another kind")
        words = Words(c.buckets, c.ngrams, c.seed)

        def values(batch: pa.RecordBatch) -> np.ndarray:
            coded = pc.dictionary_encode(batch[column], null_encoding="encode")
            known = [words.ids(v) for v in coded.dictionary.to_pylist()]
            lists = [known[i] for i in coded.indices.to_numpy()]
            length_B = np.array([len(i) for i in lists], np.int64)
            flat = np.fromiter((i for ids in lists for i in ids), np.int32, int(length_B.sum()))
            return self._padded(c, flat, length_B)

        self.jobs[f"list/{c.name}"] = values


def _series(values: pa.Array) -> pl.Series:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return pl.Series(values)


def read_source(
    source: Source, configs: Sequence[FieldConfig], config: Mapping[str, Any], folder: Path, reporter: Reporter = SILENT
) -> Spool:
    """Read a table once and leave what the second pass needs.

    Args:
        source: The table.
        configs: The fields.
        config: Names the columns `label`, `labels`, `weight`, `group`, `time` and that of the split.
        folder: Where the columns go; the caller removes it.
        reporter: Can stop it after each chunk of rows.

    Raises:
        DataError: If a column is absent, or holds a value that its field cannot take.
    """
    spool = Spool(folder)
    try:
        return _read(spool, source, configs, config, reporter)
    except BaseException:
        spool.close()
        raise


def _read(
    spool: Spool, source: Source, configs: Sequence[FieldConfig], config: Mapping[str, Any], reporter: Reporter
) -> Spool:
    plan = _Plan(spool, source.schema)
    _not_inputs(plan, config)
    by_name = {c.name: c for c in configs}
    for c in configs:
        plan.field(c, by_name[c.table] if c.table else c)
    show = (TextColumn("read"), TextColumn("{task.completed:,.0f} rows, {task.fields[speed]} a second"))
    with progress(*show) as bar, ThreadPoolExecutor(2) as pool:
        task = bar.add_task("read", total=None, speed="…")
        for batch in _ahead(iter(source.batches(plan.columns, CHUNK, plan.coded))):
            sampled = pool.submit(spool.keep_sample, batch)
            for _ in pool.map(lambda name, batch=batch: spool.append_from(name, plan.jobs[name](batch)), plan.jobs):
                pass
            sampled.result()
            spool.rows += len(batch)
            speed = spool.rows / max(bar.tasks[task].elapsed or 0, 1e-3)
            bar.update(task, completed=spool.rows, speed=f"{speed:,.0f}")
            raise_if_cancelled(reporter)
    if late := [n for n in plan.jobs if n not in spool and spool.rows]:
        raise DataError(f"{late[0]}: expected vectors, got none but missing: drop the field")
    if spool.rows == 0:
        raise DataError("the table is empty: expected rows under its header, got none: check data.source")
    return spool


def _not_inputs(plan: _Plan, config: Mapping[str, Any]) -> None:
    """Add label, weight, group, time and the column of the split."""
    label, *others = label_names(config)
    plan.need(label, "label")
    plan.jobs["label"] = lambda batch: label_values(batch[label], label)
    for other in others:
        plan.need(other, "labels")
        plan.jobs[f"label/{other}"] = lambda batch, other=other: label_values(batch[other], other)
    if weight := config.get("weight"):
        plan.need(weight, "weight")
        plan.jobs["weight"] = lambda batch: np.clip(floats(batch[weight], weight), -1, 3e38).astype(np.float32)
    if time := config.get("time"):
        plan.time(time, "time")
    split = config.get("split") or {}
    for who, column in (("group", config.get("group")), ("split", split.get("column") or split.get("by"))):
        if column:
            plan.key(column, who)

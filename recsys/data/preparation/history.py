"""Past-only columns of a whole table, and the snapshot that serving continues from.

Holds about 60 bytes a row in memory: the sorted keys and times of all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import polars_hash  # noqa: F401  # pyright: ignore[reportUnusedImport]  (gives expressions `nchash`)

from recsys.data.preparation.fields import FieldConfig
from recsys.data.preparation.spool import ABSENT_CODE, CHUNK, PAD, Spool
from recsys.errors import ConfigError
from recsys.features.derived import Past
from recsys.features.encoders import SEPARATOR
from recsys.features.past import Order, Snapshot
from recsys.features.schema import Schema

__all__ = ["add_past", "snapshot"]


def _keys(spool: Spool, by: Sequence[str]) -> np.ndarray:
    """int64 codes of the combined key, dense from 0; −1 where a part is missing."""
    parts = [spool.read(f"codes/{c}").astype(np.int64) for c in by]
    key_B, missing_B = parts[0], parts[0] < 0
    for c, part_B in zip(by[1:], parts[1:], strict=True):
        key_B = key_B * max(1, spool.dictionary(c).size) + part_B
        missing_B = missing_B | (part_B < 0)
        key_B = np.unique(np.where(missing_B, -1, key_B), return_inverse=True)[1]  # small again: no overflow
    if len(by) > 1:
        key_B = np.unique(np.where(missing_B, -1, key_B), return_inverse=True)[1] - int(missing_B.any())
    return np.where(missing_B, -1, key_B).astype(np.int64)


def _order(spool: Spool, past: Past, time: str) -> tuple[np.ndarray, Order]:
    """key_B of every row, and the order of those that count: with a value for `last`, and the label of `where`."""
    key_B = _keys(spool, past.by)
    counts_B = spool.read(f"codes/{past.of}") >= 0 if past.of else np.ones(len(key_B), bool)
    if past.where:
        counts_B &= spool.read("label") == float(past.where == "positive")
    return key_B, Order(np.where(counts_B, key_B, -1), spool.read(f"us/{time}"))


def add_past(spool: Spool, configs: Sequence[FieldConfig], config: Mapping[str, Any], rate: float) -> None:
    """Append a column `past/FIELD` for every past-only field.

    Raises:
        ConfigError: If there is no time column.
    """
    wanted = [c for c in configs if c.past]
    if wanted and not config.get("time"):
        raise ConfigError(f"data.fields.{wanted[0].name}.past: set data.time to the column that tells what is past")
    orders: dict[tuple[Any, ...], tuple[np.ndarray, Order]] = {}
    for c in wanted:
        assert c.past is not None
        by, past = (*c.past.by, c.past.of, c.past.where), replace(c.past, rate=rate)
        if by not in orders:
            orders[by] = _order(spool, past, config["time"])
        key_B, order = orders[by]
        if past.what == "last":
            codes = np.append(spool.read(f"codes/{past.of}"), np.int32(PAD))
            for start in range(0, spool.rows, CHUNK):  # the lists of all rows at once would not fit in memory
                some = slice(start, start + CHUNK)
                rows_BL = order.last(past, c.max_length, key_B[some], order.time_B[some])
                spool.append(f"past/{c.name}", codes[rows_BL])
        else:
            label_B = spool.read("label")
            spool.append(f"past/{c.name}", order.column(past, label_B, key_B, order.time_B))


def _hashes(spool: Spool, past: Past, first_G: np.ndarray) -> np.ndarray:
    """→ `Past.key` of the rows first_G, uint64."""
    parts = []
    for c in past.by:
        values = spool.dictionary(c).values()
        parts.append(values.gather(spool.read(f"codes/{c}")[first_G]).alias(str(len(parts))))
    joined = pl.DataFrame(parts).select(pl.concat_str(pl.all(), separator=SEPARATOR).alias("k"))
    return joined.select(pl.col("k").nchash.xxhash64(seed=0))["k"].to_numpy()  # type: ignore[attr-defined]  # polars-hash adds it


def snapshot(spool: Spool, configs: Sequence[FieldConfig], schema: Schema) -> Snapshot | None:
    """The past of every key just after the last row; None without past-only fields."""
    arrays: dict[str, np.ndarray] = {}
    by_name = {c.name: c for c in configs}
    for f in (f for f in schema.fields if f.past):
        past = f.past
        assert past is not None and schema.time is not None
        key_B, order = _order(spool, past, schema.time)
        key_G, first_G = np.unique(key_B, return_index=True)
        key_G, first_G = key_G[key_G >= 0], first_G[key_G >= 0]
        end_G = np.full(len(key_G), int(order.time_B.max()) + 1)
        hash_G = _hashes(spool, past, first_G)
        rank_G = np.argsort(hash_G)
        arrays[f"{f.name}/keys"] = hash_G[rank_G]
        if past.what == "last":
            arrays |= _lists(
                spool, f.name, past, order.last(past, by_name[f.name].max_length, key_G, end_G)[rank_G], f.dtypes[0]
            )
            continue
        if past.what == "days_since":
            start_G, stop_G = order.before(key_G, end_G - past.delay)
            rank_G = rank_G[stop_G[rank_G] > start_G[rank_G]]  # the others have no latest row
            value_G = order.time_B[order.rows[np.maximum(stop_G - 1, 0)]]
            arrays[f"{f.name}/keys"] = hash_G[rank_G]
        else:
            value_G = order.column(past, spool.read("label"), key_G, end_G)
        arrays[f"{f.name}/value"] = value_G[rank_G]
    return Snapshot(arrays) if arrays else None


def _lists(spool: Spool, name: str, past: Past, rows_GL: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """Values and offsets of the lists, without missing values."""
    codes = np.append(spool.read(f"codes/{past.of}"), np.int32(ABSENT_CODE))[rows_GL]
    there_GL = codes >= 0
    values = spool.dictionary(past.of).values().gather(codes[there_GL])
    offset = np.concatenate([[0], np.cumsum(there_GL.sum(1))])
    kept = values.cast(pl.Int64).to_numpy() if dtype == "int" else values.to_numpy().astype(str)
    return {f"{name}/offset": offset, f"{name}/value": kept}

"""Raw table → encoders fitted on the training rows → schema and shards, cached by a digest."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import Progress

from recsys.data.fit import FieldConfig, encode, fit
from recsys.encoding import MISSING, UNSEEN, encoder_from_json
from recsys.errors import ConfigError, DataError
from recsys.schema import Schema

__all__ = ["SPLITS", "prepare", "split_rows"]

SPLITS = ("train", "valid", "test")
GOLDEN_ROWS = 256  # raw test rows kept for the golden batch of a bundle


def _label(table: pa.Table, column: str) -> np.ndarray:
    if column not in table.column_names:
        have = ", ".join(table.column_names)
        raise DataError(f"label: expected a column {column!r}, the table has {have}: set data.label")
    gaps = table[column].null_count
    if gaps:
        raise DataError(f"label {column!r}: expected 0 or 1 in every row, {gaps} rows have none: drop or fill them")
    try:
        label_B = table[column].cast(pa.float32()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"label {column!r}: expected 0 and 1, got {table[column].type}: map it to 0 and 1") from error
    values = np.unique(label_B)
    if not np.isin(values, [0, 1]).all():
        raise DataError(f"label {column!r}: expected only 0 and 1, got {values[:5].tolist()}: make it binary")
    if len(values) < 2:
        raise DataError(f"label {column!r}: expected both 0 and 1, every row is {values[0]:g}: check data.label")
    return label_B


def _time(table: pa.Table, column: str) -> np.ndarray:
    if column not in table.column_names:
        raise DataError(f"time: expected a column {column!r}, the table has {', '.join(table.column_names)}")
    values = table[column]
    try:
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            values = values.cast(pa.float64()).cast(pa.int64(), safe=False).cast(pa.timestamp("s"))
        time_B = values.cast(pa.timestamp("us")).to_numpy().astype("datetime64[us]")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"time {column!r}: expected timestamps like 2017-02-01 12:30:00 or seconds since 1970, "
            f"got {error.args[0].splitlines()[0]}: mend those rows"
        ) from error
    if np.isnat(time_B).any():
        raise DataError(f"time {column!r}: {int(np.isnat(time_B).sum())} rows have none: drop or fill them")
    return time_B


def _by_range(time_B: np.ndarray, split: Mapping[str, Any]) -> dict[str, np.ndarray]:
    rows = {}
    for name in SPLITS:
        try:
            start, end = (np.datetime64(datetime.fromisoformat(str(t)), "us") for t in split[name])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"data.split.{name}: expected [from, to) as two ISO dates, got {error}") from error
        rows[name] = np.flatnonzero((time_B >= start) & (time_B < end))
    return rows


def split_rows(rows: int, time_B: np.ndarray | None, split: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Which rows belong to each split.

    Args:
        rows: Rows of the table.
        time_B: datetime64, or None.
        split: Either `{train: [from, to), valid: …, test: …}` as ISO dates, or `{shares: [.8, .1,
            .1], gap_days: 0, seed: 0}`: in order of time where there is a time column, else at
            random. `gap_days` are left out before validation and before test.

    Raises:
        ConfigError: If the entries are malformed.
        DataError: If a split comes out empty.
    """
    if "shares" not in split:
        if time_B is None:
            raise ConfigError("data.split gives dates: set data.time to the column that they are about")
        made = _by_range(time_B, split)
    else:
        try:
            shares = [float(s) for s in split["shares"]]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"data.split.shares: expected three positive shares, got {split['shares']!r}") from error
        if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(f"data.split.shares: expected three positive shares that sum to 1, got {shares}")
        cuts = (np.cumsum(shares)[:2] * rows + 1e-6).astype(int)  # .7 + .2 falls a hair short of .9
        if time_B is None:
            parts = np.split(np.random.default_rng(split.get("seed", 0)).permutation(rows), cuts)
            made = {n: np.sort(p) for n, p in zip(SPLITS, parts, strict=True)}
        else:
            order = np.argsort(time_B, kind="stable")
            gap = np.timedelta64(timedelta(days=float(split.get("gap_days", 0))))
            start = [time_B[order[min(c, rows - 1)]] for c in cuts]
            inside = [
                time_B < start[0],
                (time_B >= start[0] + gap) & (time_B < start[1]),
                time_B >= start[1] + gap,
            ]
            made = {n: np.flatnonzero(i) for n, i in zip(SPLITS, inside, strict=True)}
    for name, chosen in made.items():
        if len(chosen) == 0:
            raise DataError(f"the {name} split is empty ({rows} rows in all): change data.split")
    return made


def _field_configs(entries: Mapping[str, Any]) -> list[FieldConfig]:
    known = set(FieldConfig.__dataclass_fields__) - {"name"}
    made = []
    for name, entry in entries.items():
        if not isinstance(entry or {}, Mapping):
            raise ConfigError(f"data.fields.{name}: expected settings like {{kind: numeric}}, got {entry!r}")
        entry = dict(entry or {})
        unknown = set(entry) - known
        if unknown:
            raise ConfigError(f"data.fields.{name}: unknown {sorted(unknown)}: expected some of {sorted(known)}")
        made.append(FieldConfig(name, **entry))
    return sorted(made, key=lambda c: c.kind in ("numeric", "vector"))  # looked-up fields first: see Schema


def _digest(config: Mapping[str, Any]) -> str:
    """Names what was prepared: the configuration and, for a file, its size and time of change."""
    config = {k: v for k, v in config.items() if k != "name"}
    path = dict(config.get("source") or {}).get("path")
    stat = Path(path).stat() if path and Path(path).is_file() else None
    known = [
        json.dumps(config, sort_keys=True, default=str),
        stat and [stat.st_size, stat.st_mtime_ns],
    ]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:12]


def prepare(config: Mapping[str, Any], load: Callable[[], pa.Table], cache: Path) -> Path:
    """Prepare a data set, or find it in the cache.

    Args:
        config: The `data` group: label, time, group, split, fields.
        load: Gives the raw table.
        cache: Folder of prepared data sets; this one goes to `<name>-<digest>` in it.

    Returns:
        The folder: schema.json, encoders.json, prepared.json, golden_rows.json and a folder a
        split (see `Shards`). It appears whole or not at all.

    Raises:
        ConfigError, DataError: Whatever of the table or configuration cannot work.
    """
    folder = Path(cache) / f"{config['name']}-{_digest(config)}"
    if (folder / "prepared.json").exists():
        return folder
    configs = _field_configs(config["fields"])
    table = load()
    label_B = _label(table, config["label"])
    time_B = _time(table, config["time"]) if config.get("time") else None
    rows = split_rows(table.num_rows, time_B, config["split"])
    if len(np.unique(label_B[rows["train"]])) < 2:
        raise DataError("the train split holds one label only: change data.split")
    group = config.get("group")
    if group and group not in table.column_names:
        raise DataError(f"group: expected a column {group!r}, the table has {', '.join(table.column_names)}")
    train = table.take(pa.array(rows["train"]))
    fitted = []
    with Progress() as bar:  # not rich's `track`: an error inside it leaves its thread behind, and the next one hangs
        task = bar.add_task("fit encoders ", total=len(configs))
        for c in configs:
            fitted.append(fit(train, c))
            bar.advance(task)
    schema = Schema(tuple(f for f, _ in fitted), config["label"], group)
    encoders = {f.name: e for f, e in fitted}

    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    building.mkdir(parents=True, exist_ok=True)
    try:
        stored = {n: e.to_json() for n, e in encoders.items()}
        (building / "schema.json").write_text(json.dumps(schema.to_json(), indent=1))
        (building / "encoders.json").write_text(json.dumps(stored, ensure_ascii=False))
        encoders = {n: encoder_from_json(v) for n, v in json.loads(json.dumps(stored)).items()}
        about = {}
        with Progress() as bar:
            task = bar.add_task("write shards ", total=len(SPLITS))
            for name in SPLITS:
                part = table.take(pa.array(rows[name]))
                ids_BL, dense_BN = encode(part, schema, encoders)
                _write(building / name, ids_BL, dense_BN, label_B[rows[name]], part[group] if group else None)
                known = {n for n, v in stored.items() if v["encoder"] == "vocabulary"}
                about[name] = _describe(schema, ids_BL, label_B[rows[name]], known)
                bar.advance(task)
        golden = table.take(pa.array(rows["test"][:GOLDEN_ROWS])).select(schema.raw_columns).to_pylist()
        golden = [{k: _without_nan(v) for k, v in row.items()} for row in golden]
        (building / "golden_rows.json").write_text(json.dumps(golden, ensure_ascii=False))
        (building / "prepared.json").write_text(json.dumps({"digest": folder.name, "splits": about}, indent=1))
        _publish(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _without_nan(value: Any) -> Any:
    """NaN, in a list too, becomes None: it is missing all the same, and not JSON."""
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if value != value else value


def _write(
    folder: Path,
    ids_BL: np.ndarray,
    dense_BN: np.ndarray,
    label_B: np.ndarray,
    group: Any,
) -> None:
    folder.mkdir()
    np.save(folder / "ids.npy", ids_BL)
    np.save(folder / "dense.npy", dense_BN)
    np.save(folder / "label.npy", label_B)
    if group is not None:
        codes = pc.dictionary_encode(group, null_encoding="encode").combine_chunks().indices
        np.save(folder / "group.npy", codes.to_numpy().astype(np.int64))


def _describe(schema: Schema, ids_BL: np.ndarray, label_B: np.ndarray, known: set[str]) -> dict[str, Any]:
    """Rows, label rate and, a field, the shares of missing and (with a vocabulary) unseen ids."""
    shares, start = {}, 0
    for f in schema.sparse:
        ids = ids_BL[:, start : start + f.max_length]
        shares[f.name] = {"missing": float((ids == MISSING).mean())}
        if f.name in known:
            shares[f.name]["unseen"] = float((ids == UNSEEN).mean())
        start += f.max_length
    return {"rows": len(label_B), "label_rate": float(label_B.mean()), "fields": shares}


def _publish(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:
        if not (folder / "prepared.json").exists():  # another process may have been first: take its work
            raise

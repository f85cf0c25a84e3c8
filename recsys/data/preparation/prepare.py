"""Raw table → encoders fitted on the training rows → schema and shards, cached by a digest.

Two passes: `recsys.data.preparation.first_pass` reads the table once; here its columns become splits, encoders and
row-major shards, a range of rows at a time.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.config.factory import targets
from recsys.data.preparation.fields import KEYS, FieldConfig, data_fields, label_names
from recsys.data.preparation.first_pass import Source, read_source
from recsys.data.preparation.fit import field_of, fit
from recsys.data.preparation.golden import golden_rows
from recsys.data.preparation.history import add_past, snapshot
from recsys.data.preparation.labels import zeros_and_ones
from recsys.data.preparation.shard_writer import write_shards
from recsys.data.preparation.split import SPLITS, split_codes
from recsys.data.preparation.spool import Spool
from recsys.data.sources.scan import Scan
from recsys.errors import ConfigError, DataError
from recsys.events import SILENT, Reporter
from recsys.features.encoders import AnyEncoder, encoder_from_json
from recsys.features.row_encoder import encoders_to_json, read_encoders
from recsys.features.schema import Schema
from recsys.files import disk_full, read_json, unfinished_folder
from recsys.progress import progress
from recsys.versions import code_version

__all__ = ["KEYS", "SPLITS", "check_unchanged", "prepare", "source_version"]

FORMAT = 4  # of the prepared folder; raise it if a reader of it must change
_NOT_HASHED = (
    "recsys.config",
    "recsys.errors",
    "recsys.events",
    "recsys.progress",
    "recsys.terminal",
)
"""Code that no prepared data depends on."""
_MOST_WEIGHT = 1e30  # of a row: a batch of them can be summed as float32
_STEP = 1 << 16  # rows looked at at once


def _digest(config: Mapping[str, Any], source: Any, code: str) -> str:
    """A digest of format, code, libraries, configuration, and the files' sizes and times of change."""
    config = {k: v for k, v in config.items() if k not in ("name", "dropped")}
    libraries = [version(p) for p in ("numpy", "polars", "pyarrow")]
    known = [FORMAT, code, libraries, json.dumps(config, sort_keys=True, default=str), source and source.fingerprint()]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:12]


def prepare(
    config: Mapping[str, Any], load: Callable[[], "pa.Table | Source"], cache: Path, reporter: Reporter = SILENT
) -> Path:
    """Prepare a data set, or find it in the cache.

    Args:
        config: The `data` group: see `KEYS` and docs/data.md.
        load: Gives the raw table, or a `Scan` that reads it in batches.
        cache: Folder of prepared data sets; this one goes to `<name>-<digest>` in it.
        reporter: Can stop it; nothing is left then.

    Returns:
        The folder: schema.json, encoders.json, prepared.json, golden_rows.json, past.npz if there
        are past-only fields, and a folder for each split (see `Shards`). It appears whole or not at all.

    Raises:
        ConfigError, DataError: Whatever of the table or configuration cannot work.
        Cancelled: If the reporter says so.
    """
    configs = data_fields(config)
    cache = Path(cache)
    with ThreadPoolExecutor(1) as pool:  # the code's version takes Python's lock, the types of a CSV file do not
        code = pool.submit(code_version, __name__, *targets(config.get("source")), without=_NOT_HASHED)
        opened = _opened(load()) if "path" in (config.get("source") or {}) else None  # files: cheap to open
    name = f"{config['name']}-{_digest(config, opened, code.result())}"
    folder = cache / name
    if (folder / "prepared.json").exists():
        return folder
    try:
        with unfinished_folder(folder) as building:
            (building / "spool").mkdir()
            _build(config, configs, opened or _opened(load()), building, name, reporter)
            shutil.rmtree(building / "spool")
    except FileExistsError:
        if not (folder / "prepared.json").exists():  # another process may have prepared it meanwhile
            raise
    except OSError as error:
        if not disk_full(error):
            raise
        reason = error.strerror or "No space left on device"
        raise DataError(f"{cache}: {reason}: free some space, or give another folder by runs=…") from error
    return folder


def source_version(source: Any) -> str:
    """A digest of a source's files: their sizes and times of change, and how they are read."""
    return hashlib.sha256(repr(source and source.fingerprint()).encode()).hexdigest()[:12]


def check_unchanged(config: Mapping[str, Any], load: Callable[[], "pa.Table | Source"], folder: Path) -> None:
    """Check that the files that data was prepared from have not changed; missing files are no error.

    Args:
        config: The `data` group.
        load: As for `prepare`.
        folder: The prepared data.

    Raises:
        DataError: If a file has changed since.
    """
    facts = read_json(
        folder / "prepared.json", "prepared data", "remove the folder and prepare it again", shape={"source": str}
    )
    if "path" not in (config.get("source") or {}):
        return
    try:
        now = source_version(_opened(load()))
    except DataError:  # the files are gone; the prepared data is complete without them
        return
    if now != facts["source"]:
        raise DataError(f"the files of data.source.path have changed since {folder.name} was prepared: begin a new run")


def _opened(table: "pa.Table | Source") -> Any:
    return Scan.of(table) if isinstance(table, pa.Table) else table


def _build(
    config: Mapping[str, Any],
    configs: list[FieldConfig],
    source: Source,
    folder: Path,
    name: str,
    reporter: Reporter,
) -> None:
    """Both passes, into a folder that nobody sees yet."""
    spool = read_source(source, configs, config, folder / "spool", reporter)
    try:
        _check_labels(spool, config)
        code_B = split_codes(spool, config)
        if config.get("weight"):
            _check_weights(spool, code_B, config["weight"])
        _check_splits(spool, code_B, config)
        rate = _train_rate(spool, code_B)
        add_past(spool, configs, config, rate)
        schema, encoders = _fit_all(spool, code_B, configs, config, rate)
        stored = encoders_to_json(encoders)
        (folder / "schema.json").write_text(json.dumps(schema.to_json(), indent=1))
        (folder / "encoders.json").write_text(json.dumps(stored, ensure_ascii=False))
        # encode the shards with the encoders as serving will read them
        encoders = {n: encoder_from_json(v) for n, v in json.loads(json.dumps(stored["encoders"])).items()}
        splits = write_shards(spool, code_B, configs, schema, encoders, folder, reporter)
        golden = golden_rows(spool, code_B, schema)
        (folder / "golden_rows.json").write_text(json.dumps(golden, ensure_ascii=False))
        if past := snapshot(spool, configs, schema):
            past.save(folder / "past.npz")
        bad = getattr(source, "bad", None)
        facts = {
            "digest": name,
            "source": source_version(source),
            "rows": spool.rows,
            "bad_rows": getattr(bad, "total", 0),
            "splits": {split: asdict(s) for split, s in splits.items()},
        }
        facts["clipped"] = {f: n / spool.rows for f, n in spool.clipped.items()}
        (folder / "prepared.json").write_text(json.dumps(facts, indent=1))
    finally:
        spool.close()


def _check_labels(spool: Spool, config: Mapping[str, Any]) -> None:
    for name, column in zip(label_names(config), _label_columns(config), strict=True):
        if _is_binary(spool, column):
            continue
        label_B = spool.read(column)
        binary_B = zeros_and_ones(label_B, name, observed=column == "label")
        if not np.array_equal(binary_B, label_B, equal_nan=True):
            spool.replace(column, binary_B)


def _label_columns(config: Mapping[str, Any]) -> list[str]:
    """The spool's columns of the labels, the main one first."""
    return ["label", *(f"label/{name}" for name in label_names(config)[1:])]


def _check_splits(spool: Spool, code_B: np.ndarray, config: Mapping[str, Any]) -> None:
    """Check that each split has rows of 0 and of 1 for every label; rows of weight 0 do not count."""
    for name, column in zip(label_names(config), _label_columns(config), strict=True):
        seen: list[set[float]] = [set() for _ in SPLITS]
        for a in range(0, spool.rows, _STEP):
            b = min(spool.rows, a + _STEP)
            label_B, code = spool.read(column, a, b), code_B[a:b]
            counts_B = ~np.isnan(label_B)
            if config.get("weight"):
                counts_B &= spool.read("weight", a, b) > 0
            for i, values in enumerate(seen):
                values.update(np.unique(label_B[counts_B & (code == i)]).tolist())
        for split, values in zip(SPLITS, seen, strict=True):
            if values != {0, 1}:
                where = " in rows of weight above 0" if config.get("weight") else ""
                raise DataError(
                    f"label {name!r}: expected 0 and 1 in each split, {split} has {sorted(values)}{where}: "
                    "change data.split"
                )


def _check_weights(spool: Spool, code_B: np.ndarray, name: str) -> None:
    """Check that float32 can sum a batch of the weights, and that each split has a weight above 0."""
    counts = [False] * len(SPLITS)
    for a in range(0, spool.rows, _STEP):
        b = min(spool.rows, a + _STEP)
        weight_B = spool.read("weight", a, b)
        if not ((weight_B >= 0) & (weight_B <= _MOST_WEIGHT)).all():
            raise DataError(f"weight {name!r}: expected numbers from 0 to {_MOST_WEIGHT:g} in every row: mend them")
        counts = [c or bool((weight_B[code_B[a:b] == i] > 0).any()) for i, c in enumerate(counts)]
    for split, some in zip(SPLITS, counts, strict=True):
        if not some:
            raise DataError(
                f"weight {name!r}: expected a row above 0 in each split, the {split} split has none: change "
                "data.split, or mend the weights"
            )


def _is_binary(spool: Spool, column: str) -> bool:
    """Whether every row has 0 or 1, and both occur; read in parts."""
    seen: set[float] = set()
    for a in range(0, spool.rows, _STEP):
        seen |= set(np.unique(spool.read(column, a, min(spool.rows, a + _STEP))).tolist())
    return seen == {0.0, 1.0}


def _train_rate(spool: Spool, code_B: np.ndarray) -> float:
    rows, positive = 0, 0.0
    for a in range(0, spool.rows, _STEP):
        b = min(spool.rows, a + _STEP)
        label_B = spool.read("label", a, b)[code_B[a:b] == 0]
        rows, positive = rows + len(label_B), positive + float(label_B.sum(dtype=np.float64))
    return positive / rows


def _fit_all(
    spool: Spool, code_B: np.ndarray, configs: list[FieldConfig], config: Mapping[str, Any], rate: float
) -> tuple[Schema, dict[str, AnyEncoder]]:
    known = _earlier(config.get("grow_from"))
    encoders: dict[str, AnyEncoder] = {}
    with progress() as bar:
        task = bar.add_task("fit encoders ", total=len(configs))
        for shared in (False, True):  # owners first
            some = [c for c in configs if bool(c.table) == shared]
            with ThreadPoolExecutor(2) as pool:
                fitted = pool.map(lambda c: fit(spool, code_B, c, encoders, known.get(c.name, ())), some)
                for c, encoder in zip(some, fitted, strict=True):
                    encoders[c.name] = encoder
                    bar.advance(task)
    fields = tuple(field_of(c, spool, encoders[c.name], rate) for c in configs)
    label, *others = label_names(config)
    aside = config.get("group"), config.get("weight"), config.get("time")
    schema = Schema(fields, label, *aside, other_labels=tuple(others))
    return schema, {c.name: encoders[c.name] for c in configs}


def _earlier(folder: str | None) -> dict[str, Sequence[str]]:
    """The vocabularies of an earlier prepared data set, which new ones extend."""
    if not folder:
        return {}
    if not (Path(folder) / "encoders.json").is_file():
        raise ConfigError(f"data.grow_from: expected a prepared data set in {folder}, found none: check the path")
    return {n: e["values"] for n, e in read_encoders(Path(folder)).items() if e["encoder"] == "vocabulary"}

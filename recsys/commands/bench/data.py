"""`recsys bench data`: preparation, loading and encoding, each beside a reference in the same run.

Every preparation runs in a process of its own, to measure its peak memory. Those that are compared
take turns, and medians are printed.
"""

import itertools
import json
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch

import recsys
from recsys.data.preparation.prepare import prepare
from recsys.data.sets.criteo_like import Planted, write
from recsys.data.shards import Shards
from recsys.data.sources.scan import Scan, scan
from recsys.errors import DataError
from recsys.features.row_encoder import Row, RowEncoder
from recsys.files import Json
from recsys.results import read_prepared
from recsys.terminal import console
from recsys.training.memory import keep_freed_memory

__all__ = ["main", "prepare_once"]

_console = console()
_INTS, _CATS = 13, 26
_MIN_COUNT = 10
_LENGTH = 50  # of the sequence


def _config(path: str, sequence: bool = False) -> Json:
    """Criteo's layout: numbers standardised, categories by vocabulary; a sequence of `c1` if asked for."""
    fields: Json = {f"c{i}": {"min_count": _MIN_COUNT} for i in range(1, _CATS + 1)}
    if sequence:
        fields["recent"] = {"kind": "sequence", "table": "c1", "max_length": _LENGTH}
    fields |= {f"i{i}": {"kind": "numeric"} for i in range(1, _INTS + 1)}
    split = {"shares": [0.8, 0.1, 0.1]}
    return {"name": "bench", "source": {"path": path}, "label": "label", "split": split, "fields": fields}


def prepare_once(path: str, cache: str) -> dict[str, float]:
    """Prepare a file → seconds, processor seconds, and peak memory in bytes of this process."""
    keep_freed_memory()  # as `recsys run` does
    started, used = time.perf_counter(), time.process_time()
    prepare(_config(path), lambda: scan(path), Path(cache))
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


_ONCE = (
    "import json, sys; from recsys.commands.bench.data import prepare_once; "
    "print(json.dumps(prepare_once(*sys.argv[1:])))"
)


def _ours(path: Path, folder: Path) -> dict[str, float]:
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    done = subprocess.run([sys.executable, "-c", _ONCE, str(path), str(cache)], capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"preparing {path.name} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _pandas(path: Path) -> float:
    """Time the same encoding as people write it with pandas → seconds."""
    started = time.perf_counter()
    table = pd.read_csv(path)
    columns = []
    for name in table.columns:
        if name.startswith("i"):
            x = table[name].astype(np.float64)
            columns.append(((x - x.mean()) / x.std()).fillna(0).to_numpy(np.float32))
        elif name.startswith("c"):
            counts = table[name].value_counts()
            known = {v: i + 2 for i, v in enumerate(counts[counts >= _MIN_COUNT].index)}
            columns.append(table[name].map(known).fillna(1).where(table[name].notna(), 0).to_numpy(np.int32))
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", np.stack(columns, 1))
    return time.perf_counter() - started


def _outside(command: str, path: Path) -> float:
    """Time a reference command on the same file → seconds."""
    started = time.perf_counter()
    done = subprocess.run([*shlex.split(command), str(path)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"--reference: expected {command!r} to prepare {path.name}, it failed: {last}")
    return time.perf_counter() - started


def _preparation(folder: Path, rows: int, repeats: int, reference: str | None) -> dict[str, float]:
    csv, parquet = folder / "clicks.csv", folder / "clicks.parquet"
    _make(csv, rows)
    _make(parquet, rows)
    times: dict[str, list[float]] = {"csv": [], "parquet": [], "pandas": [], "reference": []}
    peaks = []
    for turn in range(repeats):
        _console.print(f"preparing {rows:,} rows, turn {turn + 1} of {repeats}")
        for name, path in (("csv", csv), ("parquet", parquet)):
            prepared = _ours(path, folder)
            times[name].append(prepared["seconds"])
            peaks.append(prepared["peak_bytes"])
        times["pandas"].append(_pandas(csv))
        if reference:
            times["reference"].append(_outside(reference, csv))
    middle = {k: statistics.median(v) for k, v in times.items() if v}
    figures = {f"{k}_rows_per_second": rows / middle[k] for k in ("csv", "parquet")}
    figures |= {f"times_faster_than_{k}": middle[k] / middle["csv"] for k in ("pandas", "reference") if k in middle}
    return {**figures, "peak_bytes": max(peaks)}


def _make(path: Path, rows: int) -> None:
    write(path, Planted(_INTS, _CATS, 100_000, 0), rows, path.suffix[1:])


def _grown(folder: Path, rows: int, small: float) -> dict[str, float]:
    """Peak memory with many more rows, as a ratio to few."""
    _console.print(f"preparing {rows:,} rows of Parquet")
    path = folder / "big.parquet"
    _make(path, rows)
    prepared = _ours(path, folder)
    return {
        "big_rows": rows,
        "big_rows_per_second": rows / prepared["seconds"],
        "big_peak_bytes": prepared["peak_bytes"],
        "big_peak_ratio": prepared["peak_bytes"] / small,
    }


def _rate(batches: Callable[[], Any], seconds: float = 3.0) -> float:
    """Rows per second of an iterator of batches, which is restarted until the time is up."""
    rows, started = 0, time.perf_counter()
    while True:
        for batch in batches():
            rows += len(batch)
            if time.perf_counter() - started > seconds:
                return rows / (time.perf_counter() - started)


def _with_sequence(table: Scan, rows: int = 200_000) -> Scan:
    """Some rows, each with a list of up to `_LENGTH` values of `c1`."""
    part = table.read(limit=rows)
    r = np.random.default_rng(0)
    length_B = r.integers(0, _LENGTH + 1, part.num_rows)
    offset = pa.array(np.concatenate([[0], np.cumsum(length_B)]).astype(np.int32))
    values = part["c1"].combine_chunks().take(pa.array(r.integers(0, part.num_rows, length_B.sum())))
    return Scan.of(part.append_column("recent", pa.ListArray.from_arrays(offset, values)))


def _loading(folder: Path, batch: int) -> dict[str, float]:
    path, threads = str(folder / "clicks.parquet"), torch.get_num_threads()
    torch.set_num_threads(1)
    figures = {}
    for name, sequence in (("", False), ("sequence_", True)):
        config = _config(path, sequence)
        source = _with_sequence(scan(path)) if sequence else scan(path)
        shards = Shards(prepare(config, lambda source=source: source, folder / f"{name}load"), "train")
        sum(len(b) for b in shards.batches(batch))  # warm
        figures[f"{name}loader_rows_per_second"] = _rate(lambda shards=shards: shards.batches(batch))
        figures[f"{name}shuffled_rows_per_second"] = _rate(lambda shards=shards: shards.shuffled(batch, 0))
    torch.set_num_threads(threads)
    return figures


def _encoding(folder: Path) -> dict[str, float]:
    """µs per row of the serving encoder, with one row and many at a time."""
    prepared = next((folder / "load").glob("bench-*"))
    encoder = RowEncoder.load(prepared)
    rows = read_prepared(prepared, "golden_rows.json", list[Row])
    figures = {}
    for size in (1, 256):
        turn = itertools.cycle(rows[start : start + size] for start in range(0, 256, size))
        seconds = timeit.repeat(lambda turn=turn: encoder(next(turn)), number=1, repeat=256)
        figures[f"encode_us_per_row_b{size}"] = 1e6 * statistics.median(seconds) / size
    return figures


def main(given: Namespace) -> int:
    """Measure, and print one JSON line last."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        folder = Path(place)
        figures = _preparation(folder, given.rows, given.repeats, given.reference)
        if given.big_rows:
            figures |= _grown(folder, given.big_rows, figures["peak_bytes"])
        figures |= _loading(folder, given.batch) | _encoding(folder)
    versions = {m.__name__: m.__version__ for m in (recsys, pa, pl, pd, np, torch)}
    shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"bench": "data", "rows": given.rows, **shown, "versions": versions}))
    return 0

"""`recsys bench select`: what a search by LeAP costs, beside a training epoch and beside permutation.

Tables are synthetic, with F fields. Searches that are compared take turns, and medians are printed; very
many fields are searched only once, as this takes minutes. Permutation makes one pass over the rows for each
field and repeat: a few fields are timed, and the time is scaled.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import recsys
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.errors import DataError
from recsys.files import Json
from recsys.selection.methods.leap import leap
from recsys.selection.search import Search, search_fields
from recsys.selection.shuffle import Shuffled
from recsys.terminal import console
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.fit import fit
from recsys.training.memory import keep_freed_memory

__all__ = ["main", "wide_once"]

_console = console()
_TIMED_FIELDS = 16  # fields that permutation is timed on
_ROWS, _REPEATS = 50_000, 3  # permutation's default of rows, at most; repeats that give its scores errors
_HOW = TrainConfig(batch_size=4096, max_epochs=1, evals_per_epoch=1)
_DEVICE = Device.choose("cpu", _HOW.precision)


@dataclass(frozen=True)
class _Case:
    """A trained model on a synthetic table."""

    search: Search
    epoch_seconds: float

    def leap(self) -> float:
        """Seconds of a search at its default settings."""
        return search_fields(leap, self.search).notes.seconds


def _spec(dim: int) -> checkpoint.Spec:
    """DCN-v2 of low rank, which suits wide inputs, over one table per field."""
    return {
        "model": {"_target_": "recsys.models.dcn.DCN", "rank": 64, "hidden": [256, 128]},
        "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": dim},
        "embedding_dropout": 0.0,
    }


def _case(folder: Path, columns: dict[str, np.ndarray], fields: Json, logit_B: np.ndarray, dim: int) -> _Case:
    r = np.random.default_rng(1)
    click = (r.random(len(logit_B)) < 1 / (1 + np.exp(1 - logit_B))).astype(np.int8)
    config = {
        "name": "bench", "source": {}, "label": "click", "fields": fields,
        "split": {"shares": [0.7, 0.2, 0.1], "seed": 0},
    }  # fmt: skip
    prepared = prepare(config, lambda: pa.table({**columns, "click": click}), folder)
    train, valid = Shards(prepared, "train"), Shards(prepared, "valid")
    spec = _spec(dim)
    model = checkpoint.build(train.schema, spec)
    started = time.perf_counter()
    fit(model, train, valid, _HOW, 0)
    seconds = time.perf_counter() - started
    return _Case(
        Search(model, train, valid, lambda schema: checkpoint.build(schema, spec), _HOW, seed=0, device=_DEVICE),
        seconds,
    )


def _categorical(folder: Path, rows: int, fields: int, dim: int) -> _Case:
    """Fields of 100 values, of which the first four matter."""
    _console.print(f"{fields} fields, {dim} wide: prepare and train on {rows:,} rows")
    r = np.random.default_rng(0)
    value_BF = r.integers(0, 100, (rows, fields))
    logit_B = r.normal(0, 0.7, (4, 100))[np.arange(4), value_BF[:, :4]].sum(1)
    columns = {f"c{i}": value_BF[:, i] for i in range(fields)}
    return _case(folder / f"{fields}x{dim}", columns, {n: {} for n in columns}, logit_B, dim)


def wide_once(folder: str, dimensions: str) -> dict[str, float]:
    """Search for each of many dimensions of 64-wide vectors → seconds, and peak memory in bytes of this process."""
    rows, width = 21_000, 64  # of which validation has two batches
    count = -(-int(dimensions) // width)
    r = np.random.default_rng(0)
    columns, fields = {}, {f"v{i}": {"kind": "vector"} for i in range(count)}
    offset = pa.array(np.arange(0, rows * width + 1, width, dtype=np.int32))
    logit_B = np.zeros(rows)
    for name in fields:
        value_BD = r.normal(size=(rows, width)).astype(np.float32)
        logit_B += 0.5 * value_BD[:, 0] if name in ("v0", "v1", "v2", "v3") else 0.0
        columns[name] = pa.ListArray.from_arrays(offset, pa.array(value_BD.ravel()))
    case = _case(Path(folder), columns, fields, logit_B, 8)
    scores = search_fields(partial(leap, split_width=width, steps=150), case.search)
    gates = sum(len(g) for g in scores.notes.dimensions.values())
    return {
        "wide_gates": gates,
        "wide_seconds": scores.notes.seconds,
        "wide_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


_ONCE = (
    "import json, sys; from recsys.commands.bench.select import wide_once; print(json.dumps(wide_once(*sys.argv[1:])))"
)


def _wide(folder: Path, dimensions: int) -> dict[str, float]:
    _console.print(f"{dimensions:,} dimensions in one search, in a process of its own")
    done = subprocess.run(
        [sys.executable, "-c", _ONCE, str(folder / "wide"), str(dimensions)], capture_output=True, text=True
    )
    if done.returncode:
        raise DataError(f"the wide search failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _turns(timed: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of each, after taking turns."""
    seconds: dict[str, list[float]] = {n: [] for n in timed}
    for turn in range(repeats):
        _console.print(f"turn {turn + 1} of {repeats}")
        for name, measure in timed.items():
            seconds[name].append(measure())
    return {n: statistics.median(s) for n, s in seconds.items()}


def _permuted(case: _Case) -> float:
    """Seconds of one repeat of permutation importance over at most `_ROWS` rows, scaled from a few fields.

    It runs in the precision of LeAP's gate steps.
    """
    names = case.search.model.schema.names
    shuffled = Shuffled(case.search.model, case.search.valid, 0, _ROWS, _DEVICE)
    shuffled.logits(names[:1])
    started = time.perf_counter()
    for name in names[:_TIMED_FIELDS]:
        shuffled.logits([name])
    seconds = (time.perf_counter() - started) / min(_TIMED_FIELDS, len(names))
    return seconds * len(names)


def _ratios(seconds: dict[str, float], cases: dict[int, str]) -> dict[str, float]:
    """How many times faster LeAP is than permutation at its default of one repeat, and at three.

    Both use the rows that exist, in the same precision. One repeat gives no standard error; LeAP's gates
    are means over hundreds of steps.
    """
    once = {f: seconds[f"permutation_{n}"] / seconds[f"leap_{n}"] for f, n in cases.items()}
    return {f"times_faster_than_permutation_r{r}_f{f}": r * ratio for r in (1, _REPEATS) for f, ratio in once.items()}


def main(given: Namespace) -> int:
    """Measure, and print one JSON line last."""
    keep_freed_memory()
    few, many, most = given.fields
    wide = 4 * many // few // 4 * 4
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        folder = Path(place)
        usual = _categorical(folder, given.epoch_rows, few, 8)
        cases = {
            "usual": usual,
            "few": _categorical(folder, given.rows, few, wide),
            "many": _categorical(folder, given.rows, many, 4),
            "most": _categorical(folder, given.rows, most, 4),
        }
        timed = {f"leap_{n}": c.leap for n, c in cases.items()}
        timed |= {f"permutation_{n}": (lambda c=cases[n]: _permuted(c)) for n in ("many", "most")}
        seconds = _turns({n: t for n, t in timed.items() if not n.endswith("most")}, given.repeats)
        seconds |= _turns({n: t for n, t in timed.items() if n.endswith("most")}, 1)
        figures: dict[str, Any] = _wide(folder, given.dimensions)
    figures |= {
        "epoch_rows": len(usual.search.train),
        "epoch_seconds": usual.epoch_seconds,
        "leap_seconds": seconds["leap_usual"],
        "leap_over_epoch": seconds["leap_usual"] / usual.epoch_seconds,
        "permutation_rows": {
            f"f{f}": min(_ROWS, len(cases[n].search.valid)) for f, n in ((many, "many"), (most, "most"))
        },
        **_ratios(seconds, {many: "many", most: "most"}),
        f"leap_f{many}_over_f{few}": seconds["leap_many"] / seconds["leap_few"],
        f"leap_f{most}_seconds": seconds["leap_most"],
    }
    versions = {m.__name__: m.__version__ for m in (recsys, np, torch)}
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
    threads = torch.get_num_threads()
    print(json.dumps({"bench": "select", "rows": given.rows, "threads": threads, **shown, "versions": versions}))
    return 0

"""`recsys plan` as a user types it, and its memory held against a real training's."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipelines import capacity
from recsys.capacity.hardware import Hardware
from recsys.capacity.prediction import predict
from recsys.features.schema import Field, Schema
from recsys.training.saving import COPY_BYTES
from tests.configs import composed, run_config
from tests.pipeline.forks import Forks
from tests.pipeline.small import recsys

SIZED = ["plan", "model=dcn", "embedding.dim=16", "--fields", "26", "--numbers", "13"]


def test_it_says_what_fits_how_fast_and_at_what_cost(place: Path) -> None:
    day = ["--table-rows", "1e11", "--samples-per-day", "1e12", "--hardware", "h200x8", "--dollars-per-hour", "30"]
    done = recsys(place, *SIZED, *day)
    assert done.returncode == 0, done.stderr
    assert "in 26 tables: 6.8 TB with the optimiser's state" in done.stdout
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    parts = {row[0].strip(): row[1].strip() for row in rows if len(row) == 4}
    assert parts["batches"] and parts["activations"], parts
    cells = [[cell.strip() for cell in row] for row in rows if len(row) == 10]
    assert [row[5] for row in cells] == ["no"] * (len(cells) - 2) + ["yes"] * 2 and len(cells) > 3
    machines, hours, dollars = float(cells[-1][0]), float(cells[-1][8]), float(cells[-1][9].replace(",", ""))
    assert dollars == pytest.approx(30 * machines * hours, rel=0.01) and 0 < hours <= 24
    most = recsys(place, *SIZED, "--table-rows", "1e6", "--processes", "1e9")
    assert most.returncode == 0 and "1000000000" in most.stdout, most.stderr
    one = recsys(place, *SIZED, "--table-rows", "1e6", "--processes", "2", "--batch", "4096")
    assert one.returncode == 0 and "4,096" in one.stdout and "26 tw, 0 rw" in one.stdout, one.stdout


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["data=planted"], "--table-rows: expected a count of ids"),
        (["--table-rows", "many"], "--table-rows: expected a count from 1 to 1e+18, such as 1e3, got 'many'"),
        (["--table-rows", "1e6", "--processes", "1.5"], "--processes: expected a count from 1 to 1e+18"),
        (
            ["--table-rows", "1e6", "--fields", "1e5"],
            "--fields: expected a count from 0 to 10000, such as 1e3, got '1e5'",
        ),
        (["--table-rows", "1e6", "--fields", "9", "--numbers", "-1"], "--numbers: expected a count from 0 to 100000"),
        (["--table-rows", "1e6", "--fields", "0", "--numbers", "0"], "--fields: expected at least one field or number"),
        (["--table-rows", "1e9", "--dollars-per-hour", "nan"], "--dollars-per-hour: expected a number from 0 to 1e+09"),
        (
            ["model=dcn", "embedding.dim=1024", "--fields", "26", "--table-rows", "1e9"],
            "numbers side by side: expected at most 20,000",
        ),
        (["--table-rows", "1e6", "--hardware", "moon"], "--hardware: no description 'moon': expected one of"),
        (
            ["--table-rows", "1e6", "--hardware", "/etc/passwd"],
            "/etc/passwd: expected keys such as processes and memory",
        ),
        (["model=moon", "--table-rows", "1e6"], "model: no option 'moon'"),
        (["--prepared", "nowhere"], "expected a schema at nowhere/schema.json"),
    ],
)
def test_a_mistake_is_one_line(place: Path, typed: list[str], why: str) -> None:
    done = recsys(place, "plan", *typed)
    assert done.returncode == 2 and why in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "root:" not in done.stderr, "a file of somebody else is not shown"


TRAIN = ["data=table", "data.name=sized", "data.source.path=sized.parquet", "data.label=y", "model=dcn", "train=fixed"]
TRAIN += ["embedding.dim=16", "train.max_epochs=1", "train.evals_per_epoch=1", "train.batch_size=4096", "name=sized"]
TRAIN += ["stages=[train]", "train.embedding_dropout=0.0", "device=cpu"]


def _fields(rows: int) -> str:
    ids = [f"c{i}: {{encoding: hash, buckets: {max(4, rows // 26 - 2)}}}" for i in range(26)]
    return "+data.fields={" + ", ".join([*ids, *(f"n{i}: {{kind: numeric}}" for i in range(13))]) + "}"


def _peak(forks: Forks, folder: Path, *arguments: str) -> int:
    """Most bytes of memory that the command held at once."""
    ended = forks.run(folder, "run", *arguments)
    assert ended.code == 0, ended.said
    return ended.peak


@pytest.mark.slow
def test_memory_is_what_a_training_takes(forks: Forks, tmp_path: Path) -> None:
    """Tables of few rows give what a process takes without them; 4M rows add what the formulas say."""
    rng, rows, most = np.random.default_rng(0), 20_000, 4_000_000
    columns: dict[str, object] = {f"c{i}": rng.integers(0, 10**6, rows) for i in range(26)}
    columns |= {f"n{i}": rng.normal(size=rows).astype(np.float32) for i in range(13)}
    columns["y"] = rng.integers(0, 2, rows)
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "sized.parquet")
    peaks, plans, tables = {}, {}, {}
    for size in (26, most):
        arguments = [*TRAIN, _fields(size)]
        _peak(forks, tmp_path, *[a for a in arguments if not a.startswith("stages")], "stages=[prepare]")
        peaks[size] = _peak(forks, tmp_path, *arguments)
        ids = [Field(f"c{i}", "categorical", (f"c{i}",), ("int",), max(4, size // 26)) for i in range(26)]
        schema = Schema((*ids, *(Field(f"n{i}", "numeric", (f"n{i}",), ("float",)) for i in range(13))), "y")
        config = run_config(**{k: composed(*TRAIN, _fields(size))[k] for k in ("model", "embedding", "train", "data")})
        work = capacity.workload(capacity.settings(config, schema, rows), schema)
        tables[size] = work.table_bytes
        plans[size] = predict(work, Hardware.load("laptop", tmp_path), 1, 4096, "fp32", COPY_BYTES).bytes
    real, planned = peaks[most] - peaks[26], plans[most] - plans[26]
    print(f"{most:,} rows: peak {peaks[most] / 1e6:.0f} MB, tables {real / 1e6:.0f}, planned {planned / 1e6:.0f}")
    assert 0.9 * (tables[most] - tables[26]) < real < 1.1 * planned + 30e6  # a small copy hides in the first peak

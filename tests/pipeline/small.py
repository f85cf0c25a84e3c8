"""One small run through the command, shared by the tests that look at what it left."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from omegaconf import OmegaConf

from pipelines.stage import Stage, write_json
from recsys.config.options import CONF
from recsys.results import RunResult, read_result
from tests.configs import run_config
from tests.pipeline.forks import server

SMALL = [
    "data=table", "data.name=small", "data.source.path=clicks.parquet", "data.label=click", "data.time=at",
    "data.group=user", "name=small", "train.batch_size=256", "train.max_epochs=2",
    "train.evals_per_epoch=2", "embedding.dim=8", "selection.steps=150", "selection.batch_size=256",
    "evaluate.slices=[user,city]",
    "train.linear=false",  # its regression overfits so few rows that selection rightly leaves most fields in doubt
    "+data.fields={user: {}, item: {min_count: 3}, city: {}, user_x_city: {encoding: hash, inputs: [user, city],"
    " buckets: 400}, tags: {kind: multi, max_length: 3}, noise: {}, price: {kind: numeric, encoding: log}}",
]  # fmt: skip


PARTS: dict[str, Any] = {
    "model": {"_target_": "recsys.models.mlp.MLP", "hidden": [16], "dropout": 0.1},
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 4},
}
_DEFAULTS = ("train/fixed", "optimizer/adamw", "table_optimizer/rowwise_adagrad", "sequence/mean", "head/click")


def small_stage(prepared: Path, run: Path, **changed: Any) -> Stage:
    """A stage `distill` of a run that has prepared data and nothing else."""
    (run / "prepare").mkdir()
    write_json(run / "prepare" / "data.json", {"folder": str(prepared)}, 1)
    options: Any = {n.split("/")[0]: OmegaConf.to_container(OmegaConf.load(CONF / f"{n}.yaml")) for n in _DEFAULTS}
    options["train"] |= {"batch_size": 128, "lr": 5e-3, "embedding_dropout": 0.1, "max_epochs": 3, "precision": "fp32"}
    config = run_config(**{**PARTS, **options, "seed": 3, "device": "cpu", **changed})
    return Stage(config, run / "distill", {"prepare": run / "prepare"})


def _environment(changed: dict[str, str]) -> dict[str, str]:
    everything = {**os.environ, "OMP_NUM_THREADS": "1", **changed}
    return {k: v for k, v in everything.items() if k != "MLFLOW_TRACKING_URI"}


def recsys(folder: Path, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder of its own: a fork of a process that has imported everything, without a compiler."""
    forks = server()
    files = {name: str(forks.said.with_name(name)) for name in ("stdin", "errors")}
    Path(files["stdin"]).write_text(stdin)
    words = [str(a) for a in arguments]
    child = forks.begin(folder, words, env=_environment({"CXX": "no-such-compiler", **env}), **files)
    late = threading.Timer(280, os.kill, (child, signal.SIGKILL))
    late.start()
    ended = forks.end()
    late.cancel()
    return subprocess.CompletedProcess(words, ended.code, ended.said, Path(files["errors"]).read_text())


def whole_recsys(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, from the start of Python on, with the compiler if there is one."""
    return subprocess.run(
        [sys.executable, "-m", "recsys", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env=_environment(env),
    )


def clicks(rows: int = 6000) -> pa.Table:
    """Clicks that depend on item, city and price."""
    r = np.random.default_rng(0)
    user, item, city = r.integers(0, 80, rows), r.integers(0, 50, rows), r.integers(0, 6, rows)
    price = r.lognormal(0, 1, rows)
    logit = r.normal(0, 1.5, 50)[item] + r.normal(0, 1, 6)[city] - 0.7 * np.log(price) - 0.3
    return pa.table(
        {
            "at": pa.array(1_500_000_000 + np.arange(rows) * 600, pa.timestamp("s")),
            "user": [f"u{u}" for u in user],
            "item": item,
            "city": [None if c == 5 else f"city {c}" for c in city],
            "tags": [["a", "b", "c", "d"][: i % 5] for i in item],
            "noise": r.integers(0, 30, rows),
            "price": price,
            "click": (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8),
        }
    )


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of clicks."""
    folder = tmp_path_factory.mktemp("place")
    pyarrow.parquet.write_table(clicks(), folder / "clicks.parquet")
    return folder


@pytest.fixture(scope="session")
def finished(place: Path) -> RunResult:
    """result.json of a whole run."""
    done = recsys(place, "run", *SMALL)
    assert done.returncode == 0, done.stderr
    return read_result(place / done.stdout.splitlines()[-1])

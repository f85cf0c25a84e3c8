"""What many tests share: a small raw table with every kind of field, prepared once a session."""

import logging
import os
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

with warnings.catch_warnings():  # FBGEMM 1.8 warns on import of kernels that its CPU wheel lacks
    warnings.simplefilter("ignore")
    import torchrec  # noqa: F401

from recsys.data.batch import Batch
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from tests.pipeline.forks import forks  # noqa: F401  # fixture
from tests.pipeline.small import finished, place  # noqa: F401  # fixtures
from tests.pipeline.splits_differ import planted_run  # noqa: F401  # fixture

torch.set_num_threads(1)  # small tensors: threads only wait for each other, minutes long on a busy machine

ROWS = 3000
CONFIG: dict[str, Any] = {
    "name": "small",
    "label": "click",
    "time": "at",
    "group": "user",
    "split": {"shares": [0.6, 0.2, 0.2], "gap_days": 1},
    "fields": {
        "price": {"kind": "numeric", "encoding": "log"},  # first here, last in the schema
        "user": {"min_count": 3},
        "item": {"min_count": 2},
        "user_x_city": {"encoding": "hash", "inputs": ["user", "city"], "buckets": 500},
        "age": {"encoding": "bucket", "buckets": 8},
        "tags": {"kind": "multi", "max_length": 3},
        "score": {"kind": "numeric", "encoding": "piecewise", "buckets": 3},
    },
}


def gaps(values: list[Any], rng: np.random.Generator, share: float = 0.1) -> list[Any]:
    """The values with a share of them missing."""
    return [None if r < share else v for v, r in zip(values, rng.random(len(values)), strict=True)]


def small_table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """Clicks that depend on item, tags and price, in order of time, with gaps everywhere."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 60, rows), rng.integers(0, 40, rows)
    tags = [rng.integers(0, 12, n).tolist() for n in rng.integers(0, 7, rows)]
    price, taste = rng.lognormal(0, 1, rows), rng.normal(0, 1.5, 40)
    logit = taste[item] + np.array([(0 in t) - (1 in t) for t in tags]) - 0.5 * np.log(price) - 0.5
    return pa.table(
        {
            "user": gaps([f"käufer {u}" for u in user], rng, 0.05),
            "item": pa.array(gaps((item * 7).tolist(), rng), pa.int64()),
            "city": gaps([f"c{c}" for c in rng.integers(0, 9, rows)], rng),
            "age": pa.array(gaps(rng.integers(16, 90, rows).tolist(), rng), pa.int64()),
            "tags": gaps([[f"t{t}" for t in ts] for ts in tags], rng),
            "price": gaps(price.tolist(), rng),
            "score": gaps(rng.normal(5, 3, rows).tolist(), rng),
            "at": pa.array(1_500_000_000 + np.arange(rows) * 3600, pa.int64()),
            "click": pa.array((rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)),
        }
    )


@pytest.fixture(scope="session")
def table() -> pa.Table:
    return small_table()


@pytest.fixture
def config() -> dict[str, Any]:
    """A copy of the data configuration that a test may change."""
    return {**CONFIG, "split": dict(CONFIG["split"]), "fields": {k: dict(v) for k, v in CONFIG["fields"].items()}}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, table: pa.Table) -> Path:
    """The folder that `prepare` made of the small table."""
    return prepare(CONFIG, lambda: table, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def schema(prepared: Path) -> Schema:
    return Schema.load(prepared / "schema.json")


@pytest.fixture(scope="session")
def train(prepared: Path) -> Shards:
    return Shards(prepared, "train")


@pytest.fixture(scope="session")
def valid(prepared: Path) -> Shards:
    return Shards(prepared, "valid")


@pytest.fixture
def batch(train: Shards) -> Batch:
    """64 rows, with empty and full lists among them."""
    return train.batch(slice(0, 64))


@pytest.fixture(autouse=True)
def own_tracking() -> Generator[None]:
    """A test that sets MLflow's store (which is an environment variable) sets it for itself alone."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # a fixture of the module may have set it
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(autouse=True)
def no_open_logs() -> Generator[None]:
    """Close the log files that a test has had Hydra open: else they are closed, with a warning, in any later test."""
    yield
    for handler in [h for h in logging.root.handlers if type(h) is logging.FileHandler]:
        logging.root.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True)
def one_seed() -> None:
    """A test that draws weights draws the same ones whatever ran before it."""
    torch.manual_seed(0)


def check_export(model: CTR, batch: Batch) -> None:
    """Export embedding and head as plain tensors with a free batch size, and compare at three sizes."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.over(model.embedding.scoring())

        def forward(self, ids_BL: torch.Tensor, dense_BN: torch.Tensor) -> torch.Tensor:
            return self.model.logits_of(self.model.pool(self.model.embedding.lookup(ids_BL, dense_BN), ids_BL))

    graph = Graph().eval()
    rows = torch.export.Dim("rows", min=1)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(graph, (batch.ids_BL, batch.dense_BN), dynamic_shapes=({0: rows}, {0: rows}))
    want = model.eval()(batch).detach()
    for size in (1, 7, len(batch)):
        got = program.module()(batch.ids_BL[:size], batch.dense_BN[:size])
        torch.testing.assert_close(got.detach(), want[:size], rtol=1e-4, atol=1e-5)


@pytest.fixture
def exported_is_eager() -> Callable[[CTR, Batch], None]:
    return check_export

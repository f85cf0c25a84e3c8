"""A planted table whose three splits differ on purpose, and one whole run on it.

Each split has another click rate, and in each another field tells the clicks. Whatever a stage reads from
the wrong split thereby shows. Clicks count 1, non-clicks 3; the rows of weight 0 follow a field of their own.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from recsys.data.shards import Shards
from recsys.results import RunResult, prepared_folder, read_result
from tests.pipeline.small import recsys

ROWS = {"train": 5000, "valid": 3500, "test": 3500}
BIAS = {"train": 0.6, "valid": -0.2, "test": -1.6}
FOLLOWS = {"everywhere": ("train", "valid", "test"), "train_valid": ("train", "valid"), "train_test": ("train", "test"),
           "train_only": ("train",)}  # fmt: skip
FIELDS = [*FOLLOWS, "weight_0", "noise"]
DATA = {
    "name": "splits_differ",
    "source": {"_target_": "recsys.data.sources.scan.scan", "path": "splits.parquet"},
    "label": "click",
    "weight": "w",
    "split": {"column": "part"},
    "fields": {n: {} for n in FIELDS},
}
RUN = [
    "data=splits_differ", "name=splits", "train.batch_size=256", "train.max_epochs=6", "train.evals_per_epoch=2",
    "embedding.dim=8", "selection=leap", "selection.steps=150", "selection.batch_size=512", "selection.price=0.02",
    "compression=fwsvd", "compression.rank=3", "quantization=int8",
]  # fmt: skip


def splits_differ() -> pa.Table:
    """Rows of all three splits, in order; a column `part` says which."""
    r = np.random.default_rng(0)
    effect = {
        n: r.permutation(np.linspace(-2, 2, 24)) * (0.5 if "valid" not in where else 1) for n, where in FOLLOWS.items()
    }
    parts = []
    for part, rows in ROWS.items():
        ids = {n: r.integers(0, 24, rows) for n in FIELDS}
        logit = BIAS[part] + sum(effect[n][ids[n]] for n, where in FOLLOWS.items() if part in where)
        click = r.random(rows) < 1 / (1 + np.exp(-logit))
        no_weight = r.random(rows) < 0.25
        click = np.where(no_weight, ids["weight_0"] < 12, click)
        weight = np.where(no_weight, 0.0, np.where(click, 1.0, 3.0))
        parts.append(pa.table({**ids, "click": click.astype(np.int8), "w": weight, "part": [part] * rows}))
    return pa.concat_tables(parts)


def write(place: Path) -> None:
    """The table and its data config, which a run in that folder finds by name."""
    pyarrow.parquet.write_table(splits_differ(), place / "splits.parquet")
    (place / "data").mkdir()
    (place / "data" / "splits_differ.yaml").write_text(json.dumps(DATA))


class Run:
    """A finished run's folders, figures and rows."""

    def __init__(self, place: Path, result: RunResult):
        self.place, self.result = place, result
        self.data = prepared_folder(self.folder("prepare"))
        self.shards = {s: Shards(self.data, s) for s in ROWS}

    def folder(self, stage: str) -> Path:
        return self.result.stages[stage].folder

    def read(self, stage: str, file: str):
        return json.loads((self.folder(stage) / file).read_text())


@pytest.fixture(scope="session")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages, by the command."""
    place = tmp_path_factory.mktemp("splits")
    write(place)
    done = recsys(place, "run", *RUN)
    assert done.returncode == 0, done.stderr
    return Run(place, read_result(place / done.stdout.splitlines()[-1]))

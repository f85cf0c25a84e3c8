"""What a user of the command reads if prepared data is damaged or a training diverges."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import train
from recsys.data.shards import Shards
from recsys.evaluation.metrics import logloss
from recsys.events import Reporters
from tests.pipeline.small import SMALL, recsys, small_stage


@pytest.fixture(scope="module")
def folder(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table of clicks, prepared."""
    folder = tmp_path_factory.mktemp("guards")
    (folder / "clicks.parquet").symlink_to(place / "clicks.parquet")
    assert recsys(folder, "run", *SMALL, "stages=[prepare]").returncode == 0
    return folder


def _trained(folder: Path, array: str, row: int, value: float) -> tuple[str, Path]:
    """Train while the last column of one row is another value → standard error, the run's folder."""
    (file,) = folder.glob(f"runs/cache/*/train/{array}.npy")
    whole = file.read_bytes()
    cells = np.load(file, mmap_mode="r+")
    cells[row, -1] = value
    cells.flush()
    run = folder / "runs" / f"{array}{row}"
    done = recsys(folder, "run", *SMALL, "stages=[prepare,train]", f"hydra.run.dir=runs/{run.name}")
    file.write_bytes(whole)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1], run


def test_a_run_that_diverges_names_the_cell_and_saves_the_batch(folder: Path) -> None:
    error, run = _trained(folder, "dense", 321, np.inf)
    assert error.startswith("error: training diverged at step ") and "field 'price' holds inf" in error
    assert "row 321 of the training rows" in error and error.endswith(f"/runs/{run.name}/train/diverged.npz")
    batch = np.load(run / "train" / "diverged.npz")
    named = dict(zip(batch["dense_columns"], batch["dense"][batch["row"]], strict=True))
    assert named == {"price": np.inf}
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "failed" and f"error: {state['error']}" == error


def test_a_run_on_ids_out_of_range_names_them(folder: Path) -> None:
    error, _ = _trained(folder, "ids", 1234, 10**6)
    assert error.startswith("error: train: ids out of range: field ") and "first in row 1,234)" in error
    assert "1,000,000" in error and "prepare again" in error


def test_a_training_that_learns_nothing_says_so(folder: Path) -> None:
    rates = ["train=fixed", "train.lr=100", "train.table_lr=100", "train.max_epochs=1", "train.linear=false"]
    done = recsys(folder, "run", *SMALL, "stages=[prepare,train]", *rates)
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stderr.split()).count("always saying the label rate") == 1, done.stderr


class Notes(Reporters):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = list[str]()

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_a_training_is_held_against_the_label_rate_that_it_knows(prepared: Path, tmp_path: Path) -> None:
    """Validation's own rate, once it has moved, would beat models that are worth more than a constant."""
    data, told = tmp_path / "data", Notes()
    shutil.copytree(prepared, data)
    label_B = Shards(data, "valid").label_B
    weight_B = np.where(label_B == 1, 1, 0.5).astype(np.float32)
    np.save(data / "valid" / "weight.npy", weight_B)
    stage = replace(small_stage(data, tmp_path), folder=tmp_path / "train", reporter=told)
    stage.folder.mkdir()
    best = train.run(stage).metrics["valid_logloss"]
    rates = np.average(label_B, weights=weight_B), Shards(data, "train").label_B.mean()
    own, known = (logloss(np.full(len(label_B), rate), label_B, weight_B) for rate in rates)
    assert own < best < known and not told.texts

"""What a user of the command reads if prepared data is damaged or a training diverges."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.small import SMALL, recsys


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
    assert done.returncode == 0 and "always saying the label rate" in " ".join(done.stderr.split()), done.stderr

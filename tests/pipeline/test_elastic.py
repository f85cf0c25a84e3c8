"""A rank that dies is started again from the last checkpoint, and the run ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from recsys.training import checkpoint

pytestmark = pytest.mark.slow  # three runs of two processes each

TRAIN = ["run", "data=planted", "data.source.rows=20000", "stages=[train]", "train=fixed", "train.max_epochs=2"]
TRAIN += ["train.batch_size=512", "train.evals_per_epoch=4", "train.patience=20", "train.precision=fp32", "device=cpu"]
TRAIN += ["launcher=torchrun", "launcher.processes=2"]


def _begin(place: Path, name: str) -> psutil.Popen:
    out = (place / f"{name}.out").open("w")
    with out:
        return psutil.Popen(
            [sys.executable, "-m", "recsys", *TRAIN, f"hydra.run.dir=runs/{name}"],
            cwd=place,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _rank(run: psutil.Popen, rank: int) -> psutil.Process:
    """The process of a rank."""
    ranks = [p for p in run.children(recursive=True) if "recsys.commands.rank" in p.cmdline()]
    return next(p for p in ranks if p.environ().get("RANK") == str(rank))


def _weights(run: Path) -> dict[str, torch.Tensor]:
    model, _ = checkpoint.load(run / "train")
    state = {k: v for k, v in checkpoint.optimizer_state(model).items()}
    return {**model.state_dict(), **{f"state of {k}": v for k, v in state.items()}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run of two ranks has ended by itself."""
    place = tmp_path_factory.mktemp("elastic")
    run = _begin(place, "whole")
    assert run.wait(500) == 0, (place / "whole.out").read_text()
    return place


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_changes_nothing(undisturbed: Path, rank: int) -> None:
    name = f"killed-{rank}"
    run, folder = _begin(undisturbed, name), undisturbed / "runs" / name
    until = time.monotonic() + 300
    while not (folder / "train" / "checkpoints").is_dir() or len(_steps(folder)) < 2:
        assert run.poll() is None and time.monotonic() < until, (undisturbed / f"{name}.out").read_text()
        time.sleep(0.01)
    _rank(run, rank).send_signal(signal.SIGKILL)
    assert run.wait(500) == 0, (undisturbed / f"{name}.out").read_text()
    said = (folder / "rank-0.log").read_text()
    assert said.count("─ train ─") == 2, "rank 0 began stage train twice"
    told = json.loads((folder / "run.json").read_text())
    assert told["state"] == "finished" and told["error"] is None
    one, two = _weights(undisturbed / "runs" / "whole"), _weights(folder)
    assert one.keys() == two.keys() and len(one) > 10
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-6, msg=key)


def _steps(folder: Path) -> list[Path]:
    return [p for p in (folder / "train" / "checkpoints").glob("*") if not p.name.startswith(".")]

"""Real trainings in the queue, on SQLite and Postgres; here, under torchrun and on Ray."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines.frozen import freeze
from recsys.commands.cli import main
from recsys.results import read_run
from recsys.service.queue.open import open_queue
from recsys.service.queue.records import Needs, NewRun
from recsys.service.queue.sql import SqlQueue
from recsys.service.worker.processes import living, mark
from recsys.service.worker.worker import verdict_of
from tests.pipeline.small import SMALL, recsys
from tests.pipeline.test_launchers import ray_cluster  # noqa: F401  # fixture
from tests.service.queue.conftest import Server, server  # noqa: F401  # fixture
from tests.service.worker.fakes import ended, wait, worker

pytestmark = pytest.mark.slow  # whole trainings

COMMAND = [sys.executable, "-P", "-m", "recsys.commands.frozen"]
LONG = [*SMALL, "stages=[train]", "train.max_epochs=40", "train.patience=100000", "train.checkpoint_steps=10"]


def submitted(queue: SqlQueue, *overrides: str) -> str:
    """Queue a run → its id."""
    (f,) = freeze(overrides)
    needs = Needs(f.cores, 0, 0)
    queue.submit([NewRun(f.id, f.overrides, f.config, f.digest, f.runs, f.cwd, f.name, needs=needs)])
    return f.id


def weights(place: Path, id: str) -> dict[str, np.ndarray]:
    """All numbers of the trained model."""
    files = sorted((place / "runs" / id / "train" / "model").rglob("*.safetensors"))
    return {f"{f.name}:{k}": x for f in files for k, x in load_file(f).items()}


@pytest.fixture
def queue(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlQueue]:
    monkeypatch.chdir(place)
    queue = open_queue(f"sqlite:///{place / 'service.db'}", 5.0)
    yield queue
    queue.close()


def _trains(place: Path, id: str, attempt: int) -> bool:
    """Whether this attempt at the run trains."""
    folder = place / "runs" / id
    if not (folder / "run.json").exists() or json.loads((folder / "owner.json").read_text())["attempt"] != attempt:
        return False
    run = read_run(folder)
    return run.state == "running" and run.stage == "train" and bool(run.progress and run.progress.done)


def _left(place: Path, id: str) -> list[int]:
    """Processes of any attempt at the run, in any session."""
    token = json.loads((place / "runs" / id / "owner.json").read_text())["token"]
    return living(0, 1 << 60, mark(token))


def _said(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command of recsys in this process → exit code, and what it printed."""
    capfd.readouterr()
    code = main(arguments)
    return code, capfd.readouterr().out


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database: `sqlite` or `postgres`."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    postgres: Server = request.getfixturevalue("server")
    postgres.clear()
    return postgres.url


@pytest.fixture
def launcher(request: pytest.FixtureRequest) -> list[str]:
    """Overrides that choose a launcher: `here`, `torchrun` or `ray`."""
    if request.param != "ray":
        return ["launcher=torchrun", "launcher.processes=2"] if request.param == "torchrun" else []
    if find_spec("ray") is None:  # an import here, without RAY_AUTH_MODE, would decide for the tests that come after
        pytest.skip("ray (extra ray) is not installed")
    return ["launcher=ray", f"launcher.address='{request.getfixturevalue('ray_cluster')}'"]


@pytest.mark.parametrize(
    ("database", "launcher"),
    [("sqlite", "here"), ("sqlite", "torchrun"), ("sqlite", "ray"), ("postgres", "here"), ("postgres", "ray")],
    indirect=True,
)
def test_a_training_is_submitted_cancelled_resumed_killed_and_finished(
    database: str, launcher: list[str], place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same commands and the same answers, whatever keeps the queue and whatever starts the processes."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("RECSYS_DATABASE", database)
    with worker(database, place, 2, lease=5.0, command=COMMAND, grace=90.0):
        code, printed = _said(capfd, "submit", *LONG, *launcher)
        id = printed.strip()
        assert code == 0
        checkpoints = place / "runs" / id / "train" / "checkpoints"
        wait(lambda: _trains(place, id, 1) and list(checkpoints.glob("step-*")), 280)
        assert len(_left(place, id)) >= (4 if launcher else 2)
        assert _said(capfd, "cancel", id) == (0, f"{id} stopping\n")
        code, log = _said(capfd, "logs", id, "-f")
        assert code != 0 and "train" in log
        assert json.loads(_said(capfd, "runs", id, "--json")[1])["state"] == "cancelled"
        assert read_run(place / "runs" / id).state == "cancelled" and not _left(place, id)
        assert list(checkpoints.glob("step-*"))
        assert _said(capfd, "resume", id) == (0, f"{id} queued\n")
        wait(lambda: _trains(place, id, 2), 280)
        for pid in _left(place, id):  # all of them at once, the small process above them too
            os.kill(pid, signal.SIGKILL)
        code, log = _said(capfd, "logs", id, "-f")
        assert code == 0, log
    row = json.loads(_said(capfd, "runs", id, "--json")[1])
    assert (row["state"], row["attempt"], row["exit"]) == ("finished", 3, 0)
    assert weights(place, id) and not _left(place, id)


def test_a_training_whose_worker_is_killed_ends_with_the_same_weights(queue: SqlQueue, place: Path) -> None:
    short = [*SMALL, "stages=[train]", "train.max_epochs=4", "train.checkpoint_steps=5", "seed=11"]
    done = recsys(place, "run", *short)
    assert done.returncode == 0, done.stderr
    other = Path(done.stdout.splitlines()[-1]).parent.name
    id = submitted(queue, *short)
    told: dict[str, Any] = {"command": COMMAND, "grace": 0.3, "lease": 2.0}  # too short for SIGTERM: it is killed
    with worker(f"sqlite:///{place / 'service.db'}", place, **told) as first:
        wait(lambda: list((place / "runs" / id / "train").glob("checkpoints/step-*")), 240)
        os.kill(first.pid, signal.SIGKILL)
        wait(lambda: not _left(place, id), 30)
    assert verdict_of(queue.get(id), "here") == "dead" and queue.get(id).state == "running"
    with worker(f"sqlite:///{place / 'service.db'}", place, **told):
        row = ended(queue, id, 240)
    assert (row.state, row.attempt, row.exit) == ("finished", 2, 0)
    assert "train" in row.live.metrics and row.new.digest == read_run(place / "runs" / id).digest
    ours, theirs = weights(place, id), weights(place, other)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
    exported = recsys(place, "export", id)
    assert exported.returncode == 0, exported.stderr

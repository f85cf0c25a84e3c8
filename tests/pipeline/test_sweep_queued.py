"""`recsys sweep --queue` as a user runs it: real trainings on a real worker, killed and gone on with, cancelled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recsys.service.queue.open import address, open_queue
from recsys.service.queue.records import QueuedRun
from recsys.service.queue.sql import SqlQueue
from tests.pipeline.small import SMALL

pytestmark = pytest.mark.slow  # ten trainings, each in a process of its own

SPACE = """trials: 4
objective: logloss
beta: 0.0
sampler: random
sampler_seed: 0
finalists: 1
seeds: [1]
space:
  train.lr: {log: [1.0e-3, 2.0e-2]}
"""
_FAST = [a for a in SMALL if not a.startswith(("selection.", "train.max_epochs"))]
BASE = [*_FAST, "search=few", "model=fm", "train.max_epochs=1", "train.lr=1e-6", "train.table_lr=1e-3"]


def begin(place: Path, *arguments: str, output: int = subprocess.PIPE) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RECSYS_URL", "RECSYS_DATABASE")}
    return subprocess.Popen(
        [sys.executable, "-m", "recsys", *arguments],
        cwd=place, text=True, stdout=output, stderr=output, env={**env, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def done(place: Path, *arguments: str) -> tuple[int, str, str]:
    process = begin(place, *arguments)
    printed, said = process.communicate(timeout=600)
    return process.returncode, printed, said


def wait(right: Callable[[], Any], *alive: subprocess.Popen[str]) -> Any:
    until = time.monotonic() + 250
    while not (value := right()):
        if time.monotonic() > until or any(p.poll() is not None for p in alive):
            for process in alive:
                process.kill()
            pytest.fail("it has not become true")
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def queue(place: Path) -> Generator[SqlQueue]:
    """The queue of a folder that a worker with two slots works for."""
    (place / "search").mkdir(exist_ok=True)
    (place / "search" / "few.yaml").write_text(SPACE)
    queue = open_queue(address(place / "runs"))
    worker = begin(place, "worker", "--cores", "2", "--memory", "64G", output=subprocess.DEVNULL)
    try:
        wait(lambda: queue.load().workers, worker)
        yield queue
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(120)
        queue.close()


def rows(queue: SqlQueue, sweep: str) -> dict[str, QueuedRun]:
    return {Path(r.id).name: r for r in reversed(queue.find(parent=sweep, limit=100))}


def most_at_once(runs: Sequence[QueuedRun]) -> int:
    times = [(r.started_at or 0.0, r.ended_at or 0.0) for r in runs]
    return max(sum(begun <= moment < ended for begun, ended in times) for moment, _ in times)


def test_killed_and_resumed_it_runs_each_trial_once_two_at_a_time(queue: SqlQueue, place: Path) -> None:
    first = begin(place, "sweep", *BASE, "--queue", "hydra.run.dir=runs/queued", output=subprocess.DEVNULL)
    wait(lambda: len([r for r in rows(queue, "queued").values() if r.state == "running"]) == 2, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    code, printed, said = done(place, "sweep", "resume=queued")
    assert code == 0, said
    assert printed.splitlines()[-1] == "runs/queued/sweep.json"
    told = json.loads((place / "runs" / "queued" / "sweep.json").read_text())
    best = told["trials"][told["best"]]["number"]
    seen = rows(queue, "queued")
    assert set(seen) == {"default", "0", "1", "2", "3", "default-seed1", f"{best}-seed1"}
    assert {(r.state, r.attempt) for r in seen.values()} == {("finished", 1)} and most_at_once([*seen.values()]) == 2
    for trial in told["trials"]:
        row = seen[str(trial["number"])]
        assert 0 < trial["figures"]["seconds"] < (row.ended_at or 0) - (row.started_at or 0)
        assert len(trial["looks"]) == 2, "the looks of its process reached the study"
    assert told["beside"] and told["change"]["auc"]["low"] > 0
    _, listed, _ = done(place, "runs", "queued")
    assert "queued/3" in listed and "finished" in listed


def test_it_tries_what_one_process_tries(queue: SqlQueue, place: Path) -> None:
    code, _, said = done(place, "sweep", *BASE, "search.seeds=[]", "hydra.run.dir=runs/alone")
    assert code == 0, said
    both = [json.loads((place / "runs" / name / "sweep.json").read_text()) for name in ("alone", "queued")]
    figures = [[(t["changes"], t["figures"]["logloss"], t["looks"]) for t in told["trials"]] for told in both]
    assert figures[0] == figures[1]


def test_cancelled_it_stops_with_its_trials(queue: SqlQueue, place: Path) -> None:
    long = [a for a in BASE if not a.startswith("train.max_epochs")]
    process = begin(place, "sweep", *long, "train.max_epochs=2000", "train.patience=2000", "--queue",
                    "hydra.run.dir=runs/stopped")  # fmt: skip
    wait(lambda: [r for r in rows(queue, "stopped").values() if r.live.stage == "train"], process)
    assert done(place, "cancel", "stopped")[0] == 0
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2 and "the sweep was asked to stop: recsys sweep resume=stopped goes on" in said
    wait(lambda: {r.state for r in rows(queue, "stopped").values()} == {"cancelled"})
    _, listed, _ = done(place, "runs", "stopped")
    assert "cancelled" in listed.splitlines()[2]

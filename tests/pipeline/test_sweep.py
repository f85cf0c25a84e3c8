"""`recsys sweep` as a user runs it: killed and gone on with, its page, its winner as an experiment, MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from recsys.results import read_result
from tests.pages import runs as would_run
from tests.pipeline.small import SMALL, recsys

pytestmark = pytest.mark.slow  # two sweeps

SPACE = """trials: 4
objective: logloss
beta: 0.0
sampler: tpe
sampler_seed: 0
finalists: 2
seeds: [1, 2]
space:
  model: {dcn: {'model.hidden': [[16], [32]]}, mlp: {'model.hidden': [[16]]}}
  train.lr: {log: [1.0e-3, 2.0e-2]}
"""
# fm that learns next to nothing: any trial is better
BASE = [a for a in SMALL if not a.startswith(("selection.", "train.max_epochs"))]
BASE += ["search=few", "model=fm", "train.max_epochs=1", "train.lr=1e-6", "train.table_lr=1e-3"]


def trials(folder: Path) -> list[tuple[dict[str, object], float]]:
    """What each trial tried, and its validation logloss."""
    return [(t["changes"], t["figures"]["logloss"]) for t in json.loads((folder / "sweep.json").read_text())["trials"]]


@pytest.fixture(scope="module")
def swept(place: Path) -> Path:
    (place / "search").mkdir(exist_ok=True)
    (place / "search" / "few.yaml").write_text(SPACE)
    done = recsys(place, "sweep", *BASE, "hydra.run.dir=runs/swept")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "runs/swept/sweep.json"
    assert "trial 3: logloss" in done.stderr and "it changes test logloss by -" in done.stderr
    return place / "runs" / "swept"


def test_the_winner_is_better_than_the_default_on_test(swept: Path) -> None:
    told = json.loads((swept / "sweep.json").read_text())
    best = told["trials"][told["best"]]
    means = {name: sum(losses) / 2 for name, losses in told["finals"].items()}
    first, second = sorted(range(4), key=lambda i: trials(swept)[i][1])[:2]
    assert set(means) == {"default", str(first), str(second)} and min(means, key=lambda n: means[n]) == str(
        told["best"]
    )
    assert best["figures"]["logloss"] < told["default"]["logloss"] and best["figures"]["seconds"] > 0
    assert told["change"]["auc"]["low"] > 0 > told["change"]["logloss"]["high"]
    for metric, change in told["change"].items():
        ours, theirs = (told["by_seed"][metric][n] for n in ("best", "default"))
        assert change["mean"] == pytest.approx(sum(a - b for a, b in zip(ours, theirs, strict=True)) / 2)
    html = (swept / "sweep.html").read_text()
    assert "On test" in html and "Trials in their order" in html and would_run(html) == []
    assert not list(swept.glob("*/evaluate")), "no trial looks at test"


def test_the_winner_is_an_experiment(swept: Path, place: Path) -> None:
    told = json.loads((swept / "sweep.json").read_text())
    (place / "experiment").mkdir(exist_ok=True)
    (place / "experiment" / "winner.yaml").write_text((swept / "best.yaml").read_text())
    done = recsys(place, "run", "experiment=winner", "stages=[train]")
    assert done.returncode == 0, done.stderr
    trained = read_result(place / done.stdout.splitlines()[-1]).stages["train"].metrics
    assert trained and trained["valid_logloss"] == told["trials"][told["best"]]["figures"]["logloss"]


def test_a_trial_is_a_run_and_a_child_of_the_sweep_in_mlflow(swept: Path, place: Path) -> None:
    done = recsys(place, "run", "from_run=swept/1", "stages=[evaluate]")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "recsys"]
    parent = next(r for r in client.search_runs([experiment]) if r.info.run_name == "swept")
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(children) == 5 + 3 * 2 and {c.info.status for c in children} == {"FINISHED"}
    assert parent.data.metrics["test_logloss_change"] < 0 and parent.info.status == "FINISHED"
    assert "sweep.html" in {f.path for f in client.list_artifacts(parent.info.run_id)}


def test_killed_and_resumed_it_tries_the_same(swept: Path, place: Path) -> None:
    folder = place / "runs" / "swept_killed"
    command = [sys.executable, "-m", "recsys", "sweep", *BASE, "hydra.run.dir=runs/swept_killed"]
    process = subprocess.Popen(
        command,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not (folder / "2" / "train" / "node.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = (folder / "1" / "result.json").stat().st_mtime_ns
    other = recsys(place, "sweep", "resume=swept_killed", "search.sampler_seed=1")
    assert other.returncode == 2 and "sweep swept_killed was begun with another search: leave that" in other.stderr
    done = recsys(place, "sweep", "resume=swept_killed")
    assert done.returncode == 0, done.stderr
    assert (folder / "1" / "result.json").stat().st_mtime_ns == finished
    assert trials(folder) == trials(swept)
    more = recsys(place, "sweep", "resume=swept_killed", "search.trials=5", "search.seeds=[1]")
    assert more.returncode == 0, more.stderr
    assert trials(folder)[:4] == trials(swept) and len(trials(folder)) == 5
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"

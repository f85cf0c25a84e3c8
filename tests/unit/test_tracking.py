"""What MLflow is told stays distinct under names that it takes."""

import subprocess
import sys

import mlflow
import pytest

from recsys.tracking import Tracker


@pytest.mark.slow  # MLflow makes a database
def test_columns_may_be_called_anything(tmp_path):
    tracker = Tracker(None, "names", tmp_path)
    names = ["test.unseen.genre/s", "test.unseen.genre_s", "Größe (€)", "a//b", "x" * 300, "plain.name"]
    config = {"data": {"fields": {name: {"kind": "numeric"} for name in names}}}
    with tracker.parent("run", config, tmp_path, "0" * 32), tracker.stage("prepare"):
        tracker.log({name: float(i) for i, name in enumerate(names)}, [], [])
    kept = mlflow.MlflowClient().get_run(tracker.ids["prepare"]).data.metrics
    assert sorted(kept.values()) == list(range(len(names)))
    assert kept["plain.name"] == 5
    assert kept["test.unseen.genre_s"] == 0 and kept["test.unseen.genre_s_2"] == 1
    params = mlflow.MlflowClient().get_run(tracker.ids["parent"]).data.params
    assert len(params) == len(names)


@pytest.mark.slow  # three interpreters that load MLflow
def test_runs_that_begin_together_share_a_new_store(tmp_path):
    """Made at once, MLflow's tables come out broken ("duplicate column name")."""
    code = (
        "import sys; from pathlib import Path; from recsys.tracking import Tracker; Tracker(None, sys.argv[1], Path())"
    )
    begun = [subprocess.Popen([sys.executable, "-c", code, f"experiment {i}"], cwd=tmp_path) for i in range(3)]
    assert [p.wait(timeout=200) for p in begun] == [0, 0, 0]

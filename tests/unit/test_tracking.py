"""What MLflow is told stays distinct under names that it takes; and no trouble with it costs a run."""

import logging
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import urllib3
from packaging.requirements import Requirement

from pipelines.mlflow_thread import MLflowThread
from pipelines.one_run import quiet
from recsys.errors import ConfigError
from recsys.results import StageResult
from recsys.store import follow, masked, reach
from recsys.tracking import Tracker

MARK = "0" * 32
HISTORY = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
TOLD = StageResult(1.0, {"auc": 0.7}, {"note": "well"}, {"lr": "0.1"}, HISTORY, [])


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A folder of runs whose MLflow store is made: that takes seconds, so tests copy it."""
    folder = tmp_path_factory.mktemp("store")
    Tracker(
        f"sqlite:///{folder / 'mlflow.db'}", "names", folder
    )  # an earlier test may have left another in the environment
    return folder / "mlflow.db"


@pytest.fixture
def runs(store, tmp_path) -> Path:
    (tmp_path / "mlflow.db").write_bytes(store.read_bytes())
    return tmp_path


def test_columns_may_be_called_anything(runs):
    tracker = Tracker(None, "names", runs)
    names = ["test.unseen.genre/s", "test.unseen.genre_s", "Größe (€)", "a//b", "x" * 300, "plain.name"]
    config = {"data": {"fields": {name: {"kind": "numeric"} for name in names}}}
    with tracker.parent("run", config, runs, MARK), tracker.stage("prepare"):
        assert tracker.log("prepare", replace(TOLD, metrics={n: float(i) for i, n in enumerate(names)}), runs)
    kept = tracker.client.get_run(tracker.ids["prepare"]).data.metrics
    assert kept.pop("seconds") == 1 and kept.pop("loss") == 1
    assert sorted(kept.values()) == list(range(len(names)))
    assert kept["plain.name"] == 5
    assert kept["test.unseen.genre_s"] == 0 and kept["test.unseen.genre_s_2"] == 1
    params = tracker.client.get_run(tracker.ids["parent"]).data.params
    assert len(params) == len(names)


def children(tracker: Tracker) -> dict[str, str]:
    found = tracker.client.search_runs([tracker._experiment])
    return {r.info.run_name: r.info.status for r in found} | {"count": len(found)}


def test_a_run_is_hung_under_another_and_a_lost_server_stops_nobody(runs):
    trial, sweep = Tracker(None, "names", runs), Tracker(None, "names", runs)
    with trial.parent("trial", {}, runs, "1" * 32):
        pass
    with sweep.parent("sweep", {}, runs, MARK):
        sweep.adopt("1" * 32)
        sweep.adopt("2" * 32)  # which MLflow was never told of
        assert sweep.client.get_run(trial.ids["parent"]).data.tags["mlflow.parentRunId"] == sweep.ids["parent"]
        sweep.client = None
        sweep.adopt("1" * 32)
    assert sweep.lost


def test_a_resumed_run_opens_its_runs_again(runs):
    tracker = Tracker(None, "names", runs)
    with pytest.raises(SystemExit), tracker.parent("run", {"a": 1}, runs, MARK), tracker.stage("train"):
        sys.exit(143)
    assert children(tracker) == {"run": "KILLED", "train": "KILLED", "count": 2}
    again = Tracker(None, "names", runs)
    with again.parent("run", {"a": 2}, runs, MARK), again.stage("train"):
        assert children(again)["run"] == "RUNNING"
        assert again.log("train", TOLD, runs)
    assert again.ids == tracker.ids
    assert children(again) == {"run": "FINISHED", "train": "FINISHED", "count": 2}
    with pytest.raises(ValueError), again.parent("other", {}, runs, "1" * 32):
        raise ValueError
    assert children(again) == {"run": "FINISHED", "train": "FINISHED", "other": "FAILED", "count": 3}


def test_a_run_that_was_killed_before_its_settings_were_logged_gets_them(runs):
    first = Tracker(None, "names", runs)
    made = first.client.create_run(first._experiment, tags={"recsys.run": MARK}).info.run_id
    first.client.log_param(made, "a", "1")
    again = Tracker(None, "names", runs)
    with again.parent("run", {"a": 2, "b": 3}, runs, MARK):
        assert again.ids["parent"] == made and not again.lost
    assert again.client.get_run(made).data.params == {"a": "1", "b": "3"}, "MLflow lets nobody change a parameter"


def test_a_failure_is_one_warning_and_the_run_goes_on(runs, capsys, monkeypatch):
    tracker = Tracker(None, "names", runs)
    went = []
    with tracker.parent("run", {}, runs, MARK), tracker.stage("train"):
        monkeypatch.setattr(tracker.client, "log_batch", lambda *a, **k: 1 / 0)
        assert not tracker.log("train", TOLD, runs)
        assert tracker.register("train", runs, "name") is None
        went.append("on")
    with tracker.stage("select"):
        went.append("and on")
    assert went == ["on", "and on"]
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "division by zero" in said[0] and "resume=ID" in said[0]


def test_a_registered_model_asks_no_index_for_this_package(runs, tmp_path):
    """On the public index the name belongs to somebody else, whose code `mlflow models serve` would fetch and run."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/card.json").write_text("{}")
    tracker = Tracker(None, "names", runs)
    with tracker.parent("run", {}, runs, MARK), tracker.stage("export"):
        assert tracker.register("export", tmp_path / "bundle", "shop") == "models:/shop/1"
    (model,) = runs.rglob("MLmodel")
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml", "MLmodel"):
        assert not re.search(r"recsys *[=<>~]|[- ]recsys\s*$", (model.parent / name).read_text(), re.M), name
    asked = [Requirement(line) for line in (model.parent / "requirements.txt").read_text().splitlines()]
    assert {"mlflow", "numpy", "onnxruntime", "pandas", "xxhash"} == {r.name for r in asked}
    assert all(str(r.specifier) == f"=={version(r.name)}" for r in asked)
    assert (model.parent / "code/recsys/serving/bundle.py").is_file()


def test_a_server_that_is_down_is_one_line_within_ten_seconds(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ConfigError, match=rf"cannot reach http://127\.0\.0\.1:{port}: .*: start the server") as error:
        Tracker(f"http://user:secret@127.0.0.1:{port}", "names", tmp_path)
    assert time.monotonic() - started < 10
    assert "secret" not in str(error.value)
    reach("sqlite:///nowhere.db")
    assert masked("http://user:secret@host:1/x") == "http://host:1/x"
    assert masked("mysql+pymysql://me:secret@host/db?passwd=secret&ssl=1") == "mysql+pymysql://host/db"
    assert masked("sqlite:////a@b?/mlflow.db") == "sqlite:////a@b?/mlflow.db"


@pytest.mark.parametrize("how", ["tables", "torn"])
def test_a_broken_store_is_one_line_with_the_mend(runs, how):
    """Tables made in part, as a kill of an earlier version left them; and a file that is cut."""
    if how == "torn":
        (runs / "mlflow.db").write_bytes((runs / "mlflow.db").read_bytes()[:5000])
    else:
        (runs / "mlflow.db").unlink()
        with sqlite3.connect(runs / "mlflow.db") as made:
            made.execute("CREATE TABLE experiments (x INT)")
        made.close()
    with pytest.raises(ConfigError, match=r"it is broken: move .*mlflow\.db away") as error:
        Tracker(None, "names", runs)
    assert len(str(error.value).splitlines()) == 1


def test_artifacts_follow_a_moved_folder(runs):
    old, new = "file:///gone/runs/mlartifacts", (runs / "mlartifacts").as_uri()
    with sqlite3.connect(runs / "mlflow.db") as made:
        made.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'names'", [old])
    made.close()
    before = {r[0] for r in made_rows(runs)}
    assert old in before
    follow(runs / "mlflow.db")
    assert {r[0] for r in made_rows(runs)} == before - {old} | {new}


def made_rows(runs: Path) -> list[tuple[str]]:
    with sqlite3.connect(runs / "mlflow.db") as store:
        rows = store.execute("SELECT artifact_location FROM experiments").fetchall()
    store.close()
    return rows


@pytest.mark.slow  # interpreters that load MLflow
def test_a_kill_while_the_store_is_made_breaks_nothing(tmp_path):
    """At moments over the first seconds, with each signal."""
    code = "from pathlib import Path; from recsys.tracking import Tracker; print(1, flush=True); "
    code += "Tracker(None, 'e', Path())"
    for number, end in enumerate((signal.SIGKILL, signal.SIGINT, signal.SIGTERM) * 2):
        begun = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        begun.stdout.readline()
        time.sleep(0.2 + 0.5 * number)
        begun.send_signal(end)
        begun.wait(60)
        begun.stdout.close()
        if (tmp_path / "mlflow.db").exists():
            Tracker(None, "e", tmp_path)  # it is whole
            (tmp_path / "mlflow.db").unlink()
    Tracker(None, "e", tmp_path)
    assert not list(tmp_path.glob(".mlflow.db*"))


@pytest.mark.slow  # three interpreters that load MLflow
def test_runs_that_begin_together_share_a_new_store(tmp_path):
    """Made at once, MLflow's tables come out broken ("duplicate column name")."""
    code = (
        "import sys; from pathlib import Path; from recsys.tracking import Tracker; Tracker(None, sys.argv[1], Path())"
    )
    begun = [subprocess.Popen([sys.executable, "-c", code, f"experiment {i}"], cwd=tmp_path) for i in range(3)]
    assert [p.wait(timeout=200) for p in begun] == [0, 0, 0]


def test_a_server_that_is_gone_is_not_told_by_retry_lines(monkeypatch, caplog):
    logger = logging.getLogger("urllib3")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    quiet()
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        urllib3.PoolManager(retries=urllib3.Retry(1)).request("GET", address)
    assert not caplog.records


def test_mlflow_is_opened_after_the_first_progress_and_told_in_order(runs):
    """Its import takes seconds, which the first step of a training must not wait for."""
    told, opened = [], threading.Event()
    with (
        MLflowThread(None, "names", runs) as mlflow,
        mlflow.during(lambda t: t.parent("run", {"a": 1}, runs, MARK)),
        mlflow.during(lambda t: t.stage("train")),
    ):
        mlflow.later(lambda t: told.append(1) or opened.set())
        time.sleep(0.1)
        assert told == [] and mlflow.tracking.run_id is None
        mlflow.progress(1, 10)
        assert opened.wait(60)
        mlflow.metrics({"loss": 2.0}, 1)
        mlflow.later(lambda t: told.append(2))
    assert told == [1, 2]
    tracker = Tracker(None, "names", runs)
    run = tracker.client.get_run(mlflow.tracking.run_id)
    (stage,) = tracker.client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert (run.info.status, stage.info.status, stage.data.metrics["loss"]) == ("FINISHED", "FINISHED", 2.0)


def test_a_stage_that_fails_is_noted_as_such_before_the_process_ends(runs):
    with (
        pytest.raises(ZeroDivisionError),
        MLflowThread(None, "names", runs) as mlflow,
        mlflow.during(lambda t: t.parent("run", {}, runs, MARK)),
        mlflow.during(lambda t: t.stage("train")),
    ):
        print(1 / 0)
    client = Tracker(None, "names", runs).client
    found = client.search_runs([client.get_experiment_by_name("names").experiment_id])
    assert [r.info.status for r in found] == ["FAILED", "FAILED"]


def test_a_file_that_is_no_database_is_told_before_the_first_step(runs):
    store = runs / "mlflow.db"
    for content in (b"SQLite format 3\0 and no more", store.read_bytes()[:5000]):
        store.write_bytes(content)
        with pytest.raises(ConfigError, match=r"cannot use sqlite:.*it is broken: move .*mlflow\.db away"):
            MLflowThread(None, "names", runs)


def test_what_mlflow_cannot_do_once_a_run_trains_is_one_warning(runs, capsys):
    """A store that is locked for long, or a disk that is full: an error would end the training at its next look."""
    done = []
    for wrong in ("task", "store"):
        if wrong == "store":
            with closing(sqlite3.connect(runs / "mlflow.db")) as store, store:
                store.execute("DROP TABLE experiments")
        with MLflowThread(None, "names", runs) as mlflow, mlflow.during(lambda t: t.parent("run", {}, runs, MARK)):
            mlflow.progress(1, 10)
            mlflow.later(lambda t: (runs / "absent" / "result.json").write_text(""))
            mlflow.later(lambda t: done.append("never"))
            mlflow.metrics({"loss": 1.0}, 1)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert len(said) == 1 and "MLflow cannot be told" in said[0] and "resume=ID" in said[0], said
        assert ("no such table" if wrong == "store" else "No such file") in said[0]
    assert not done


def test_a_stopped_run_does_not_wait_for_a_server_that_hangs(runs, capsys, monkeypatch):
    """MLflow itself waits for minutes; a worker kills the process before, or a person does."""
    answers = threading.Event()
    monkeypatch.setattr("pipelines.mlflow_thread._PATIENCE", 0.05)
    monkeypatch.setattr("pipelines.mlflow_thread._SOON", 0.05)
    monkeypatch.setattr(Tracker, "__init__", lambda *_: answers.wait() and None)
    mlflow = MLflowThread(None, "names", runs)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), mlflow:
        mlflow.progress(1, 10)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 10
    assert "no answer within" in capsys.readouterr().err
    threading.Timer(0.2, answers.set).start()
    with MLflowThread(None, "names", runs):
        pass  # all is well: this waits, and says for what
    assert answers.is_set() and "all stages are done; waiting for MLflow at sqlite:" in capsys.readouterr().err

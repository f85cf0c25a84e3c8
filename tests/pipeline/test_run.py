"""`recsys run` and what it leaves, through the door that a user takes."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from pipelines.composed import folders_made
from recsys.commands.cli import main
from recsys.data.shards import Shards
from recsys.events import CURVES
from recsys.export.graphs import compiler
from recsys.results import prepared_folder, read_result, read_run
from recsys.training import checkpoint
from tests.pipeline.forks import server
from tests.pipeline.small import SMALL, recsys, whole_recsys

STAGES = ["prepare", "train", "select", "retrain", "compress", "evaluate", "export"]


def test_a_run_leaves_every_stage_and_says_where(finished):
    assert list(finished.stages) == STAGES
    for stage in finished.stages.values():
        assert stage.folder.is_dir()
        assert stage.seconds > 0
        assert len(stage.mlflow_run_id) == 32
    evaluated = json.loads((finished.stages["evaluate"].folder / "metrics.json").read_text())
    curve = json.loads((finished.stages["evaluate"].folder / "calibrator.json").read_text())
    assert list(evaluated) == ["constant", "train", "retrain", "compress", *(["recalibrated"] if curve else [])]
    card = json.loads((finished.stages["export"].bundle / "card.json").read_text())
    assert card["calibration"] == ("isotonic, on validation" if curve else "none helped on validation")
    assert evaluated["constant"]["auc"] == 0.5
    assert evaluated["retrain"]["auc"] > 0.65
    assert evaluated["compress"]["table_bytes"] < evaluated["retrain"]["table_bytes"]
    for model in ("train", "retrain", "compress"):
        assert evaluated[model]["logloss"] < evaluated["constant"]["logloss"]


def test_selection_kept_what_matters_and_retraining_used_only_that(finished):
    kept = json.loads((finished.stages["select"].folder / "selection.json").read_text())["keep"]
    assert {"item", "price"} <= set(kept)
    model = json.loads((finished.stages["retrain"].folder / "model.json").read_text())
    assert [f["name"] for f in model["schema"]["fields"]] == kept
    report = (finished.stages["select"].folder / "report.html").read_text()
    assert f"Drop {7 - len(kept)} of 7 fields" in report
    assert "http://" not in report.split("<script")[0]


def test_mlflow_holds_a_parent_and_a_child_a_stage(finished):
    mlflow.set_tracking_uri(finished.mlflow.uri)
    client = mlflow.MlflowClient()
    parent = client.get_run(finished.mlflow.run_id)
    assert parent.data.params["train.batch_size"] == "256"
    for name, stage in finished.stages.items():
        child = client.get_run(stage.mlflow_run_id)
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == "FINISHED", name
    train = finished.stages["train"]
    curve = client.get_metric_history(train.mlflow_run_id, "valid_logloss")
    history = json.loads((train.folder / "history.json").read_text())
    assert {m.step for m in curve} - {0} == {int(h["step"]) for h in history}
    paths = {f.path for f in client.list_artifacts(finished.stages["select"].mlflow_run_id)}
    assert {"report.json", "report.html"} <= paths


def test_slices_are_in_the_page_in_a_file_and_in_mlflow(finished):
    evaluated = finished.stages["evaluate"]
    slices = json.loads((evaluated.folder / "slices.json").read_text())["slices"]
    assert [s["name"] for s in slices if s["field"] == "user"] == ["10-99"]  # 80 users over 4,800 rows
    cities = {s["name"]: s["rows"] for s in slices if s["field"] == "city"}
    assert set(cities) == {"(missing)", *(f"city {i}" for i in range(5))} and sum(cities.values()) == 600
    client = mlflow.MlflowClient(finished.mlflow.uri)
    metrics = client.get_run(evaluated.mlflow_run_id).data.metrics
    models = json.loads((evaluated.folder / "metrics.json").read_text())
    assert metrics["slices.user.10-99.compress.auc"] == models["compress"]["auc"]
    assert metrics["slices.city.city 3.rows"] == cities["city 3"]
    assert "slices.json" in {f.path for f in client.list_artifacts(evaluated.mlflow_run_id)}


def test_the_registered_model_scores_as_the_bundle_does(finished, place):
    mlflow.set_tracking_uri(finished.mlflow.uri)
    export = finished.stages["export"]
    model = mlflow.pyfunc.load_model(export.model_uri)
    raw = pq.read_table(place / "clicks.parquet").slice(5800, 20).to_pandas()
    raw["tags"] = [list(t) for t in raw["tags"]]
    lines = raw.drop(columns=["at", "click"]).to_json(orient="records", lines=True)
    answer = recsys(place, "predict", export.bundle, stdin=lines)
    assert answer.returncode == 0, answer.stderr
    scored = [json.loads(x)["probability"] for x in answer.stdout.splitlines()]
    np.testing.assert_allclose(model.predict(raw), scored, atol=1e-6)


def test_the_registered_model_needs_no_installed_package_of_ours(finished, place, tmp_path):
    """It carries the code: nothing of this name is fetched, and nothing installed under it is used."""
    code = f"""
import sys
import time
from contextlib import closing
from pathlib import Path
sys.path = [p for p in sys.path if not (Path(p) / "recsys").is_dir()]
import mlflow
mlflow.set_tracking_uri({finished.mlflow.uri!r})
model = mlflow.pyfunc.load_model({finished.stages["export"].model_uri!r})
print(sys.modules["recsys"].__file__)
"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "/code/recsys/" in ran.stdout


def test_the_compression_report_is_true_of_the_two_models_on_disk(finished, place):
    """Recomputed from both models and the training ids: error against the trained table, after all steps."""
    folders = {n: place / finished.stages[n].folder for n in ("prepare", "retrain", "compress")}
    trained, _ = checkpoint.load(folders["retrain"])
    small, _ = checkpoint.load(folders["compress"])
    ids_BL = Shards(prepared_folder(folders["prepare"]), "train", trained.schema).batch(slice(None)).ids_BL
    reports = {r["part"]: r for r in json.loads((folders["compress"] / "compression.json").read_text())}
    before, after = trained.embedding.scoring().tables, small.embedding.tables
    assert list(reports) == list(before) == list(after)
    for name, columns in trained.schema.id_columns.items():  # the scheme is per_field: a field is a table
        w, approximate, report = before[name].codes, after[name].dense(), reports[name]
        read = ids_BL[:, columns.start : columns.stop].flatten()
        read = read[read >= 0]
        lost, whole = (w - approximate).square(), w.square()
        assert report["error"] == pytest.approx(float((lost.sum() / whole.sum()).sqrt()), rel=1e-4)
        weighted = (lost[read].sum() / whole[read].sum()).sqrt()
        assert report["weighted_error"] == pytest.approx(float(weighted), rel=1e-4)
        assert report["weighted_error"] > 0.005  # each table is rounded
        assert report["bytes_before"] == 4 * w.numel() > report["bytes_after"]
    held = sum(r["bytes_after"] for r in reports.values())
    assert held == finished.stages["compress"].metrics["table_bytes"]


def test_from_run_goes_on_from_an_earlier_run(finished, place):
    done = recsys(place, "run", *SMALL, f"from_run={finished.id}", "stages=[compress,evaluate]", "compression=svd")
    assert done.returncode == 0, done.stderr
    result = read_result(place / done.stdout.splitlines()[-1])
    assert result.stages["retrain"].folder == finished.stages["retrain"].folder
    assert result.stages["compress"].folder != finished.stages["compress"].folder


def test_runs_that_begin_in_one_second_have_folders_of_their_own(tmp_path):
    configs = [OmegaConf.create({"dir": f"${{unused:{tmp_path}/run}}"}) for _ in range(4)]
    assert Path(configs.pop().dir).name == "run" and not list(tmp_path.iterdir())  # looked at, not begun
    with folders_made():
        assert [Path(c.dir).name for c in configs] == ["run", "run-2", "run-3"]
        assert Path(configs[0].dir).name == "run"  # a run asks more than once


def test_verify_names_a_changed_file(finished, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(finished.stages["export"].bundle, bundle)
    assert recsys(tmp_path, "verify", str(bundle)).returncode == 0
    for name in ("encoders.json", "manifest.json"):
        whole = (bundle / name).read_bytes()
        (bundle / name).write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        broken = recsys(tmp_path, "verify", str(bundle))
        assert broken.returncode == 2
        assert name in broken.stderr
        assert len(broken.stderr.strip().splitlines()) == 1
        (bundle / name).write_bytes(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_while_torch_reads_a_tensor_cancels_the_run(finished, place, number):
    """torch asks a storage for its first number, and makes a ValueError of whatever that raises."""
    run = ["run", *SMALL, f"from_run={finished.id}", "stages=[evaluate]", f"hydra.run.dir=runs/{number.name}"]
    ended = server().run(place, *run, at=("call", "torch.UntypedStorage.__getitem__", 2), how=number)
    assert ended.code == 128 + number and "Traceback" not in ended.said, ended.said
    left = read_run(place / "runs" / number.name)
    assert (left.state, left.error, left.note) == ("cancelled", None, f"stopped by {number.name}")


def curve(place: Path, metric: str, run: str) -> list[int]:
    """Steps of a metric of stage train of a run, in MLflow's store."""
    with closing(sqlite3.connect(place / "runs" / "mlflow.db")) as store:
        rows = store.execute(
            "SELECT m.step FROM metrics m JOIN tags p ON p.run_uuid = m.run_uuid JOIN tags f ON f.run_uuid = p.value "
            "WHERE p.key = 'mlflow.parentRunId' AND f.key = 'folder' AND f.value LIKE ? AND m.key = ?",
            [f"%runs/{run}", metric],
        )
        return sorted(step for (step,) in rows)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler: no graph.pt2")
def test_the_command_as_a_user_calls_it_exports_both_graphs(place):
    """From the start of Python on; the other tests run forks of a process that has imported everything."""
    done = whole_recsys(place, "run", *SMALL, "hydra.run.dir=runs/both")
    assert done.returncode == 0, done.stderr
    bundle = read_result(place / done.stdout.splitlines()[-1]).stages["export"].bundle
    assert {"graph.onnx", "graph.pt2"} <= {p.name for p in bundle.iterdir()}
    assert whole_recsys(place, "verify", str(bundle)).returncode == 0


@pytest.mark.slow
def test_a_search_is_watched_in_run_json_and_a_file_cancels_it(place):
    quick = [s for s in SMALL if s != "selection.steps=150"]
    quick += ["stages=[train,select]", "selection=leap_joint", "selection.epochs=1000", "train.max_epochs=1"]
    folder = place / "runs" / "watched"
    command = [sys.executable, "-m", "recsys", "run", *quick, "hydra.run.dir=runs/watched"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    unit = ""
    while process.poll() is None:
        if (folder / "run.json").exists() and (progress := read_run(folder).progress):
            unit = progress.unit
        if unit == "steps with gates":
            (folder / "cancel").touch()
        time.sleep(0.05)
    assert unit == "steps with gates" and process.returncode != 0 and read_run(folder).state == "cancelled"


@pytest.mark.slow
def test_a_killed_run_takes_up_where_it_was(place):
    """Kill after a look at validation: run.json knows it; in the end MLflow has each look once, weights are equal."""
    quick = [*SMALL, "stages=[train]", "train.max_epochs=10", "train.patience=100", "train.evals_per_epoch=2"]
    whole = recsys(place, "run", *quick, "hydra.run.dir=runs/whole")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "recsys", "run", *quick, "hydra.run.dir=runs/killed"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = place / "runs" / "killed"
    resume, seen = folder / "train" / "checkpoints", []
    while process.poll() is None and not (seen and seen[-1].metrics):
        if (folder / "run.json").exists():
            seen.append(read_run(folder))
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert resume.exists(), "the run ended before it could be killed: make it longer"
    assert {r.state for r in seen} == {"running"} and not (folder / "result.json").exists()
    assert {"train"} <= {r.stage for r in seen} <= {None, "prepare", "train"}
    assert seen[-1].progress.unit == "rows" and 0 < seen[-1].progress.done < seen[-1].progress.total
    left = read_run(folder)
    assert left.state == "killed" and left.config["train"]["max_epochs"] == 10 and left.error is None
    again = recsys(place, "run", "resume=killed")
    assert again.returncode == 0, again.stderr
    histories = [json.loads((place / "runs" / r / "train" / "history.json").read_text()) for r in ("whole", "killed")]
    assert histories[0] == histories[1]
    assert not resume.exists()
    assert read_run(folder).state == "finished" and read_run(folder).mark == left.mark
    assert read_run(folder).metrics["train"] == read_result(folder / "result.json").stages["train"].metrics
    steps = [int(h["step"]) for h in histories[0]]
    assert curve(place, "valid_logloss", "killed") == [0, *steps], "each look once; step 0 is the stage's result"
    result = read_result(place / again.stdout.splitlines()[-1])
    mlflow.set_tracking_uri(result.mlflow.uri)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(result.mlflow.experiment)
    runs = client.search_runs([experiment.experiment_id], "tags.folder LIKE '%runs/killed'")
    assert [(r.info.run_id, r.info.status) for r in runs] == [(result.mlflow.run_id, "FINISHED")]
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{runs[0].info.run_id}'")
    assert sorted((c.info.run_name, c.info.status) for c in children) == [
        ("prepare", "FINISHED"), ("train", "FINISHED"),
    ]  # fmt: skip


@pytest.mark.slow
def test_mlflow_has_the_looks_while_a_training_runs(place):
    """Its thread is told each look, and does not wait for the end: this training would take minutes."""
    first = recsys(place, "run", *SMALL, "stages=[prepare]", "hydra.run.dir=runs/before")
    assert first.returncode == 0, first.stderr  # there is a store now
    long = [*SMALL, "stages=[train]", "train.max_epochs=100000", "train.patience=100000", "hydra.run.dir=runs/long"]
    command = [sys.executable, "-m", "recsys", "run", *long]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    looks, until = list[int](), time.monotonic() + 120
    while process.poll() is None and len(looks) < 2 and time.monotonic() < until:
        time.sleep(0.1)
        looks = curve(place, "valid_logloss", "long")
    left = read_run(place / "runs" / "long")
    process.kill()
    process.wait()
    told = (place / "runs" / "long" / CURVES).read_text().splitlines()
    assert (left.state, left.stage) == ("running", "train") and len(looks) >= 2
    assert set(looks) <= {json.loads(line)["step"] for line in told if line}, "the looks that the run itself notes"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.source.path=absent.parquet"], "expected a table at absent.parquet"),
        (["data.label=absent"], "expected a column 'absent'"),
        (["data.label=item"], "reads 'item', which is data.label"),
        (["data.label=item", "~data.fields.item"], "expected only 0 and 1"),
        (["data.time=user"], "column 'user'"),
        (["data.split.shares=[1.0,0.0,0.0]"], "three positive shares"),
        (["+data.fields.absent={}"], "expected a column 'absent'"),
        (["+data.fields.user.colour=red"], "colour"),
        (["embedding.dim=6"], "multiple of 4"),
        (["train.lr=fast"], "train.lr"),
        (["+model.depth=3"], "model: unknown depth"),
        (["model.layers=many"], "model.layers"),
        (["model.absent=3"], "absent"),
        (["model=absent"], "absent"),
        (["stages=[fly]"], "unknown ['fly']"),
        (["stages=[compress]"], "needs train"),
        (["from_run=absent"], "no finished run 'absent'"),
        (["data.label=???"], "data.label"),
        (["model._target_=os.system"], "expected what a packaged option names"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_bad_input_is_one_clear_error_and_exit_code_2(place, overrides, message, monkeypatch, capfd):
    monkeypatch.chdir(place)
    assert main(["run", *SMALL, "stages=[train]", *overrides]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not list((place / "runs" / "cache").glob(".*"))


def test_a_rank_past_break_even_is_refused(finished, place):
    changes = ["stages=[compress]", "compression=svd", "compression.rank=8"]
    done = recsys(place, "run", *SMALL, f"from_run={finished.id}", *changes)
    assert done.returncode == 2
    assert "past break-even" in done.stderr


def test_compare_of_a_report_with_itself_is_full_agreement(finished, place, tmp_path):
    page = tmp_path / "compare.html"
    done = recsys(place, "compare", finished.id, finished.id, "--out", str(page))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1.000") >= 3
    assert "RBO 1.00" in page.read_text()
    absent = recsys(place, "compare", finished.id, "absent")
    assert absent.returncode == 2
    assert "no selection report" in absent.stderr

"""A run that was cut off goes on, with the same settings, on the same table, in one process at a time."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from pipelines.places import check_new_or_ours
from recsys.commands.cli import main
from recsys.files import write_json
from recsys.lock import locked
from recsys.results import prepared_folder, read_result
from recsys.tracking import Tracker
from tests.pipeline.small import SMALL, clicks, recsys

QUICK = [*SMALL, "stages=[prepare]"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder with a table, and a run of it whose stage prepare is done."""
    folder = tmp_path_factory.mktemp("resume")
    pyarrow.parquet.write_table(clicks(1500), folder / "clicks.parquet")
    done = recsys(folder, "run", *QUICK, "hydra.run.dir=runs/one")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(begun, monkeypatch) -> Path:
    monkeypatch.chdir(begun)
    return begun


def refused(capfd, *arguments: str) -> str:
    capfd.readouterr()
    assert main(["run", *arguments]) == 2
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    return said


def test_a_finished_stage_is_not_run_again(here, capfd):
    assert main(["run", "resume=one"]) == 0
    assert "prepare is done already" in capfd.readouterr().err


def test_other_settings_are_refused_by_name(here, capfd):
    said = refused(capfd, "resume=one", "data.split.shares=[0.7,0.1,0.2]")
    assert "run one: its stage prepare was begun with data.split.shares=[0.8, 0.1, 0.1], not [0.7, 0.1, 0.2]" in said


def test_a_setting_that_no_stage_has_used_may_be_mended(here, capfd):
    """A typo in a late stage's setting must not cost the finished stages."""
    assert main(["run", "resume=one", "seed=5", "quantization=int8"]) == 0
    assert "prepare is done already" in capfd.readouterr().err
    assert main(["run", "resume=one"]) == 0  # what was mended stays
    assert main(["run", "resume=one", "seed=0", "quantization=fewest_bits"]) == 0


@pytest.fixture(scope="module")
def measured(begun) -> None:
    """A run that trained and evaluated, without compression."""
    stages = ["stages=[prepare,train,evaluate]", "train.max_epochs=1", "hydra.run.dir=runs/measured"]
    assert recsys(begun, "run", *QUICK, *stages).returncode == 0


def test_no_stage_slips_in_before_a_finished_one(measured, here, capfd):
    """A calibrator fitted on the trained model does not end in the bundle of the compressed one."""
    begun = (here / "runs" / "measured" / "run.json").read_text()
    said = refused(capfd, "resume=measured", "stages=[prepare,train,compress,evaluate,export]")
    assert "stage evaluate is done, and came after prepare, train, not prepare, train, compress: resume it" in said
    assert "once it is finished, from_run=measured stages=[compress,evaluate,export]" in said
    assert (here / "runs" / "measured" / "run.json").read_text() == begun
    assert {p.name for p in (here / "runs" / "measured").glob("[!.]*/")} == {"prepare", "train", "evaluate"}


@pytest.mark.slow
def test_a_stage_may_be_added_behind_the_finished_ones(measured, here, capfd):
    """A killed one does not count as finished; what came from one run is not taken for another's."""
    assert main(["run", *QUICK, "stages=[prepare,train]", "train.max_epochs=1", "hydra.run.dir=runs/longer"]) == 0
    left = here / "runs" / "longer" / "evaluate"
    left.mkdir()
    (left / "metrics.json").write_text("{")
    said = refused(capfd, "resume=longer", "stages=[prepare,train,compress,evaluate]")
    assert "longer/evaluate: expected no such place" in said and (left / "metrics.json").read_text() == "{"
    shutil.copy(here / "runs" / "measured" / "evaluate" / "node.json", left)
    capfd.readouterr()
    assert main(["run", "resume=longer", "stages=[prepare,train,compress,evaluate]"]) == 0
    said = capfd.readouterr().err
    assert "train is done already" in said and "compress is done" not in said and "evaluate is done" not in said
    assert set(json.loads((here / "runs" / "longer" / "evaluate" / "metrics.json").read_text())) >= {"compress"}
    said = refused(capfd, "resume=longer", "stages=[prepare,train,evaluate]")
    assert "evaluate is done, and came after prepare, train, compress, not prepare, train: resume it with" in said
    assert main(["run", "from_run=longer", "stages=[evaluate]", "hydra.run.dir=runs/onward"]) == 0
    said = refused(capfd, "resume=onward", "from_run=measured")
    assert "evaluate is done, and came after longer/prepare, longer/train, longer/compress, not measured/prep" in said


def test_what_only_a_person_may_type_is_not_taken_from_a_run_folder(here, capfd):
    """run.json may be anybody's: neither trust nor a key of Hydra comes from it."""
    begun = here / "runs" / "one" / "run.json"
    before = begun.read_text()
    told = json.loads(before)
    told["overrides"] += [
        "trusted=[subprocess]",
        "hydra.job.name=../../out",
        "hydra/job_logging=none",
        " hydra.mode=RUN",
        "tracking.uri=http://127.0.0.1:9",
        "++tracking={uri: 'http://127.0.0.1:9'}",
    ]
    told["overrides"] += ["+data@hydra.job=rebuy", "--config-dir=/", "--experimental-rerun=job.pickle"]
    begun.write_text(json.dumps(told))
    try:
        assert main(["run", "resume=one"]) == 0
        assert "give it again to track there" in capfd.readouterr().err
        noted = (here / "runs" / "one" / ".hydra" / "overrides.yaml").read_text()
        assert not any(word in noted for word in ("trusted", "job", "mode", "config", "127"))
    finally:
        begun.write_text(before)


@pytest.mark.parametrize(
    "override",
    ["name=${oc.env:HOME}", r"name=$\{oc.env:HOME\}", "name=${ unused:x}", "++model={hidden: '${oc.env:HOME}'}"],
)
def test_a_run_folder_reads_nothing_from_this_machine(here, capfd, override):
    """An environment variable's value would end in run.json and at a server that the folder names."""
    folder = here / "runs" / "sent"
    folder.mkdir(exist_ok=True)
    told = json.loads((here / "runs" / "one" / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(told | {"overrides": [*told["overrides"], override]}))
    assert f"expected no ${{…:…}}, got {override!r}" in refused(capfd, "resume=sent")
    assert main(["run", "resume=sent", "name=typed", "model={}", "--cfg", "job"]) == 0


def test_what_a_person_typed_is_noted_as_it_was_typed(here):
    assert main(["run", *QUICK, "seed=1", "tracking.experiment=a-${name}", "hydra.run.dir=runs/typed"]) == 0
    assert (
        "tracking.experiment=a-${name}" in json.loads((here / "runs" / "typed" / "run.json").read_text())["overrides"]
    )
    assert main(["run", "resume=typed"]) == 0


@pytest.mark.parametrize("written", ["${unused:x}", "${ unused:x}", "${unused :x}", "${${tracking.experiment}:x}"])
def test_only_the_place_of_a_run_makes_a_folder(here, capfd, written, tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sent.yaml").write_text(
        f"# @package _global_\nname: '{written}'\ntracking: {{experiment: unused}}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert "makes a folder: only hydra.run.dir and hydra.sweep.dir may" in refused(capfd, "experiment=sent")
    assert [p.name for p in tmp_path.iterdir()] == ["experiment"]


@pytest.mark.parametrize("noted", ["", "- seed=1\n"])
def test_a_run_that_was_killed_before_it_began_is_not_taken_for_another(here, capfd, noted):
    """Hydra notes the overrides first; cut off, they would name a run of the default configuration."""
    notes = here / "runs" / "early" / ".hydra"
    notes.mkdir(parents=True, exist_ok=True)
    (notes / "overrides.yaml").write_text(noted)
    assert "resume: run early was stopped before it had begun: give the whole command again" in refused(
        capfd, "resume=early"
    )


def test_a_folder_of_somebodys_files_is_no_run(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project" / "train").mkdir(parents=True)
    (tmp_path / "project" / "train" / "data.csv").touch()
    said = refused(capfd, "runs=.", "hydra.run.dir=./project")
    assert "hydra.run.dir: expected a new folder or that of a run, got project with train: name another" in said
    assert {p.name for p in tmp_path.rglob("*")} == {"project", "train", "data.csv"}
    early = tmp_path / "early"  # what a kill leaves before run.json is there
    (early / ".hydra").mkdir(parents=True)
    for name in (".lock", "submit.log", "cancel"):
        (early / name).touch()
    check_new_or_ours(early, "hydra.run.dir")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prepare/node.json", r"node\.json: expected what a stage depends on, got no plain file: remove"),
        ("run.json", r"run\.json: expected the settings of a run, got no plain file: begin"),
        (".lock", r"/\.lock: Too many levels of symbolic links: mend it, then recsys run resume=hostile"),
        ("prepare/data.json", r"data\.json is damaged: expected a path, got 'a\\x00b'"),
        ("prepare", r"prepare: expected no such place, .*, got something else"),
        ("stage", r"node\.json is damaged: expected a stage, got 'bogus': remove"),
    ],
)
def test_a_hostile_run_is_one_line(here, capfd, name, said):
    folder = here / "runs" / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(here / "runs" / "one", folder)
    file = folder / ("prepare/node.json" if name == "stage" else name)
    before = file.read_text() if file.is_file() else ""
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    if name == "stage":
        file.write_text(before.replace('"stage": "prepare"', '"stage": "bogus"'))
    elif name == "prepare/data.json":
        write_json(file, {"folder": "a\0b"}, 1)
    elif name.endswith(("node.json", "run.json")):
        file.mkdir()
    else:
        file.symlink_to(folder / "elsewhere")
    assert re.search(said, refused(capfd, "resume=hostile"))


def test_an_edited_table_is_refused(here, capfd):
    table = here / "clicks.parquet"
    before = table.stat()
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    try:
        assert "the files of data.source.path have changed since small-" in refused(capfd, "resume=one")
    finally:
        os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert main(["run", "resume=one"]) == 0


def test_a_table_that_is_gone_does_no_harm_once_it_is_prepared(here, capfd):
    (here / "clicks.parquet").rename(here / "elsewhere.parquet")
    try:
        assert main(["run", "resume=one"]) == 0
        assert "data.source.path: expected a table at clicks.parquet, found none" in refused(capfd, *QUICK)
    finally:
        (here / "elsewhere.parquet").rename(here / "clicks.parquet")


def test_an_edited_table_is_not_prepared_anew_under_an_old_model(here, capfd):
    assert main(["run", *QUICK, "runs=others", "hydra.run.dir=others/one"]) == 0
    shutil.rmtree(prepared_folder(here / "others" / "one" / "prepare"))
    table = here / "clicks.parquet"
    before = table.stat()
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    try:
        assert main(["run", "resume=one", "runs=others"]) == 2
    finally:
        os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("error: small-") and "is gone, and preparing it anew gives other data" in said


def test_two_at_once_are_refused(here, capfd):
    with locked(here / "runs" / "one" / ".lock"):
        assert "run one is being run by another process: wait for it, or stop it" in refused(capfd, "resume=one")
    assert main(["run", "resume=one"]) == 0


def test_a_torn_result_is_one_line(here, capfd):
    result = here / "runs" / "one" / "prepare" / "result.json"
    whole = result.read_text()
    for torn in ("", whole[:40]):
        result.write_text(torn)
        assert "result.json is damaged: expected the result of a stage" in refused(capfd, "resume=one")
    result.write_text(whole)


@pytest.mark.parametrize("failing", ["_log", "__init__"])
def test_a_tracking_failure_costs_nothing_and_resume_tells_it(here, capfd, monkeypatch, failing):
    with monkeypatch.context() as broken:
        broken.setattr(Tracker, failing, lambda *a: 1 / 0)
        assert main(["run", *QUICK, f"hydra.run.dir=runs/untold{failing}"]) == 0
    said = capfd.readouterr().err
    assert said.count("MLflow cannot be told") == 1 and "Traceback" not in said
    path = here / "runs" / f"untold{failing}" / "result.json"
    assert read_result(path).stages["prepare"].mlflow_run_id is None
    assert main(["run", f"resume=untold{failing}"]) == 0
    result = read_result(path)
    run = Tracker(None, "recsys", here / "runs").client.get_run(result.stages["prepare"].mlflow_run_id)
    assert run.data.metrics["rows"] == 1500 and run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == result.mlflow.run_id


@pytest.mark.slow
def test_an_export_killed_before_its_result_goes_on(finished, place, tmp_path):
    """What a kill leaves between the bundle's appearance and result.json of the stage."""
    made = recsys(place, "export", finished.id, "hydra.run.dir=runs/cut")
    assert made.returncode == 0, made.stderr
    first = read_result(place / made.stdout.splitlines()[-1])
    (place / "runs" / "cut" / "export" / "result.json").unlink()
    (place / "runs" / "cut" / "result.json").unlink()
    again = recsys(place, "run", "resume=cut")
    assert again.returncode == 0, again.stderr
    second = read_result(place / again.stdout.splitlines()[-1])
    assert second.stages["export"].mlflow_run_id == first.stages["export"].mlflow_run_id
    assert recsys(place, "verify", second.stages["export"].bundle).returncode == 0


@pytest.mark.slow  # a run, killed at many moments
def test_runs_killed_anywhere_resume_to_the_same_weights(place):
    """SIGKILL, SIGTERM and SIGINT at moments spread over all stages; the last resume is left alone."""
    stages = "stages=[prepare,train,select,retrain,compress,evaluate]"
    whole = recsys(place, "run", *SMALL, stages, "hydra.run.dir=runs/untouched")
    assert whole.returncode == 0, whole.stderr
    r = np.random.default_rng(0)
    arguments = [*SMALL, stages, "hydra.run.dir=runs/shot"]
    for number in range(12):
        command = [sys.executable, "-m", "recsys", "run", *arguments]
        process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(r.uniform(3, 12)))
        process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3])
        process.wait(60)
        if (place / "runs" / "shot" / ".hydra" / "overrides.yaml").exists():
            arguments = ["resume=shot"]
    last = recsys(place, "run", *arguments)
    assert last.returncode == 0, last.stderr
    for stage in ("train", "retrain"):
        histories = [
            json.loads((place / "runs" / n / stage / "history.json").read_text()) for n in ("untouched", "shot")
        ]
        assert histories[0] == histories[1], stage
    for name in ("select/selection.json", "compress/compression.json", "evaluate/calibrator.json"):
        assert (place / "runs" / "untouched" / name).read_text() == (place / "runs" / "shot" / name).read_text(), name
    assert not [p for p in (place / "runs").rglob("*.unfinished")]

"""What a run takes over from an earlier one, and what it must not; a moved folder of runs."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

import pipelines.submit  # noqa: F401 (registers the resolver that the configuration uses)
from pipelines.continued import _over
from recsys.commands.cli import main
from recsys.results import RunResult, read_result
from tests.pipeline.small import SMALL, recsys


def ran(place: Path, run: str, *arguments: str, **env: str) -> tuple[RunResult, str]:
    done = recsys(place, "run", f"from_run={run}", *arguments, **env)
    assert done.returncode == 0, done.stderr
    return read_result(place / done.stdout.splitlines()[-1]), done.stderr


def test_a_new_model_goes_out_without_the_old_ones_figures_and_calibrator(finished, place):
    result, said = ran(
        place, finished.id, "stages=[compress,export]", "compression=svd"
    )  # fmt: skip
    assert list(result.stages) == ["prepare", "train", "select", "retrain", "compress", "export"]
    assert result.name == "small", "settings come from the earlier run"
    bundle = result.stages["export"].bundle
    card = json.loads((bundle / "card.json").read_text())
    assert card["metrics"] is None and "add evaluate" in card["metrics_note"]
    assert json.loads((bundle / "calibrator.json").read_text()) is None and card["calibration"] == "not fitted"
    assert "add evaluate to stages to measure and recalibrate it" in said
    old = json.loads((finished.stages["export"].bundle / "card.json").read_text())
    assert old["metrics_note"] is None and old["metrics"]["compress"]["auc"] > 0.6


def test_a_new_model_does_not_stand_above_the_old_ones_rows(finished, place):
    result, said = ran(place, finished.id, "stages=[train,evaluate]", "model=fm", "train.max_epochs=1")
    assert list(result.stages) == ["prepare", "train", "evaluate"]
    shown = json.loads((result.stages["evaluate"].folder / "metrics.json").read_text())
    assert list(shown)[:2] == ["constant", "train"] and set(shown) <= {"constant", "train", "recalibrated"}
    assert "compress" not in said and "retrain" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stages=[compress]", "model=fm"], "stage train of run"),
        (["stages=[select]", "seed=5"], "had seed=0, not 5: add train to stages"),
        (["stages=[evaluate]", "embedding.dim=4"], "had embedding.dim=8, not 4: add train to stages"),
        (["stages=[train]", "data.label=city"], "had data.label=click, not city: add prepare to stages"),
        (["stages=[retrain]", "selection=shark"], "add select to stages"),
        (["stages=[evaluate]", "compression=svd"], "add compress to stages"),
        (["stages=[evaluate,compress]"], "got evaluate, compress: write compress, evaluate"),
        (["stages=[compress,compress]"], "write compress"),
    ],
    ids=str,
)
def test_what_would_be_ignored_is_refused_in_one_line(finished, place, arguments, message, monkeypatch, capfd):
    monkeypatch.chdir(place)
    assert main(["run", f"from_run={finished.id}", *arguments]) == 2
    said = capfd.readouterr().err.strip()
    assert message in said and len(said.splitlines()) == 1


def test_overrides_of_now_stand_over_those_of_before():
    earlier = ["data=table", "+data.fields={a: {}}", "model=dcn", "model.layers=3", "seed=1"]
    assert _over(earlier, ["model=fm", "seed=2"]) == ["data=table", "+data.fields={a: {}}", "model=fm", "seed=2"]
    assert _over(earlier, ["+data.fields={b: {}}"])[-1:] == ["+data.fields={b: {}}"]
    assert len(_over(earlier, ["+data.fields={b: {}}"])) == len(earlier)


@pytest.mark.slow
def test_a_moved_folder_of_runs_works(finished, place, tmp_path, monkeypatch):
    """Copied, so that other tests keep theirs: nothing may point back to where it was."""
    there = tmp_path / "moved"
    shutil.copytree(place / "runs", there / "runs")
    before = {p for p in (place / "runs").rglob("*")}
    result, _ = ran(there, finished.id, "stages=[evaluate,export]")
    for stage in result.stages.values():
        assert stage.folder.is_relative_to(there)
    again = recsys(there, "run", f"resume={finished.id}")
    assert again.returncode == 0, again.stderr
    assert {p for p in (place / "runs").rglob("*")} == before
    mlflow.set_tracking_uri(result.mlflow.uri)
    child = mlflow.MlflowClient().get_run(result.stages["evaluate"].mlflow_run_id)
    assert child.info.artifact_uri.startswith((there / "runs" / "mlartifacts").as_uri())
    stored = (there / "runs" / finished.id / "result.json").read_text()
    assert str(place) not in stored.replace(finished.mlflow.uri, "")


def test_a_result_of_another_version_is_refused_in_one_line(finished, place, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for body, said in (("{}", "of version 2, got none"), ("", "is damaged"), ('{"version": 9}', "got 9")):
        (folder / "result.json").write_text(body)
        assert main(["run", *SMALL, "from_run=old", "stages=[train]"]) == 2
        error = capfd.readouterr().err.strip()
        assert said in error and len(error.splitlines()) == 1

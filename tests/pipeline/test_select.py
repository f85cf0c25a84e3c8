"""Stage select as a user runs it: every method by name, probes, and refusals before any work."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import select_features, train
from recsys.commands.cli import main
from recsys.results import read_result
from tests.pipeline.small import SMALL, recsys, small_stage

QUICK = [a for a in SMALL if not a.startswith("selection.")]


def report(place: Path, done) -> dict:
    assert done.returncode == 0, done.stderr
    result = read_result(place / done.stdout.splitlines()[-1])
    return json.loads((result.stages["select"].folder / "report.json").read_text())


def test_a_ranking_with_probes_by_the_command(place, finished):
    """A method without a cut, the top three, and three probes that tell how many of them are luck."""
    done = recsys(
        place, "run", *QUICK, "selection=shark", "select.top_k=3", "select.probes=3", "stages=[select]",
        f"from_run={finished.id}",
    )  # fmt: skip
    found = report(place, done)
    assert found["method"] == "shark" and len(found["fields"]) == 7
    assert sum(f["verdict"] == "keep" for f in found["fields"].values()) == 3
    assert found["probes"]["probes"] == 3 and found["probes"]["at_most"] > 0
    assert not any(n.startswith("probe:") for n in found["fields"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["selection=random"], "selection=random gives an order of fields and no cut: set select.top_k"),
        (["select.protect=[nobody]"], "select.protect: no field ['nobody']"),
        (["selection=shark", "select.top_k=3", "select.probes=90"], "select.probes: expected 0 to 7"),
    ],
)
def test_what_cannot_be_is_one_line(place, finished, arguments, message):
    done = recsys(place, "run", *QUICK, "stages=[select]", f"from_run={finished.id}", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def trained_on(place: Path, done) -> set[str]:
    assert done.returncode == 0, done.stderr
    result = read_result(place / done.stdout.splitlines()[-1])
    about = json.loads((result.stages["train"].folder / "model.json").read_text())
    return {f["name"] for f in about["schema"]["fields"]}


def test_a_report_names_its_model_from_the_folder_of_runs_and_its_caution_is_a_note(place, finished):
    """Neither a path of this machine nor one of Python's own warnings, which show a line of source."""
    done = recsys(place, "run", "selection.batch_size=600", "stages=[select]", f"from_run={finished.id}")
    found = report(place, done)
    assert found["provenance"]["checkpoint"] == f"{finished.id}/train"
    assert f"look at: {found['search']['warnings'][0]}\n" in done.stderr
    assert "UserWarning" not in done.stderr and "select_features.py" not in done.stderr


def test_a_report_is_compared_by_its_mlflow_run_and_by_its_stage(place, finished, capsys):
    done = recsys(
        place, "compare", finished.id, finished.mlflow.run_id,
        finished.stages["select"].mlflow_run_id, "--out", "compare.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1.000" in done.stdout and "→" in done.stdout and "warning" not in done.stdout
    assert "compared" in (place / "compare.html").read_text()
    for run, message in (("0" * 32, "no MLflow run"), (finished.stages["train"].mlflow_run_id, "no report.json")):
        assert main(["compare", finished.id, run, "--runs", str(place / "runs")]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.strip().splitlines()) == 1


def test_what_a_run_kept_is_what_the_next_one_trains_on(place, finished):
    """By the run's id, and by its kept.yaml."""
    folder = finished.stages["select"].folder
    kept = set(json.loads((folder / "selection.json").read_text())["keep"])
    assert 1 < len(kept) < 7
    quick = [*SMALL, "train.max_epochs=1", "stages=[train]"]
    assert trained_on(place, recsys(place, "run", *quick, f"select.apply={finished.id}")) == kept
    assert trained_on(place, recsys(place, "run", *quick, f"+selection={folder / 'kept.yaml'}")) == kept


@pytest.mark.slow
def test_what_a_run_kept_is_an_experiment_of_ones_own(place, finished):
    folder = finished.stages["select"].folder
    kept = set(json.loads((folder / "selection.json").read_text())["keep"])
    (place / "experiment").mkdir()
    (place / "experiment" / "fewer.yaml").write_text((folder / "kept.yaml").read_text())
    done = recsys(place, "run", *SMALL, "train.max_epochs=1", "stages=[train,select]", "experiment=fewer")
    assert trained_on(place, done) == set(report(place, done)["fields"]) == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select.apply=[item,colour]", "stages=[train]"], "keeps ['colour'], which this data lacks"),
        (["select.apply=[item]", "stages=[select]"], "not ['item']: add train to stages"),
    ],
)
def test_what_cannot_be_applied_is_one_line(place, finished, arguments, message):
    done = recsys(place, "run", *SMALL, *arguments, f"from_run={finished.id}")
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_gated_models_train_as_long_as_the_network_alone_did(prepared, tmp_path):
    """Beside a regression that is far ahead, the mean is best at its first look."""
    first = small_stage(prepared, tmp_path)
    stage = replace(first, config=replace(first.config, train={**first.config.train, "linear": True}))
    stage = replace(stage, folder=tmp_path / "train")
    stage.folder.mkdir()
    train.run(stage)
    looks = [(5, 0.4, 0.6), (10, 0.4, 0.5), (15, 0.4, 0.55)]
    history = [{"step": s, "train_loss": 0.5, "valid_logloss": m, "network_logloss": n} for s, m, n in looks]
    (stage.folder / "history.json").write_text(json.dumps(history))
    search, _ = select_features._given(replace(stage, done={**stage.done, "train": stage.folder}))
    assert search.steps == 10

"""Stage merge: several runs' models as one bundle, whose logit is the mean of theirs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.commands.cli import main
from recsys.data.shards import Shards
from recsys.evaluation.metrics import evaluate, sigmoid
from recsys.results import prepared_folder, read_result
from recsys.serving.bundle import Bundle
from recsys.training import checkpoint
from recsys.training.fit import logits
from tests.pipeline.small import SMALL

QUICK = [*SMALL, "train.max_epochs=1", "device=cpu"]
RUNS = {
    "m_a": ["stages=[train]"],
    "m_b": ["stages=[train,compress]", "model=fm", "seed=1", "compression=svd", "compression.rank=2", "~quantization"],
}


@pytest.fixture(scope="module")
def here(place: Path) -> Path:
    """A folder with two finished runs, and what looks like a third whose model reads fewer fields."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, settings in RUNS.items():
            assert main(["run", *QUICK, f"hydra.run.dir=runs/{name}", *settings]) == 0
    shutil.copytree(place / "runs" / "m_a", place / "runs" / "m_less")
    header = place / "runs" / "m_less" / "train" / "model.json"
    model = json.loads(header.read_text())
    model["schema"]["fields"] = [f for f in model["schema"]["fields"] if f["name"] in ("item", "price")]
    header.write_text(json.dumps(model))
    return place


@pytest.fixture(scope="module")
def merged(here: Path) -> Path:
    """The folder of a run that merged two of them, and exported the mean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr("recsys.export.bundle.compiler", lambda: None)  # a graph.pt2 takes half a minute
        stages = "stages=[merge,evaluate,export]"
        assert main(["run", *QUICK, stages, "merge.runs=[m_a,m_b]", "hydra.run.dir=runs/merged"]) == 0
    return here / "runs" / "merged"


def test_the_merged_logit_is_the_mean_of_the_members(merged: Path) -> None:
    stages = read_result(merged / "result.json").stages
    assert list(stages) == ["prepare", "merge", "evaluate", "export"]
    test = Shards(prepared_folder(stages["prepare"].folder), "test")
    members = {"m_a": merged.parent / "m_a" / "train", "m_b": merged.parent / "m_b" / "compress"}
    of_member = {run: logits(checkpoint.load(place)[0], test) for run, place in members.items()}
    mean_B = (of_member["m_a"].astype(np.float64) + of_member["m_b"]) / 2
    shown = json.loads((merged / "evaluate" / "metrics.json").read_text())
    for name, logit_B in {"merge": mean_B, **{f"run {n}": x for n, x in of_member.items()}}.items():
        want = evaluate(logit_B, test.label_B)
        assert shown[name]["auc"] == pytest.approx(want["auc"], abs=1e-5), name
        assert shown[name]["logloss"] == pytest.approx(want["logloss"], rel=1e-5), name
    assert shown["merge"]["logloss"] < np.mean([shown[f"run {n}"]["logloss"] for n in members])
    for cost in ("bytes", "table_bytes"):
        assert shown["merge"][cost] == sum(shown[f"run {n}"][cost] for n in members)
    assert shown["merge"]["us_per_row"] > max(shown[f"run {n}"]["us_per_row"] for n in members)


def test_the_bundle_answers_with_the_mean(merged: Path, here: Path) -> None:
    bundle = Bundle.load(merged / "export" / "bundle")
    raw = pq.read_table(here / "clicks.parquet").slice(5400, 30).drop(["at", "click"]).to_pylist()
    ids_BL, dense_BN = bundle.encoder(raw)
    stages = read_result(merged / "result.json").stages
    test = Shards(prepared_folder(stages["prepare"].folder), "test")
    batch = test.batch(slice(0, 30))
    assert np.array_equal(ids_BL, batch.ids_BL.numpy()) and np.allclose(dense_BN, batch.dense_BN.numpy())
    places = [merged.parent / "m_a" / "train", merged.parent / "m_b" / "compress"]
    mean_B = np.mean([logits(checkpoint.load(place)[0], test)[:30] for place in places], 0)
    assert np.allclose(bundle.logits(raw), mean_B, atol=1e-5)
    if bundle.calibrator is None:
        assert np.allclose(bundle.score(raw), sigmoid(mean_B), atol=1e-5)
    assert [m["run"] for m in bundle.card["model"]["members"]] == ["m_a", "m_b"]
    assert bundle.card["stage"] == "merge"


WRONG: dict[str, tuple[list[str], str]] = {
    "one run": (["merge.runs=[m_a]"], "merge.runs: expected two finished runs or more, each once, got ['m_a']"),
    "one run twice": (["merge.runs=[m_a,m_a]"], "merge.runs: expected two finished runs or more, each once"),
    "two spellings": (["merge.runs=[m_a,../runs/m_a]"], "merge.runs: expected two finished runs or more, each once"),
    "elsewhere": (["merge.runs=[m_a,../../other]"], "merge.runs: expected ids of runs in runs, got '../../other'"),
    "no run": (["merge.runs=[m_a,absent]"], "merge.runs: no finished run 'absent': expected one of "),
    "other fields": (["merge.runs=[m_a,m_less]"], "m_a and m_less differ in city, noise, tags, user, user_x_city: tr"),
    "a merge": (["merge.runs=[m_a,merged]"], "merge.runs: run merged is a merge itself: name its runs"),
    "other data": (
        ["merge.runs=[m_a,m_b]", "data.fields.item.min_count=5"],
        "merge.runs: run m_a had data.fields.item.min_count=3, not 5: give the data settings that it had",
    ),
    "compressed": (
        ["merge.runs=[m_a,m_b]", "stages=[merge,compress]"],
        "stage compress: a merged model cannot be compressed: merge runs that were compressed, or add distill",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_merged_is_refused_in_one_line(
    merged: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, case: str
) -> None:
    monkeypatch.chdir(here)
    before = {p.name for p in (here / "runs").iterdir()}
    assert main(["run", *QUICK, "stages=[merge,evaluate]", *WRONG[case][0]]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and WRONG[case][1] in said and len(said.strip().splitlines()) == 1
    assert {p.name for p in (here / "runs").iterdir()} == before


@pytest.mark.slow
def test_a_student_learns_from_a_merged_teacher(merged: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    arguments = ["from_run=merged", "stages=[distill,evaluate]", "model@distill.model=fm", "merge.runs=[m_a,m_b]"]
    assert main(["run", *QUICK, *arguments, "hydra.run.dir=runs/taught"]) == 0
    shown = json.loads((here / "runs" / "taught" / "evaluate" / "metrics.json").read_text())
    assert shown["distill"]["bytes"] < shown["merge"]["bytes"] and shown["distill"]["auc"] > 0.6

"""A table with two labels, from the command to the answer over HTTP."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score

from pipelines import compress, evaluate, export, summary, train
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.results import RunResult, Tracking, prepared_folder, read_result
from recsys.serving.app import make_app
from recsys.serving.bundle import Bundle
from recsys.serving.openapi import predict_schema
from recsys.serving.verify import verify
from recsys.training import checkpoint
from tests.conftest import CONFIG
from tests.pipeline.small import SMALL, clicks, recsys, small_stage
from tests.unit.test_several import with_buy

TWO = [*SMALL, "data.labels=[click,buy]", "head=several", "head.weights=[1,0.5]", "seed=3"]


@pytest.fixture(scope="module")
def stages(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of stages that ran one after another in this process; ONNX alone, since .pt2 takes a minute."""
    config = {**CONFIG, "label": None, "labels": ["click", "buy"]}
    prepared = prepare(config, lambda: with_buy(table), tmp_path_factory.mktemp("several"))
    head = {"_target_": "recsys.heads.several.Several", "bottom": 8, "tower": [], "weights": [1.0, 0.5]}
    stage = small_stage(prepared, tmp_path_factory.mktemp("run"), head=head)
    done = dict(stage.done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "absent")
        for module in (train, compress, evaluate, export):
            name = module.__name__.rpartition(".")[2]
            folder = stage.folder.with_name(name)
            folder.mkdir()
            module.run(replace(stage, folder=folder, done=done))
            done[name] = folder
    return done


def answered(bundle: Bundle, *requests: tuple[str, str, object]) -> list[dict]:
    """The JSON that the application gives to each request."""

    async def ask() -> list[dict]:
        transport = httpx.ASGITransport(make_app(bundle))
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            return [(await client.request(method, path, json=body)).json() for method, path, body in requests]

    return asyncio.run(ask())


def test_an_answer_over_http_names_each_labels_probability(stages: dict[str, Path]) -> None:
    bundle = Bundle.load(stages["export"] / "bundle")
    prepared = prepared_folder(stages["prepare"])
    rows = json.loads((prepared / "golden_rows.json").read_text())[:5]
    model, _ = checkpoint.load(stages["compress"])
    with torch.no_grad():
        logit_BT = model(Shards(prepared, "test").batch(slice(0, 5))).double().numpy()
    curves = json.loads((stages["evaluate"] / "calibrator.json").read_text())
    want = [1 / (1 + np.exp(-z_B)) for z_B in logit_BT.T]
    want = [p_B if c is None else np.interp(p_B, c["x"], c["y"]) for p_B, c in zip(want, curves, strict=True)]
    posts = ("POST", "/predict", rows), ("POST", "/predict", rows[0])
    several, single, card = answered(bundle, *posts, ("GET", "/card", None))
    many, one = several["probabilities"], single["probability"]
    assert [list(answer) for answer in many] == [["click", "buy"]] * 5
    np.testing.assert_allclose([list(a.values()) for a in many], np.stack(want, 1), atol=1e-5)
    assert one == pytest.approx(many[0], abs=1e-6)
    assert card["labels"] == ["click", "buy"] and card["output"]["logit_BT"]["shape"] == ["B", 2]
    answer = predict_schema(bundle.schema)["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(answer["oneOf"][0]["properties"]["probability"]["properties"]) == ["click", "buy"]
    assert verify(stages["export"] / "bundle")["max_drift"]["onnx"] < 1e-5


def test_the_figures_of_each_label_are_sklearns(stages: dict[str, Path]) -> None:
    figures = json.loads((stages["evaluate"] / "metrics.json").read_text())["train"]
    model, _ = checkpoint.load(stages["train"])
    test = Shards(prepared_folder(stages["prepare"]), "test")
    with torch.no_grad():
        logit_BT = model(test.batch(slice(0, len(test)))).double().numpy()
    for t, which in enumerate(("", ".buy")):
        seen_B = ~np.isnan(test.label_BT[:, t])
        label_B, p_B = test.label_BT[seen_B, t], 1 / (1 + np.exp(-logit_BT[seen_B, t]))
        rate_B = np.full(len(p_B), label_B.mean(dtype=np.float64))
        assert figures[f"auc{which}"] == pytest.approx(roc_auc_score(label_B, p_B), abs=1e-6)
        assert figures[f"logloss{which}"] == pytest.approx(log_loss(label_B, p_B), abs=1e-6)
        assert figures[f"ne{which}"] == pytest.approx(log_loss(label_B, p_B) / log_loss(label_B, rate_B), abs=1e-6)
    history = json.loads((stages["train"] / "history.json").read_text())
    assert all({"valid_auc", "valid_auc.buy", "valid_logloss.buy"} <= set(look) for look in history)
    page = (stages["evaluate"] / "evaluation.html").read_text().partition("<h3>Other labels</h3>")[2]
    assert "<td>constant</td><td>buy</td>" in "".join(page.split()) and "<td>train</td><td>buy</td>" in page


def test_the_terminal_has_a_table_a_label(stages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    figures = json.loads((stages["evaluate"] / "metrics.json").read_text())
    said = io.StringIO()
    monkeypatch.setattr(summary, "console", lambda **_: Console(file=said, width=200))
    monkeypatch.setattr(summary, "_models", lambda _: figures)
    summary.show(RunResult("r", "r", 0, Tracking("sqlite:///x", "e", None), {}), "small", ["click", "buy"])
    first, second = said.getvalue().split("small: test split, label buy")
    assert "small: test split, label click" in first and f"{figures['train']['auc']:.4f}" in first
    assert all(f"{figures['train'][k]:.4f}" in second for k in ("auc.buy", "logloss.buy", "ne.buy"))
    assert "constant" in second and f"{figures['constant']['ne.buy']:.4f}" in second


def test_the_metrics_of_preparation_have_each_labels_rate(stages: dict[str, Path]) -> None:
    prepared = prepared_folder(stages["prepare"])
    for split in ("train", "valid", "test"):
        facts = json.loads((prepared / "prepared.json").read_text())["splits"][split]
        label_BT = Shards(prepared, split).label_BT
        assert facts["label_rate"] == pytest.approx(np.nanmean(label_BT[:, 0]))
        assert facts["label_rates"] == {"buy": pytest.approx(np.nanmean(label_BT[:, 1]))}


@pytest.mark.slow
def test_a_whole_run_says_which_label_selection_is_about(tmp_path: Path) -> None:
    """By the command; the bundle answers with both labels."""
    pyarrow.parquet.write_table(with_buy(clicks(4000)), tmp_path / "clicks.parquet")
    done = recsys(tmp_path, "run", *TWO)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fields are judged by what click loses, not buy" in " ".join(done.stderr.split())
    result = read_result(tmp_path / done.stdout.splitlines()[-1])
    card = Bundle.load(result.stages["export"].folder / "bundle").card
    assert {"auc", "auc.buy"} <= set(card["metrics"]["compress"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["head=click", "~head.weights"], "head=click takes one label, got click, buy"),
        (["data.labels=null"], "head=several takes two or more labels, got click"),
        (["head.weights=[1]"], "head.weights: expected one a label (click, buy), got [1.0]"),
        (["head.weights=[1,0]"], "head.weights.1: input should be greater than 0"),
        (["data.labels=[buy,click]"], "expected data.label (click) first"),
    ],
)
def test_a_head_that_does_not_fit_the_labels_stops_the_run_before_it_starts(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.commands.cli import main

    pyarrow.parquet.write_table(with_buy(clicks(100)), tmp_path / "clicks.parquet")
    monkeypatch.chdir(tmp_path)
    head = [o for o in TWO if o not in ("head.weights=[1,0.5]", "head=several")] if change[0] == "head=click" else TWO
    assert main(["run", *head, *(c for c in change if c != "~head.weights")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()

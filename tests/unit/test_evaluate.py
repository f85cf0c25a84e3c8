"""Stage evaluate and the baselines on sampled negatives, and what the tables say is recalibrated."""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from pipelines import evaluate as evaluate_stage
from pipelines import export as export_stage
from pipelines import summary
from pipelines.config import Export
from pipelines.stage import Stage
from recsys.baselines import fit as baselines
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.evaluation.metrics import evaluate, logloss, sigmoid
from recsys.features.schema import Schema
from recsys.results import RunResult, StageOfRun, Tracking, write_prepared
from recsys.serving.bundle import Bundle
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.fit import fit, logits
from recsys.training.loop import seed_everything
from tests.configs import run_config

SPEC: dict[str, Any] = {
    "model": {"_target_": "recsys.models.fm.FM"},
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 4},
    "embedding_dropout": 0.0,
}


def sampled(rows: int = 60_000) -> tuple[pa.Table, float]:
    """Clicks that follow two fields, of whose negatives one in ten stayed with weight 10; and the true rate."""
    r = np.random.default_rng(0)
    item, city = r.integers(0, 30, rows), r.integers(0, 8, rows)
    truth = sigmoid(r.normal(-3, 1, 30)[item] + r.normal(0, 0.5, 8)[city])
    click = r.random(rows) < truth
    kept = click | (r.random(rows) < 0.1)
    columns = {"item": item, "city": city, "click": click.astype(int), "at": 1_500_000_000 + 60 * np.arange(rows)}
    columns["w"] = np.where(click, 1.0, 10.0)
    return pa.table({k: v[kept] for k, v in columns.items()}), float(truth.mean())


def evaluated_run(folder: Path) -> RunResult:
    """The result of a run whose stage evaluate is in that folder."""
    return RunResult("a", "a", 0, Tracking("sqlite:///x", "a", None), {"evaluate": StageOfRun(folder)})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """Prepared data and the folder of stage evaluate over two models, trained long and not at all; the true rate."""
    place = tmp_path_factory.mktemp("sampled")
    table, rate = sampled()
    config = {"name": "sampled", "label": "click", "time": "at", "weight": "w", "fields": {"item": {}, "city": {}}}
    data = prepare({**config, "split": {"shares": [0.4, 0.3, 0.3]}}, lambda: table, place)
    for name in ("prepare", "train", "retrain", "evaluate"):
        (place / name).mkdir()
    write_prepared(place / "prepare", data)
    if importlib.util.find_spec("lightgbm"):
        baselines.baseline(data)
    schema = Schema.load(data / "schema.json")
    for name, epochs in (("train", 1), ("retrain", 4)):
        seed_everything(0)
        model = checkpoint.build(schema, SPEC)
        quick = TrainConfig(batch_size=256, max_epochs=epochs, evals_per_epoch=1, warmup_steps=0, table_lr=0.1)
        fit(model, Shards(data, "train"), Shards(data, "valid"), quick, 0)
        model.interaction.bias.data += 1 / 30  # one in the logit: too many clicks, which a recalibration mends
        checkpoint.save(place / name, model, SPEC)
    done = {n: place / n for n in ("prepare", "train", "retrain")}
    evaluate_stage.run(Stage(run_config(device="cpu"), place / "evaluate", done))
    return data, place, rate


def test_recalibration_keeps_what_the_weights_say(evaluated) -> None:
    data, place, rate = evaluated
    found = json.loads((place / "evaluate" / "metrics.json").read_text())
    curve = json.loads((place / "evaluate" / "calibrator.json").read_text())
    test = Shards(data, "test")
    model, _ = checkpoint.load(place / "retrain")
    p_B = np.interp(sigmoid(logits(model, test)), curve["x"], curve["y"])
    assert np.average(p_B, weights=test.weight_B) == pytest.approx(
        rate, rel=0.15
    )  # .49 of the rows that stayed clicked
    assert found["recalibrated"]["logloss"] == pytest.approx(logloss(p_B, test.label_B, test.weight_B), rel=1e-9)
    assert found["recalibrated"]["logloss"] < found["retrain"]["logloss"] + 0.002
    assert found["recalibrated"]["logloss"] < found["constant"]["logloss"] < 1.0
    assert found["constant"]["calibration"] == pytest.approx(1, abs=0.1)


def test_every_row_is_that_of_repeated_rows(evaluated) -> None:
    data, place, _ = evaluated
    found = json.loads((place / "evaluate" / "metrics.json").read_text())
    for name in ("train", "retrain"):
        model, _ = checkpoint.load(place / name)
        for split, prefix in (("test", ""), ("valid", "valid_")):
            shards = Shards(data, split)
            times = np.asarray(shards.weight_B).astype(int)
            want = evaluate(logits(model, shards).repeat(times), shards.label_B.repeat(times))
            for key in ("auc", "logloss"):
                assert found[name][prefix + key] == pytest.approx(want[key], rel=1e-6), (name, split, key)


def test_every_model_is_recalibrated_and_every_table_says_so(evaluated, monkeypatch) -> None:
    data, place, _ = evaluated
    found = json.loads((place / "evaluate" / "metrics.json").read_text())
    for name in ("train", "retrain", *baselines.read(data)):
        assert found[name].get("recalibrated_logloss", found[name]["logloss"]) < found["constant"]["logloss"], name
    assert found["retrain"]["recalibrated_logloss"] == found["recalibrated"]["logloss"]
    assert "recalibrated_logloss" not in found["recalibrated"]
    page = (place / "evaluate" / "evaluation.html").read_text()
    assert "<td>retrain, recalibrated</td>" in page and '<th class="n">recalibrated logloss</th>' in page
    said = io.StringIO()
    monkeypatch.setattr(summary, "console", lambda **_: Console(file=said, width=200))
    result = evaluated_run(place / "evaluate")
    summary.show(result, "sampled")
    assert "retrain, recalibrated" in said.getvalue() and "recalibrated logloss" in said.getvalue()
    assert "No model beats" not in said.getvalue()
    useless = {n: {**m, "ne": m["ne"] + 9, "recalibrated_ne": 9.0} for n, m in found.items() if n != "constant"}
    monkeypatch.setattr(summary, "_models", lambda _: {**useless, "constant": found["constant"]})
    summary.show(result, "sampled")
    assert "No model beats always saying the label rate" in said.getvalue()


def test_a_baseline_that_beats_what_is_shipped_is_named(evaluated, monkeypatch) -> None:
    """It is compared with the newest model as the bundle gives it: recalibrated, if that was asked for."""
    said = io.StringIO()
    monkeypatch.setattr(summary, "console", lambda **_: Console(file=said, width=200))
    result = evaluated_run(evaluated[1] / "evaluate")
    model = {"ne": 0.9, "logloss": 0.5, "recalibrated_logloss": 0.48, "auc": 0.7}
    shown = {"train": {**model, "logloss": 0.3}, "retrain": model, "recalibrated": {**model, "logloss": 0.48}}
    baseline = {"logistic regression": {**model, "logloss": 0.49, "recalibrated_logloss": 0.475, "auc": 0.71}}
    worse = {"LightGBM": {**model, "logloss": 0.481, "recalibrated_logloss": 0.481, "auc": 0.9}}
    line = (
        "logistic regression has a lower test logloss than the newest model (retrain, recalibrated): test logloss "
        "0.4750, not 0.4800 (-0.0050), AUC 0.7100, not 0.7000 (+0.0100); -m seed=0,1,2 shows how far seeds differ"
    )
    for models, expected in ((shown, 0), ({**worse, **shown}, 0), ({**worse, **baseline, **shown}, 1)):
        monkeypatch.setattr(summary, "_models", lambda _, models=models: models)
        said.truncate(0)
        summary.show(result, "sampled")
        assert said.getvalue().count(line) == expected == said.getvalue().count("than the newest model")


def test_what_helps_no_model_on_validation_is_nowhere_called_recalibrated(evaluated, monkeypatch, tmp_path) -> None:
    data, place, _ = evaluated
    time_B = Shards(data, "valid").time_B
    assert time_B is not None and np.array_equal(time_B, np.sort(time_B))
    times: list[np.ndarray] = []
    monkeypatch.setattr(evaluate_stage, "fit_calibrator", lambda *given: times.append(given[3]))
    folder = tmp_path / "evaluate"
    folder.mkdir()
    done = {n: place / n for n in ("prepare", "train", "retrain")}
    evaluate_stage.run(Stage(run_config(device="cpu"), folder, done))
    found = json.loads((folder / "metrics.json").read_text())
    assert list(found) == ["constant", *baselines.read(data), "train", "retrain"]
    assert len(times) == 2 and all(np.array_equal(t, time_B) for t in times)
    assert not [k for n in ("train", "retrain") for k in found[n] if "recalibrated" in k]
    assert json.loads((folder / "calibrator.json").read_text()) is None
    page, said = (folder / "evaluation.html").read_text(), io.StringIO()
    monkeypatch.setattr(summary, "console", lambda **_: Console(file=said, width=200))
    result = evaluated_run(folder)
    summary.show(result, "sampled")
    for shown in (page, said.getvalue()):
        assert "retrain, recalibrated" not in shown and "The newest model is not recalibrated" in shown
    monkeypatch.undo()
    export = Stage(run_config(name="e", export=Export("none", past=False)), tmp_path, {**done, "evaluate": folder})
    monkeypatch.setattr("recsys.export.bundle.compiler", lambda: None)  # a graph.pt2 takes half a minute
    export_stage.run(export)
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.card["calibration"] == "none helped on validation" and bundle.calibrator is None

"""Each stage reads the split that it should: on data whose splits differ, another one would show."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from recsys.data.shards import Shards
from recsys.serving.bundle import Bundle
from recsys.training import checkpoint
from recsys.training.fit import logits
from tests.pipeline.splits_differ import ROWS, Run

MODELS = ("train", "retrain", "compress")


def scored(run: Run, stage: str, split: str) -> np.ndarray:
    """Probabilities of a stage's model on a split, in float64."""
    model, _ = checkpoint.load(run.folder(stage))
    logit_B = logits(model, Shards(run.data, split, model.schema)).astype(np.float64)
    return 1 / (1 + np.exp(-logit_B))


def figures(run: Run, p_B: np.ndarray, split: str) -> dict[str, float]:
    """scikit-learn's weighted AUC and logloss."""
    label, weight = (np.asarray(x) for x in (run.shards[split].label_B, run.shards[split].weight_B))
    auc = roc_auc_score(label, p_B, sample_weight=weight)
    return {"auc": auc, "logloss": log_loss(label, p_B, sample_weight=weight)}


def rate(run: Run, split: str, p_B: np.ndarray | None = None) -> float:
    """Weighted mean of predictions, or of clicks."""
    shards = run.shards[split]
    return float(np.average(shards.label_B if p_B is None else p_B, weights=shards.weight_B))


def curve(run: Run, p_B: np.ndarray) -> np.ndarray:
    found = run.read("evaluate", "calibrator.json")
    return np.interp(p_B, found["x"], found["y"])


def test_the_splits_differ_enough_to_tell_them_apart(planted_run: Run) -> None:
    rates = [rate(planted_run, s) for s in ROWS]
    assert rates[0] > 1.3 * rates[1] > 1.3 * 1.3 * rates[2]
    assert all(float(planted_run.shards[s].label_B.mean()) > 1.3 * rate(planted_run, s) for s in ROWS), "weights count"
    for stage in MODELS:
        valid, test = (figures(planted_run, scored(planted_run, stage, s), s) for s in ("valid", "test"))
        assert all(abs(valid[k] - test[k]) > 1e-4 for k in valid), stage  # other tests compare to 1e-5


@pytest.mark.parametrize("stage", ["train", "retrain"])
def test_training_looks_at_validation_and_keeps_its_best(planted_run: Run, stage: str) -> None:
    history = planted_run.read(stage, "history.json")
    best = min(history, key=lambda h: h["valid_logloss"])
    want = figures(planted_run, scored(planted_run, stage, "valid"), "valid")
    assert (best["valid_auc"], best["valid_logloss"]) == pytest.approx((want["auc"], want["logloss"]), rel=1e-5)
    assert best is not history[-1], "the test needs a training that goes on past its best look"


@pytest.mark.parametrize("stage", MODELS)
def test_the_evaluation_is_of_test_and_names_validation_so(planted_run: Run, stage: str) -> None:
    found = planted_run.read("evaluate", "metrics.json")
    for split, prefix in (("test", ""), ("valid", "valid_")):
        want = figures(planted_run, scored(planted_run, stage, split), split)
        for key, value in want.items():
            assert found[stage][prefix + key] == pytest.approx(value, rel=1e-5), (split, key)


def test_recalibration_is_fitted_on_validation_by_weight(planted_run: Run) -> None:
    valid, test = (curve(planted_run, scored(planted_run, "compress", s)) for s in ("valid", "test"))
    assert rate(planted_run, "valid", valid) == pytest.approx(rate(planted_run, "valid"), rel=0.05)
    assert rate(planted_run, "test", test) > 1.2 * rate(planted_run, "test"), "it knows nothing of test's click rate"
    found = planted_run.read("evaluate", "metrics.json")
    want = figures(planted_run, test, "test")
    assert {k: found["recalibrated"][k] for k in want} == pytest.approx(want, rel=1e-4)
    assert found["compress"]["recalibrated_logloss"] == found["recalibrated"]["logloss"]


def test_the_bundle_is_the_compressed_model_recalibrated(planted_run: Run) -> None:
    rows = pq.read_table(planted_run.place / "splits.parquet", filters=[("part", "=", "valid")]).to_pylist()
    bundle = Bundle.load(planted_run.result.stages["export"].bundle)
    p_B = scored(planted_run, "compress", "valid")
    logit_B = bundle.logits(rows)
    np.testing.assert_allclose(logit_B, np.log(p_B / (1 - p_B)), atol=2e-5)
    whole_B = scored(planted_run, "retrain", "valid")
    assert np.abs(logit_B - np.log(whole_B / (1 - whole_B))).max() > 1e-3, "the test needs a compression that shows"
    np.testing.assert_allclose(bundle.score(rows), curve(planted_run, p_B), atol=1e-5)
    assert rate(planted_run, "valid", bundle.score(rows)) == pytest.approx(rate(planted_run, "valid"), rel=0.05)
    assert json.loads((bundle.folder / "card.json").read_text())["stage"] == "compress"


def test_tables_are_quantised(planted_run: Run) -> None:
    model, _ = checkpoint.load(planted_run.folder("compress"))
    tables = model.embedding.scoring().tables.values()
    assert tables and all(not t.codes.dtype.is_floating_point for t in tables)
    assert all(t.codes.dtype in (torch.int8, torch.uint8) for t in tables)


def test_selection_judges_fields_by_validation_and_by_weight(planted_run: Run) -> None:
    """What only training, test or rows of weight 0 follow is worth nothing here."""
    fields = planted_run.read("select", "report.json")["fields"]
    worth = {n: f["score"] for n, f in fields.items()}
    useful = ("everywhere", "train_valid")
    assert min(worth[n] for n in useful) > 4 * max(worth[n] for n in worth if n not in useful), worth
    assert set(planted_run.read("select", "selection.json")["keep"]) == set(useful)

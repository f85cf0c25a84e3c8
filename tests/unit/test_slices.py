"""Figures on parts of the test rows, against a slow formula over the raw table, and through stage evaluate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipelines import evaluate as evaluate_stage
from pipelines.config import Evaluate
from pipelines.stage import Stage
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.evaluation.slices import BANDS, figures, seen_before
from recsys.features.schema import Schema
from recsys.results import write_prepared
from recsys.training import checkpoint
from recsys.training.fit import logits
from recsys.training.loop import seed_everything
from tests.configs import run_config

SPEC: Any = {
    "model": {"_target_": "recsys.models.fm.FM"},
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 4, "init": 0.5},
    "embedding_dropout": 0.0,
}
FIELDS = {
    "user": {"min_count": 1}, "rare": {"inputs": ["user"], "min_count": 3}, "city": {"min_count": 1},
    "price": {"encoding": "bucket", "buckets": 4}, "day": {"inputs": ["at"], "encoding": "weekday"},
    "mix": {"inputs": ["user", "city"], "encoding": "hash", "buckets": 60},
    "small": {"inputs": ["city"], "encoding": "hash", "buckets": 5},
}  # fmt: skip


def clicks(rows: int = 4000) -> pd.DataFrame:
    """Clicks of users many of whom are seldom seen; a tenth of the rows weighs nothing."""
    r = np.random.default_rng(0)
    user = np.minimum(r.zipf(1.5, rows), 2000)
    return pd.DataFrame(
        {
            "at": 1_500_000_000 + 3600 * np.arange(rows),
            "user": [None if u % 17 == 16 else f"u{u}" for u in user],
            "city": r.choice(["Rome", "Oslo", "Bonn"], rows, p=[0.6, 0.3, 0.1]),
            "price": r.normal(size=rows),
            "click": (r.random(rows) < 0.3).astype(int),
            "w": r.choice([0.0, 0.5, 2.0], rows, p=[0.1, 0.4, 0.5]),
        }
    )


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Training rows, test rows with the logit of a model that learned nothing, and the folder of stage evaluate."""
    place, table = tmp_path_factory.mktemp("sliced"), clicks()
    config = {"name": "sliced", "label": "click", "time": "at", "weight": "w", "fields": FIELDS}
    raw = pa.Table.from_pandas(table)
    data = prepare({**config, "split": {"shares": [0.5, 0.1, 0.4]}}, lambda: raw, place)
    for name in ("prepare", "train", "evaluate"):
        (place / name).mkdir()
    write_prepared(place / "prepare", data)
    seed_everything(0)
    model = checkpoint.build(Schema.load(data / "schema.json"), SPEC)
    checkpoint.save(place / "train", model, SPEC)
    config = run_config(device="cpu", calibrate=False, evaluate=Evaluate([*FIELDS, "city"]))
    result = evaluate_stage.run(Stage(config, place / "evaluate", {n: place / n for n in ("prepare", "train")}))
    (place / "told.json").write_text(json.dumps(result.metrics))
    train, test = (Shards(data, split) for split in ("train", "test"))
    last = table.tail(len(test)).assign(logit=logits(model, test))
    assert (last.click == test.label_B).all()  # the rows that we mean
    return table.head(len(train)), last, place


def slow_figures(rows: pd.DataFrame) -> dict[str, float]:
    """AUC over every pair, logloss and Σp/Σy, from their definitions."""
    y, w, z = rows.click.to_numpy(), rows.w.to_numpy(), rows.logit.to_numpy(np.float64)
    p = 1 / (1 + np.exp(-z))
    pair = np.outer(w[y == 1], w[y == 0])
    right = (z[y == 1, None] > z[y == 0]) + 0.5 * (z[y == 1, None] == z[y == 0])
    expected = {"logloss": -np.sum(w * np.log(np.where(y == 1, p, 1 - p))) / w.sum()}
    if pair.sum():
        expected["auc"] = (pair * right).sum() / pair.sum()
    if (w * y).sum():
        expected["calibration"] = (w * p).sum() / (w * y).sum()
    return expected


def by_count(train: pd.DataFrame, test: pd.DataFrame, least: int = 1) -> pd.Series:
    """The slice of each test row, by the training rows that weigh something and have its user."""
    known = train.user.value_counts()
    counted = train[train.w > 0].user.value_counts().where(known >= least)
    band = pd.cut(test.user.map(counted).fillna(0), [-1, 0, 9, 99, np.inf], labels=list(BANDS[1:]))
    return band.astype(object).where(test.user.notna(), "missing")


def test_slices_are_those_of_a_slow_formula(sliced: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    train, test, place = sliced
    edges = [float("-inf"), *np.quantile(train.price, [0.25, 0.5, 0.75]), float("inf")]
    days = pd.to_datetime(test["at"], unit="s").dt.day_name()
    wanted = {
        "user": by_count(train, test), "rare": by_count(train, test, 3), "city": test.city, "day": days,
        "price": pd.cut(test.price, edges, right=False, labels=list("abcd")).astype(str),
    }  # fmt: skip
    stored = json.loads((place / "evaluate" / "slices.json").read_text())
    assert stored["version"] == 1
    for field, part_B in wanted.items():
        parts = [s for s in stored["slices"] if s["field"] == field]
        expected = {name: rows[rows.w > 0] for name, rows in test.groupby(part_B) if (rows.w > 0).any()}
        if field == "price":
            assert parts[1]["name"] == f"{edges[1]:.6g} to {edges[2]:.6g}"
            parts = [{**s, "name": letter} for s, letter in zip(parts, "abcd", strict=True)]
        assert {s["name"] for s in parts} == set(expected), field
        for s in parts:
            rows = expected[s["name"]]
            assert s["rows"] == len(rows) and s["weight"] == pytest.approx(rows.w.sum())
            assert s["clicks"] == pytest.approx((rows.w * rows.click).sum())
            assert s["models"]["train"] == pytest.approx(slow_figures(rows), rel=1e-5), (field, s["name"])
    assert {s["name"] for s in stored["slices"] if s["field"] == "user"} == set(BANDS)
    assert {s["name"] for s in stored["slices"] if s["field"] == "small"} <= {f"bucket {i}" for i in range(5)}
    assert {s["name"] for s in stored["slices"] if s["field"] == "mix"} <= set(BANDS) - {"missing"}


def test_slices_are_in_the_page_and_in_the_metrics(sliced: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    place = sliced[2]
    page = (place / "evaluate" / "evaluation.html").read_text()
    told = json.loads((place / "told.json").read_text())
    for s in json.loads((place / "evaluate" / "slices.json").read_text())["slices"]:
        name = f"slices.{s['field']}.{s['name']}"
        assert told[f"{name}.rows"] == s["rows"]
        assert {k: told[f"{name}.train.{k}"] for k in s["models"]["train"]} == s["models"]["train"]
        assert f"<td>{s['name']}</td>" in page
    assert page.count("AUC by city") == 1 and "by how many training rows have the row&#39;s id" in page


def test_a_slice_of_one_label_has_no_auc_and_one_without_a_click_no_calibration() -> None:
    logit_B, p_B = np.array([0.0, 1.0]), np.array([0.5, 0.7])
    assert set(figures(logit_B, p_B, np.zeros(2))) == {"logloss"}
    assert set(figures(logit_B, p_B, np.ones(2))) == {"logloss", "calibration"}
    assert set(figures(logit_B, p_B, np.array([0, 1]), np.array([1.0, 0.0]))) == {"logloss"}


def test_an_id_is_counted_at_the_edges_of_each_band() -> None:
    train = np.repeat([2, 3, 4, 5, 6], [1, 9, 10, 99, 100])
    band_B = seen_before(train, np.array([0, 1, 2, 3, 4, 5, 6, 7]), missing=0, unseen=1)
    assert [BANDS[b] for b in band_B] == ["missing", "unseen", *["1-9"] * 2, *["10-99"] * 2, "at least 100", "unseen"]

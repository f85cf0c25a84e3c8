"""What drifts between the splits of prepared data, against a slow formula over the raw table."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipelines import prepare as prepare_stage
from pipelines.stage import Stage
from recsys.data.inspection import drift as room
from recsys.data.inspection.drift import Drift, drift, said
from recsys.data.preparation.prepare import prepare
from tests.configs import run_config

CONFIG: dict[str, Any] = {
    "name": "drifting", "label": "click", "time": "at", "split": {"shares": [0.5, 0.2, 0.3]},
    "fields": {
        "user": {"min_count": 1}, "city": {"min_count": 1}, "steady": {"kind": "numeric"}, "price": {"kind": "numeric"},
        "tags": {"kind": "multi", "min_count": 1}, "mix": {"inputs": ["city"], "encoding": "hash", "buckets": 50},
        "day": {"inputs": ["at"], "encoding": "day"},
    },
}  # fmt: skip
CUTS = [0, 5000, 7000, 10_000]  # rows of training, validation and test


def clicks(drifts: bool, seed: int = 0, rows: int = CUTS[-1]) -> pd.DataFrame:
    """If it drifts: users change, prices and the label rate rise, and lists lose a tag; else nothing does."""
    r, late = np.random.default_rng(seed), np.arange(rows) / rows * drifts
    return pd.DataFrame(
        {
            "at": 1_500_000_000 + 600 * np.arange(rows),
            "user": [f"u{u}" for u in r.integers(0, 100, rows) + (100 * (late > 0.6)).astype(int)],
            "city": r.choice(["Rome", "Oslo", "Bonn"], rows, p=[0.6, 0.3, 0.1]),
            "steady": r.normal(size=rows),
            "price": r.normal(size=rows) + 2 * late,
            "tags": [["a", "b", "c"][: 1 + (i % 3 > 0) - (x > 0.7)] for i, x in enumerate(late)],
            "click": (r.random(rows) < 0.1 + 0.2 * late).astype(int),
        }
    )


def excess(train: list[str], other: list[str], bins: int) -> float:
    """PSI of two lists of bins, less what chance gives."""
    total, first, second = 0.0, Counter(train), Counter(other)
    for b in {*first, *second}:
        p, q = max(first[b], 0.5) / len(train), max(second[b], 0.5) / len(other)
        total += (q - p) * math.log(q / p)
    return max(0.0, total - (bins - 1) * (1 / len(train) + 1 / len(other)))


def test_drift_is_that_of_a_slow_formula(tmp_path: Path) -> None:
    table = clicks(drifts=True)
    folder = prepare(CONFIG, lambda: pa.Table.from_pandas(table), tmp_path)
    seen = drift(folder)
    train, *others = (table.iloc[a:b] for a, b in pairwise(CUTS))
    edges = np.quantile(train.price.to_numpy(np.float32), np.arange(1, 10) / 10)
    price = [[str(sum(x >= edges)) for x in part.price.to_numpy(np.float32)] for part in (train, *others)]
    top = set(train.user.value_counts().index[:20])  # ties at the end of it do not matter: nobody is frequent
    user = [[u if u in top else "other" for u in part.user] for part in (train, *others)]
    for name, (first, *later), bins in (("price", price, 10), ("user", user, 21)):
        assert seen.fields[name] == pytest.approx(max(excess(first, p, bins) for p in later), rel=0.03), name
    assert seen.fields["city"] < 0.01 and seen.fields["steady"] < 0.01 and seen.fields["mix"] < 0.01
    assert "day" not in seen.fields and seen.rates["test"] == pytest.approx(others[1].click.mean())
    assert list(seen.large()) == ["tags", "price", "user"]
    assert list(seen.large({"price", "city"})) == ["price"]
    sentence = said(seen)
    assert sentence.startswith(f"The table drifts: the label rate is {train.click.mean():.2%} in training, ")
    assert f"tags ({seen.fields['tags']:.2f}), price (" in sentence and "\n" not in sentence


def test_nothing_is_said_of_a_table_that_does_not_drift(tmp_path: Path) -> None:
    """Nor of one of few rows: 100 of a split give a PSI of .2 in 20 bins by chance."""
    for seed, rows in ((1, 10_000), (2, 400), (3, 150)):
        table = pa.Table.from_pandas(clicks(False, seed, rows))
        folder = prepare(CONFIG, lambda table=table: table, tmp_path / str(seed))
        assert said(drift(folder)) == ""


def test_weights_count_and_a_sample_of_rows_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What drifts weighs nothing: so nothing drifts."""
    table = clicks(drifts=True)
    still = clicks(drifts=False, seed=4)
    mixed = pd.concat([table.assign(w=0.0), still.assign(w=2.0)]).sort_values("at")
    folder = prepare({**CONFIG, "weight": "w"}, lambda: pa.Table.from_pandas(mixed, preserve_index=False), tmp_path)
    assert said(drift(folder)) == ""
    monkeypatch.setattr(room, "_ROWS", 2000)
    assert said(drift(folder)) == ""


def test_the_run_says_it_when_the_data_is_prepared(tmp_path, monkeypatch, capsys) -> None:
    table = pa.Table.from_pandas(clicks(drifts=True))
    monkeypatch.setattr(prepare_stage, "make", lambda *_: lambda: table)
    (tmp_path / "prepare").mkdir()
    config = run_config(data={**CONFIG, "source": {"_target_": "any"}}, runs=str(tmp_path))
    result = prepare_stage.run(Stage(config, tmp_path / "prepare", {}))
    assert result.metrics["drift.user"] > 1 and result.metrics["drift.city"] < 0.01
    assert "look at: The table drifts: the label rate is " in capsys.readouterr().err


def test_a_rate_that_moves_by_chance_is_not_named() -> None:
    noisy = Drift({"train": 0.1, "valid": 0.13, "test": 0.1}, {"train": 0.001, "valid": 0.02, "test": 0.02}, {})
    sure = Drift(noisy.rates, dict.fromkeys(noisy.rates, 0.001), {})
    assert said(noisy) == "" and said(sure) == (
        "The table drifts: the label rate is 10.00% in training, 13.00% in validation and 10.00% in test: "
        "figures of validation may not hold later (stage refit trains on validation too)."
    )

"""Whole numbers: names of things whose order tells nothing, or quantities; and columns that tell too much."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recsys.commands.cli import main
from recsys.data.inspection.codes import jumps, scattered
from recsys.data.inspection.profile import guess_kind, profile

ROWS = 3000
BITS = {"40 bits": (0, 2**40), "32 bits": (0, 2**32), "64 bits": (-(2**63), 2**63 - 1), "12 digits": (10**11, 10**12)}
MIDNIGHT = int(datetime(2025, 3, 1, tzinfo=UTC).timestamp())


def kind(values, label):
    series = pl.Series("x", values)
    return guess_kind(series, profile(series), label.astype(np.float32), ROWS).settings.get("kind", "categorical")


def with_gaps(rng, values):
    """As floats, which is how pandas keeps whole numbers if some are missing."""
    return pl.Series([None if gap else float(v) for v, gap in zip(values, rng.random(ROWS) < 0.2, strict=True)])


def drawn_labels(rng, rate):
    return (rng.random(len(rate)) < rate).astype(np.float32)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(21, 2567), st.floats(0, 1.5), st.sampled_from(list(BITS)), st.booleans())
def test_categories_renamed_to_large_whole_numbers_are_categories(seed, size, skew, bits, informative):
    rng = np.random.default_rng(seed)
    share = (1 + np.arange(size)) ** -skew
    category = rng.choice(size, ROWS, p=share / share.sum())
    category[:21] = np.arange(21)  # as many as are no categories for being few
    renamed = np.unique(rng.integers(*BITS[bits], 2 * size))
    values = rng.permutation(renamed)[category]
    rate = rng.random(size)[category] if informative else np.full(ROWS, 0.3)
    label = drawn_labels(rng, rate)
    if len(np.unique(category)) > 0.9 * ROWS:
        return
    assert kind(values, label) == "categorical"
    assert kind(with_gaps(rng, values), label) == "categorical"


QUANTITIES = {
    "prices in cents": lambda rng: np.exp(rng.normal(8, 1.2, ROWS)).astype(np.int64),
    "prices that end in 99": lambda rng: np.exp(rng.normal(4, 1, ROWS)).astype(np.int64) * 100 + 99,
    "prices of houses": lambda rng: np.exp(rng.normal(22, 1, ROWS)).astype(np.int64) // 10**6 * 10**6,
    "even prices": lambda rng: rng.integers(1, 2000, ROWS) * 10**6 + 990_000,
    "counts": lambda rng: rng.poisson(40, ROWS),
    "rare counts": lambda rng: rng.geometric(0.01, ROWS),
    "views": lambda rng: np.exp(rng.normal(12, 3, ROWS)).astype(np.int64),
    "bytes": lambda rng: rng.integers(0, 2**40, ROWS),
    "incomes": lambda rng: np.exp(rng.normal(10, 1, ROWS)).astype(np.int64) // 1000 * 1000,
    "milliseconds": lambda rng: (MIDNIGHT + rng.integers(0, 30 * 86400, ROWS)) * 1000 + 7,
    "sessions": lambda rng: (MIDNIGHT + rng.choice(rng.integers(0, 30 * 86400, 500), ROWS)) * 1000 + 7,
    "nanoseconds": lambda rng: MIDNIGHT * 10**9 + rng.choice(rng.integers(0, 10**15, 500), ROWS),
    "rising": lambda rng: 10**12 + np.arange(ROWS) // 3 * 10**8,
}


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(list(QUANTITIES)))
def test_prices_counts_and_times_are_no_categories(seed, name):
    rng = np.random.default_rng(seed)
    values = QUANTITIES[name](rng)
    label = values > np.median(values)
    assert not scattered(pl.Series("x", values))
    assert kind(values, label) != "categorical"
    assert kind(with_gaps(rng, values), label) != "categorical"


def test_values_that_never_repeat_do_not_jump():
    """The difference of two AUCs that are .5 but for noise."""
    found = [
        jumps(pl.Series(rng.permutation(600)), drawn_labels(rng, np.full(600, 0.5)))
        for rng in map(np.random.default_rng, range(100))
    ]
    assert sum(found) <= 5


def test_hashed_ids_of_a_csv_with_gaps_are_a_vocabulary(tmp_path):
    rng = np.random.default_rng(0)
    shop = rng.integers(0, 10**12, 300)[rng.integers(0, 300, ROWS)]
    rows = [f"{'' if i % 9 == 0 else s},{rng.random():.6f},{rng.integers(0, 2)}" for i, s in enumerate(shop)]
    (tmp_path / "t.csv").write_text("shop,price,bought\n" + "\n".join(rows) + "\n")
    out = tmp_path / "t.yaml"
    assert main(["data", "guess", str(tmp_path / "t.csv"), "--label", "bought", "--out", str(out)]) == 0
    assert OmegaConf.to_container(OmegaConf.load(out))["fields"]["shop"] == {"min_count": 2}


def test_floats_past_2_53_that_are_hashes_are_codes_and_sums_are_not():
    rng = np.random.default_rng(0)
    label = drawn_labels(rng, np.full(ROWS, 0.3))
    hashes = rng.integers(2**60, 2**63, 300)[rng.integers(0, 300, ROWS)]
    assert kind(with_gaps(rng, hashes), label) == "categorical"
    assert kind(with_gaps(rng, np.round(rng.lognormal(60, 3, ROWS))), label) == "numeric"
    assert kind(pl.Series([*map(float, hashes[:-1]), np.inf]), label) == "numeric"


def test_no_column_is_dropped_beside_one_that_is_kept_and_tells_as_much(tmp_path, capfd):
    datasets = pytest.importorskip("sklearn.datasets")
    cancer = datasets.load_breast_cancer()
    table = pl.DataFrame(cancer.data, schema=list(cancer.feature_names)).with_columns(target=pl.Series(cancer.target))
    table.write_csv(tmp_path / "cancer.csv")
    out = tmp_path / "cancer.yaml"
    assert main(["data", "guess", str(tmp_path / "cancer.csv"), "--label", "target", "--out", str(out)]) == 0
    config = OmegaConf.to_container(OmegaConf.load(out))
    assert config["dropped"] == {}
    assert len(config["fields"]) == 30
    said = capfd.readouterr().err
    assert "look at worst perimeter: AUC 0.957 alone, as others nearly reach" in said
    assert "(62.74 % of the rows looked at have 1.)" in said

"""`recsys data report`: its figures against slow formulas, and the page through the command."""

import math
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from recsys.commands.cli import main
from recsys.commands.data.configs import load_config
from recsys.data.inspection.examine import examine, worries
from recsys.data.inspection.field_stats import coverage, number_stats, psi, unseen, value_stats
from recsys.data.inspection.page import html
from recsys.errors import ConfigError
from tests.pages import SCRIPT, runs

CONFIG = """name: shop
source: {_target_: recsys.data.sources.scan.scan, path: log.parquet}
label: click
time: at
split: {shares: [0.6, 0.2, 0.2], gap_days: 0}
fields: {item: {min_count: 3}, tags: {kind: multi, separator: "|"}, at: {kind: timestamp, parts: [hour]},
  price: {kind: numeric, encoding: log}, title: {kind: text, buckets: 64}, item_x_shop: {encoding: hash,
  inputs: [item, shop], buckets: 100}, days: {kind: numeric}, vector: {kind: vector}}
dropped: {note: no row has a value}
"""


def log(rows=5000):
    rng = np.random.default_rng(0)
    item = rng.integers(0, 40, rows) + (np.arange(rows) > 4000) * 30  # new ones in the test
    price = rng.lognormal(1, 1, rows)
    logit = rng.normal(0, 1, 80)[item] - np.log(price)
    return pl.DataFrame(
        {
            "at": [datetime(2024, 1, 1) + timedelta(minutes=10 * m) for m in range(rows)],
            "item": item,
            "shop": [f"s{s}" for s in rng.integers(0, 3, rows)],
            "tags": [
                "|".join(rng.choice(list("abcd"), n, replace=False)) if n else None for n in rng.integers(0, 4, rows)
            ],
            "title": [f"A {'red' if i % 2 else 'blue'} shoe" for i in item],
            "price": np.where(rng.random(rows) < 0.1, np.nan, price),
            "days": np.arange(rows, dtype=np.float64),
            "vector": rng.normal(size=(rows, 3)).tolist(),
            "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        },
        strict=False,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "log.parquet"
    log().write_parquet(path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch, written):
    shutil.copy(written, tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shop.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slow_psi(p, q):
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    pairs = [(max(a, 1e-4), max(b, 1e-4)) for a, b in zip(p, q, strict=True)]
    return sum((b - a) * math.log(b / a) for a, b in pairs)


def slow_auc(scores, labels):
    ones = [s for s, y in zip(scores, labels, strict=True) if y]
    zeros = [s for s, y in zip(scores, labels, strict=True) if not y]
    return sum((a > b) + 0.5 * (a == b) for a in ones for b in zeros) / len(ones) / len(zeros)


def test_psi_of_counts():
    p, q = np.array([10, 20, 70, 0]), np.array([30, 30, 30, 10])
    assert psi(p, q) == pytest.approx(slow_psi(p.tolist(), q.tolist()))
    assert psi(p, 7 * p) == pytest.approx(0, abs=1e-12)


def test_coverage_and_unseen_of_counts():
    counts = np.array([1, 50, 3, 2, 44])
    assert coverage(counts, top=2) == 0.94
    assert coverage(counts, least=3) == 0.97
    assert math.isnan(coverage(np.zeros(3)))
    assert unseen(np.array([5, 0, 1]), np.array([1, 2, 1])) == 0.5
    assert unseen(np.array([5]), np.array([0])) == 0


@pytest.mark.parametrize("listed", [False, True])
def test_facts_of_values_equal_slow_ones(listed):
    rng = np.random.default_rng(1)
    rows = [
        None if r < 0.1 else [f"v{v}" for v in rng.integers(0, 30, rng.integers(0 if listed else 1, 4))]
        for r in rng.random(600)
    ]
    rows = rows if listed else [r and r[:1] for r in rows]
    label = rng.integers(0, 2, 600).astype(np.float32)
    splits = {"train": np.arange(0, 300), "valid": np.arange(300, 400), "test": np.arange(400, 600)}
    column = pl.Series("x", rows if listed else [r and r[0] for r in rows])
    made = value_stats("x", "multi", column, splits, label, 5)

    inside = {s: [v for r in chosen for v in rows[r] or []] for s, chosen in splits.items()}
    count = {v: inside["train"].count(v) for v in set(inside["train"])}
    often = sorted(count.values(), reverse=True)
    assert made.distinct == len({v for r in rows for v in r or []})
    assert made.missing == pytest.approx(np.mean([not r for r in rows]))
    assert made.top == pytest.approx(sum(often[:10]) / sum(often))
    assert made.kept == pytest.approx(sum(n for n in often if n >= 5) / sum(often))
    assert made.unseen["test"] == pytest.approx(np.mean([v not in count for v in inside["test"]]))
    cut = often[19]  # ties at the cut leave the choice of the twentieth open: the bound covers them
    if often[20:21] != [cut]:
        top = [v for v, n in count.items() if n >= cut]

        def bins(s):
            missing = 0 if listed else sum(rows[r] is None for r in splits[s])
            shown = [inside[s].count(v) for v in top]
            return [*shown, len(inside[s]) - sum(shown), missing]

        assert made.drift["test"] == pytest.approx(slow_psi(bins("train"), bins("test")))
    mean = label[:300].mean()
    flat = [(v, label[r]) for r in splits["train"] for v in (rows[r] or ([] if listed else [None]))]
    base = np.mean([y for _, y in flat])

    def rate(v):
        hits = [y for w, y in flat if w == v]
        return (sum(hits) + 10 * base) / (len(hits) + 10)

    scores = [
        np.float32(np.mean([rate(v) for v in rows[r] or [None]]) if rows[r] or not listed else mean)
        for r in splits["valid"]
    ]
    assert made.auc == pytest.approx(slow_auc(scores, label[300:400]), abs=1e-6)


def test_facts_of_numbers_equal_slow_ones():
    rng = np.random.default_rng(2)
    x = rng.normal(size=500)
    x[300:] += 0.7
    x[::9] = np.nan
    label = (x + rng.normal(size=500) > 0.5).astype(np.float32)
    splits = {"train": np.arange(0, 300), "valid": np.arange(300, 400), "test": np.arange(400, 500)}
    made = number_stats("x", "numeric", pl.Series(x).fill_nan(None), splits, label)
    train, test = x[:300], x[400:]
    edges = np.quantile(train[~np.isnan(train)], np.arange(1, 10) / 10)

    def bins(values):
        return [
            sum(np.isnan(values)),
            *(sum(sum(v > edges) == i for v in values[~np.isnan(values)]) for i in range(10)),
        ]

    assert made.drift["test"] == pytest.approx(slow_psi(bins(train), bins(test)))
    known = test[~np.isnan(test)]
    assert made.unseen["test"] == pytest.approx(np.mean((known > np.nanmax(train)) | (known < np.nanmin(train))))
    assert made.missing == pytest.approx(np.isnan(x).mean())
    assert 0.6 < made.auc < slow_auc(x[300:400][~np.isnan(x[300:400])], label[300:400][~np.isnan(x[300:400])]) + 0.05


def test_every_kind_of_field_is_examined_as_preparation_splits_it(place):
    found = examine(load_config("shop"))
    assert [len(r) for r in found.splits.values()] == [3000, 1000, 1000]
    assert [f.name for f in found.fields] == [
        "item", "tags", "at_hour", "title", "item_x_shop", "price", "days", "vector",
    ]  # fmt: skip
    facts = {f.name: f for f in found.fields}
    frame = log()
    later = frame["item"][4000:].is_in(frame["item"][:3000].unique().to_list())
    assert facts["item"].unseen == {"valid": 0.0, "test": pytest.approx(1 - later.mean())}
    assert facts["at_hour"].distinct == 24
    assert facts["title"].distinct == 4
    assert facts["days"].unseen["test"] == 1
    told = worries(found)
    assert any(t.startswith("Drift") and "days" in t and "at_hour" not in t for t in told)
    assert any(t.startswith("Unseen") and "item (" in t for t in told)


def test_duplicates_and_rows_that_cross_into_the_test(place):
    rows = log().drop("at")
    rows = pl.concat([rows, rows[:100], rows[:50]])  # 100 twice in training, 50 of them in the test as well
    fold = pl.Series("fold", ["train"] * 4000 + ["test"] * 1000 + ["train"] * 100 + ["test"] * 50)
    rows.with_columns(fold).write_parquet("log.parquet")
    config = CONFIG.replace("time: at\n", "").replace("at: {kind: timestamp, parts: [hour]},", "")
    config = config.replace("{shares: [0.6, 0.2, 0.2], gap_days: 0}", "{column: fold, train: [train], test: [test]}")
    Path("data/shop.yaml").write_text(config)
    found = examine(load_config("shop"))
    assert found.repeated == pytest.approx(150 / 5150)
    crossing = np.isin(np.arange(50) + 5100, found.splits["test"]) & (
        np.isin(np.arange(50), found.splits["train"]) | np.isin(np.arange(50) + 5000, found.splits["train"])
    )
    assert found.crossing == pytest.approx(crossing.sum() / len(found.splits["test"]))
    assert found.crossing > 0.03
    assert any("repeat another" in t for t in worries(found))
    assert any("in training too" in t for t in worries(found))


def test_a_leak_comes_first_on_the_page_and_names_are_escaped(place):
    frame = log().with_columns((pl.col("click") * 3.0 + pl.col("days") % 2).alias("<b>paid"))
    frame.write_parquet("log.parquet")
    Path("data/shop.yaml").write_text(CONFIG.replace("fields: {", 'fields: {"<b>paid": {kind: numeric}, '))
    found = examine(load_config("shop"))
    page = html(found)
    assert worries(found)[0].startswith("<b>paid: leakage suspect: AUC 1.000")
    assert page.index("&lt;b&gt;paid: leakage suspect") < page.index("Splits")
    assert "<b>paid" not in page
    assert "no row has a value" in page


def test_the_command_writes_one_page_that_needs_no_network(place, capfd):
    assert main(["data", "report", "shop"]) == 0
    out = capfd.readouterr()
    assert out.out.splitlines()[-1] == "data/shop.html"
    page = Path("data/shop.html").read_text()
    assert "5,000 rows" in page
    assert 'src="http' not in page
    assert "Label rate over time" in page
    assert main(["data", "report", "data/shop.yaml", "--rows", "2000", "--out", "few.html"]) == 0
    assert "A random 2,000 of 5,000 rows" in Path("few.html").read_text()
    assert not list(place.glob("**/.*"))


def test_a_packaged_option_and_one_built_on_it_are_found(place):
    assert load_config("planted")["label"] == "click"
    Path("data/mine.yaml").write_text("defaults: [planted, _self_]\nname: mine\nsource: {rows: 9}\n")
    mine = load_config("mine")
    assert mine["name"] == "mine"
    assert mine["source"]["rows"] == 9
    assert mine["label"] == "click"


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "absent"), ("data/absent.yaml", "found none"), ("table", "no value for")]
)
def test_an_unknown_configuration_is_one_line(place, name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(name)
    assert len(str(caught.value).splitlines()) == 1


def big_numbers(place, kind):
    rng = np.random.default_rng(0)
    big = 2**63 - 1 - rng.integers(0, 1000, 3000)
    log(3000).with_columns(days=pl.Series(big)).write_parquet(place / "log.parquet")
    text = CONFIG.replace("days: {kind: numeric}", f"days: {kind}")
    (place / "data" / "shop.yaml").write_text(text)
    return big


def test_whole_numbers_near_the_end_of_their_range_are_read_as_codes_or_refused(place, capfd):
    big = big_numbers(place, "{}")
    found = next(f for f in examine(load_config("shop")).fields if f.name == "days")
    assert found.distinct == len(np.unique(big))
    big_numbers(place, "{kind: numeric}")
    assert main(["data", "report", "shop"]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("error: column 'days': expected numbers within ±2^53")
    assert "categorical" in said


@pytest.mark.parametrize(
    "values", [[1.8e19, 1.8e19, 1.8e19 + 4096], [-1.7e308, 0.0, 1.7e308], [1.0, 1.0], [1e-320, 3e-320]]
)
def test_a_histogram_of_any_numbers(values):
    x = np.array(values * 50)
    splits = {"train": np.arange(0, 60), "valid": np.arange(60, 80), "test": np.arange(80, len(x))}
    made = number_stats("x", "numeric", pl.Series(x), splits, np.arange(len(x)) % 2)
    assert sum(made.shape) == 60


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: shop", "name: a/b", "data.name: expected up to 100 letters of text without /"),
        ("name: shop", "name: /etc/shop", "data.name"),
        ("name: shop", "name: ..", "data.name"),
        ("name: shop", 'name: "a\\0b"', "data.name"),
        ("name: shop", "name: " + "a" * 101, "data.name"),
        ("label: click", "label: click\nweight: price", "data.fields.price: reads 'price', which is data.weight"),
        (
            "{item:",
            "{click: {}, item:",
            "reads 'click', which is data.label: remove the field (~data.fields.click)",
        ),
        ("buckets: 100}", "buckets: 99999999999}", "data.fields.item_x_shop.buckets: expected at most"),
        ("days: {kind: numeric}", "days: {encoding: bucket, buckets: 2000000000}", "data.fields.days.buckets"),
        ("kind: multi,", "kind: multi, max_length: 1048576,", "data.fields.tags.max_length: 65,536 rows are read"),
        ("label: click", "label: ${oc.env:NO_SUCH_ONE}", "NO_SUCH_ONE"),
        ("label: click", "label: ${label}", "data 'shop'"),
        ("fields: {", "fields: {{", "expected YAML, got line"),
        (CONFIG, "- a\n- b\n", "expected a mapping of keys"),
        (CONFIG, "name: \x07\n", "expected YAML"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(place, capfd, monkeypatch, old, new, message):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=64 << 30))
    assert old in CONFIG
    (place / "data" / "shop.yaml").write_text(CONFIG.replace(old, new))
    assert main(["data", "report", "shop"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert not (place / "data" / "shop.html").exists()


def test_no_name_in_the_page_runs(place):
    """A field that is made in preparation, one that is read, a dropped one, its reason, and the data set itself."""
    text = CONFIG.replace("name: shop", f"name: 'shop{SCRIPT.replace('/', ' ')}'")
    text = text.replace(
        "fields: {", f"group: shop\nfields: {{'p{SCRIPT}': {{kind: numeric, past: {{what: count, by: [shop]}}}}, "
    )
    text = text.replace("item: {min_count: 3}", f"'i{SCRIPT}': {{inputs: [item]}}")
    text = text.replace("note: no row has a value", f"'n{SCRIPT}': 'w{SCRIPT}'")
    (place / "data" / "shop.yaml").write_text(text)
    page = html(examine(load_config("shop")))
    assert runs(page) == []
    assert SCRIPT not in page
    assert all(f"{letter}&lt;script&gt;alert(1)" in page for letter in "pinw")

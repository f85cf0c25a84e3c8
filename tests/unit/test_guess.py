"""`recsys data guess`: each rule against a column made for it, and whole tables through the command."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from recsys.commands.cli import main
from recsys.data.inspection.decide import Given, guess
from recsys.data.inspection.documented import entry, write_yaml
from recsys.data.inspection.guess_split import choose
from recsys.data.inspection.leakage import binned, coded, held_out_auc, single_auc, suspects
from recsys.data.inspection.profile import as_time, guess_kind, heavy_tail, jumps, named_as_code, profile, separator_of
from recsys.data.inspection.sample import sample
from recsys.data.preparation.fields import data_fields, field_configs
from recsys.data.sources.scan import Scan
from recsys.errors import ConfigError

START = datetime(2024, 1, 1)


def kind(name, values, label=None, rows=None):
    series = pl.Series(name, values)
    label = np.arange(len(series)) % 2 if label is None else label
    return guess_kind(series, profile(series), label.astype(np.float32), rows or len(series)).settings


def loaded(path):
    """The file as Hydra reads it; its fields are those that preparation takes."""
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    field_configs(config["fields"])
    return config


def logistic(rng, logit):
    return (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.int64)


def event_log(rows=6000):
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 300, rows), rng.integers(0, 60, rows)
    price = rng.lognormal(2, 1.3, rows)
    click = logistic(rng, rng.normal(0, 1.2, 60)[item] - 0.4 * np.log(price))
    at = [START + timedelta(seconds=int(s)) for s in np.sort(rng.integers(0, 60 * 86400, rows))]
    wait = rng.integers(60, 4 * 86400, rows)
    return pa.table(
        {
            "event_id": [f"e{i:05d}" for i in range(rows)],
            "at": at,
            "user_id": [f"u{u}" for u in user],
            "item_id": item * 7 + 1000,
            "price": price,
            "conversion_time": [
                a + timedelta(seconds=int(w)) if c else None for a, w, c in zip(at, wait, click, strict=True)
            ],
            "refund_amount": np.where(click == 1, rng.random(rows) + 0.1, 0.0),
            "was_clicked": np.where(click == 1, "yes", "no"),
            "unclicked": 1 - click,
            "price_again": price,
            "shop": ["one"] * rows,
            "note": pa.nulls(rows, pa.string()),
            "click": click,
        }
    )


# — rules —


@pytest.mark.parametrize(
    ("name", "code"),
    [("id", 1), ("item_id", 1), ("zip", 1), ("adId", 1), ("country_code", 1), ("width", 0), ("paid", 0), ("video", 0)],
)
def test_names_of_codes(name, code):
    assert named_as_code(name) is bool(code)


def test_heavy_tail_is_skewness_that_log_mends():
    rng = np.random.default_rng(0)
    x = rng.lognormal(3, 1, 5000)
    log, before, after = heavy_tail(pl.Series(x))
    slow = [((v - v.mean()) ** 3).mean() / v.std() ** 3 for v in (x, np.log1p(x))]
    assert log
    np.testing.assert_allclose([before, after], slow, rtol=1e-6)
    assert not heavy_tail(pl.Series(rng.normal(5, 1, 5000)))[0]
    assert not heavy_tail(pl.Series(x - 60))[0], "much of it lies below 0"
    assert not heavy_tail(pl.Series(x / 1e6))[0], "log1p leaves small numbers as they are"


def test_whole_numbers_are_codes_where_the_label_jumps_from_value_to_value():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 200, 20_000)
    jump = logistic(rng, rng.normal(0, 1.5, 200)[x])
    rise = logistic(rng, (x - 100) / 40)
    assert jumps(pl.Series(x), jump)
    assert not jumps(pl.Series(x), rise)
    assert kind("x", x, jump) == {"min_count": 5}
    assert kind("x", x, rise)["kind"] == "numeric"
    assert kind("item_id", x, rise) == {"min_count": 5}
    assert kind("x", x % 10, rise) == {"min_count": 2}


def test_a_huge_vocabulary_is_hashed():
    settings = kind("uid", [f"u{i}" for i in range(250_000)])
    assert settings == {"encoding": "hash", "buckets": 2**19}


@pytest.mark.parametrize("mark", ["|", ";", ",", " "])
def test_separators_are_found(mark):
    rng = np.random.default_rng(2)
    values = [mark.join(f"t{t}" for t in rng.integers(0, 20, rng.integers(1, 5))) for _ in range(2000)]
    found, mean = separator_of(pl.Series(values))
    assert found == mark
    assert mean == pytest.approx(np.mean([len(v.split(mark)) for v in values]))
    assert kind("tags", values)["separator"] == mark


@pytest.mark.parametrize(
    "values",
    [
        [f"town {i}, state {i % 9}" for i in range(1000)],
        [f"name{i}" for i in range(1000)],
        ["new york", "los angeles", "rome", "paris"] * 100,
        ["a|b"] + ["c"] * 99,
    ],
)
def test_no_separator_where_the_parts_are_no_fewer(values):
    assert separator_of(pl.Series(values))[0] == ""


def test_text_lists_vectors_and_json():
    rng = np.random.default_rng(3)
    words = ["red", "blue", "warm", "cold", "shoe", "sock", "hat"]
    prose = [" ".join(rng.choice(words, 6)) + f" for the {i}th" for i in range(500)]
    assert kind("title", prose)["kind"] == "text"
    lists = [[f"t{t}" for t in rng.integers(0, 9, n)] for n in rng.integers(0, 6, 500)]
    assert kind("tags", lists) == {"kind": "multi", "min_count": 2, "max_length": 5}
    assert kind("v", rng.normal(size=(500, 4)).tolist()) == {"kind": "vector"}
    assert kind("tags", [json.dumps(v) for v in lists])["kind"] == "text"
    assert kind("s", [{"a": 1}] * 500) is None


def test_times_are_read_from_stamps_text_and_seconds():
    stamps = [START + timedelta(hours=h) for h in range(0, 2000, 7)]
    want = pl.Series(stamps).cast(pl.Datetime("us"))
    for form in (stamps, [f"{s:%Y-%m-%d %H:%M:%S}" for s in stamps], [f"{s:%Y-%m-%dT%H:%M:%S}" for s in stamps]):
        made = as_time(pl.Series(form))
        assert made is not None
        assert made.to_list() == want.to_list()
    made = as_time(pl.Series([1_700_000_000, 1_700_003_600]))
    assert made.to_list() == [datetime(2023, 11, 14, 22, 13, 20), datetime(2023, 11, 14, 23, 13, 20)]
    assert as_time(pl.Series([3, 1_700_000_000])) is None
    assert as_time(pl.Series(["2024-01-01", "soon"])) is None
    assert kind("at", stamps) == {"kind": "timestamp", "parts": ["hour", "weekday", "day"]}


# — leakage —


def test_held_out_auc_is_the_auc_of_the_other_halfs_rates():
    rng = np.random.default_rng(4)
    code, label = rng.integers(0, 12, 400), rng.integers(0, 2, 400)
    half, found = np.random.default_rng(0).permutation(400) % 2, []
    for held in (0, 1):
        fit = half != held
        rate = {
            c: (label[fit][code[fit] == c].sum() + 10 * label[fit].mean()) / ((code[fit] == c).sum() + 10)
            for c in range(12)
        }
        scores = [(rate[c], y) for c, y in zip(code[half == held], label[half == held], strict=True)]
        pairs = [(p > n) + 0.5 * (p == n) for p, y in scores if y for n, z in scores if not z]
        found.append(np.mean(pairs))
    assert held_out_auc(code, label) == pytest.approx(np.mean(found), abs=1e-6)


def test_codes_and_bins_keep_missing_apart():
    values = pl.Series([3.0, None, 1.0, 3.0, 2.0])
    assert coded(values).tolist() == [3, 0, 1, 3, 2]
    bins = binned(values, 2)
    assert bins[1] == 0
    assert bins[0] == bins[3] > bins[2] > 0


def suspected(columns, label, event=None):
    frame = pl.DataFrame(columns)
    aucs = {c.name: single_auc(c, label) for c in frame.iter_columns()}
    times = {c.name: t for c in frame.iter_columns() if (t := as_time(c)) is not None}
    return suspects(frame, label, "click", aucs, times, event)


def test_a_strong_honest_column_is_no_suspect_and_an_easy_table_is_only_named():
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 4000).astype(np.float32)
    assert suspected({"x": label * 1.5 + rng.normal(size=4000), "y": rng.normal(size=4000)}, label) == ({}, {})
    easy = {f"x{i}": label * s + rng.normal(size=4000) for i, s in enumerate([2.5, 2.6, 2.9])}
    sure, named = suspected(easy, label)
    assert not sure
    assert set(named) == {"x2"}


def test_two_leaks_do_not_hide_each_other():
    rng = np.random.default_rng(10)
    label = rng.integers(0, 2, 4000).astype(np.float32)
    noise = {f"x{i}": label * s + rng.normal(size=4000) for i, s in enumerate([0.2, 1.0, 2.2, 2.3])}
    sure, _ = suspected(noise, label)
    assert set(sure) == {"x2", "x3"}


def test_each_leak_is_found_and_says_why():
    rng = np.random.default_rng(6)
    rows = 4000
    label = (rng.random(rows) < 0.1).astype(np.float32)
    event = pl.Series([START + timedelta(minutes=m) for m in range(rows)])
    later = event.dt.offset_by("1h")
    sooner = event.dt.offset_by("-1h")
    chosen = pl.Series(label == 1)
    columns = {
        "total": label * 5 + rng.normal(size=rows),
        "reason": [None if y == 0 else "x" for y in label],
        "some": [("x" if y and r < 0.3 else None) for y, r in zip(label, rng.random(rows), strict=True)],
        "decided": later.zip_with(chosen, sooner),
        "expires": later,
        "click_price": label * 1.5 + rng.normal(size=rows),
        "click_width": rng.normal(size=rows),
        "honest": label + rng.normal(size=rows),
    }
    sure, named = suspected(columns, label, event)
    assert set(sure) == {"total", "reason", "some", "decided", "click_price"}
    assert set(named) == {"click_width"}
    assert "alone" in sure["total"]
    assert "missing" in sure["reason"]
    assert "with a value have label 1" in sure["some"]
    assert "after the event in 100% of the rows with label 1, else 0%" in sure["decided"]
    assert "name" in sure["click_price"]


# — tables —


def test_the_sample_is_even_and_whole_where_it_fits():
    table = pa.table({"x": np.arange(200_000)})
    all_of_it, total = sample(Scan.of(table), 200_000)
    assert total == 200_000
    assert all_of_it.equals(table)
    some, total = sample(Scan.of(table), 5000)
    x = some["x"].to_numpy()
    assert (total, len(x)) == (200_000, 5000)
    assert (np.diff(x) > 0).all()
    assert np.abs(np.histogram(x, 10)[0] - 500).max() < 5 * np.sqrt(500)


def test_an_event_log_with_planted_leaks(tmp_path, monkeypatch, capfd):
    pq.write_table(event_log(), tmp_path / "log.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "guess", "log.parquet", "--label", "click", "--group", "user_id", "--name", "shop"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "data/shop.yaml"
    config = loaded("data/shop.yaml")
    assert set(config["dropped"]) == {
        "event_id", "conversion_time", "refund_amount", "was_clicked", "unclicked", "price_again", "shop", "note",
    }  # fmt: skip
    why = config["dropped"]
    assert why["event_id"] == "an id unique per row"
    assert why["was_clicked"] == "a copy of the label"
    assert "turned round" in why["unclicked"]
    assert why["price_again"] == "an exact copy of price"
    assert "after the event" in why["conversion_time"]
    assert "leakage" in why["refund_amount"]
    assert config["time"] == "at"
    assert config["fields"] == {
        "at": {"kind": "timestamp", "parts": ["hour", "weekday"]},
        "user_id": {"min_count": 2},
        "item_id": {"min_count": 2},
        "price": {"kind": "numeric", "encoding": "piecewise_log"},
    }
    assert config["split"] == {"shares": [0.8, 0.1, 0.1], "gap_days": 1}, "3.8 days would cost too much of 60"
    before = Path("data/shop.yaml").read_text()
    assert main(["data", "guess", "log.parquet", "--label", "click", "--name", "shop"]) == 2
    assert "--force" in capfd.readouterr().err
    assert Path("data/shop.yaml").read_text() == before
    assert main(["data", "guess", "log.parquet", "--label", "click", "--name", "shop", "--force"]) == 0
    assert loaded("data/shop.yaml")["group"] is None


def test_several_labels_are_no_fields_and_others_than_the_main_one_may_be_missing(tmp_path, monkeypatch, capfd):
    buy = pa.array([None, *np.random.default_rng(1).integers(0, 2, 599)], pa.int64())
    pq.write_table(event_log(600).append_column("buy", buy), tmp_path / "log.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "guess", "log.parquet", "--label", "click,buy", "--name", "shop"]) == 0
    assert "run data=shop head=several" in capfd.readouterr().err
    config = loaded("data/shop.yaml")
    assert (config["label"], config["labels"]) == ("click", ["click", "buy"])
    assert "buy" not in config["fields"] | config["dropped"]
    data_fields(config)
    assert main(["data", "guess", "log.parquet", "--label", "click", "--name", "one"]) == 0
    config = loaded("data/one.yaml")
    assert "labels" in config and config["labels"] is None, "data.labels=… needs no +"
    with pytest.raises(ConfigError, match=r"reads 'buy', which is data.labels: remove the field \(~data.fields.buy\)"):
        data_fields({**config, "labels": ["click", "buy"]})


def test_the_gap_is_as_long_as_labels_take_to_be_known():
    rng = np.random.default_rng(9)
    event = pl.Series([START + timedelta(hours=h) for h in range(4000)])
    wait, label = rng.uniform(0, 4 * 24, 4000), rng.integers(0, 2, 4000)
    known = pl.Series([e + timedelta(hours=w) if y else None for e, w, y in zip(event, wait, label, strict=True)])
    roles = {"time": "at", "group": None, "split": None}
    split, why = choose(pl.DataFrame({"at": event}), {"at": event, "paid": known}, label, roles, {"paid": "leakage: x"})
    assert split["gap_days"] == pytest.approx(np.quantile(wait[label == 1], 0.95) / 24, abs=0.02)
    assert "by paid" in why


def test_a_wide_numeric_table(tmp_path):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(1500, 200))
    x[:, 5] = np.exp(2 * x[:, 5])
    y = logistic(rng, x[:, 0] - x[:, 1])
    names = [f"x{i}" for i in range(200)]
    pl.DataFrame(x, schema=names).with_columns(y=pl.Series(y), flag=pl.Series(x[:, 7] > 0)).write_csv(
        tmp_path / "wide.csv"
    )
    made = guess(Given(str(tmp_path / "wide.csv"), "y", name="wide"))
    fields = made.config["fields"]
    assert {n: f for n, f in fields.items() if n != "flag"} == {
        n: {"kind": "numeric", "encoding": "log"} if n == "x5" else {"kind": "numeric"} for n in names
    }
    assert fields["flag"] == {}
    assert made.config["split"] == {"shares": [0.8, 0.1, 0.1], "seed": 0}
    assert made.config["dropped"] == {}


def test_separated_strings_and_lists_from_json_lines(tmp_path):
    rng = np.random.default_rng(8)
    rows = []
    for i in range(1200):
        genres = rng.choice(["drama", "comedy", "crime", "war"], rng.integers(1, 4), replace=False).tolist()
        seen = [int(s) for s in rng.integers(0, 30, rng.integers(0, 6))]
        rows.append(
            {"user": f"u{i % 40}", "genres": "|".join(genres), "seen": seen, "topic": rng.normal(size=3).tolist()}
        )
        rows[-1]["liked"] = ["no", "yes"][int(rng.random() < 0.2 + 0.5 * ("drama" in genres))]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "data" / "films.yaml"
    assert (
        main(["data", "guess", str(tmp_path / "films.jsonl"), "--label", "liked", "--group", "user", "--out", str(out)])
        == 0
    )
    config = loaded(out)
    assert config["fields"]["genres"] == {"kind": "multi", "separator": "|", "min_count": 2, "max_length": 3}
    assert config["fields"]["seen"] == {"kind": "multi", "min_count": 2, "max_length": 5}
    assert config["fields"]["topic"] == {"kind": "vector"}
    assert config["split"] == {"shares": [0.8, 0.1, 0.1], "by": "user", "seed": 0}


def test_the_split_of_a_column_and_of_files(tmp_path):
    table = event_log(600).select(["item_id", "price", "click"])
    part = np.where(np.arange(600) < 400, "Training", "holdout")
    pq.write_table(table.append_column("fold", pa.array(part)), tmp_path / "one.parquet")
    made = guess(Given(str(tmp_path / "one.parquet"), "click", split="fold", name="one"))
    assert made.config["split"] == {"column": "fold", "train": ["Training"], "test": ["holdout"], "valid_share": 0.1}
    assert "fold" not in made.config["fields"]
    for name, rows in (("train", table[:400]), ("valid", table[400:500]), ("test", table[500:])):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    files = [a for s in ("train", "valid", "test") for a in (f"--{s}", str(tmp_path / f"{s}.parquet"))]
    out = tmp_path / "three.yaml"
    assert main(["data", "guess", *files, "--label", "click", "--out", str(out)]) == 0
    config = loaded(out)
    assert config["split"] == {"column": "split", "train": ["train"], "valid": ["valid"], "test": ["test"]}
    assert set(config["source"]["path"]) == {"train", "valid", "test"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "absent"], "expected a column 'absent'"),
        (["--label", "item_id"], "expected only 0 and 1"),
        (["--label", "shop"], "label 'shop'"),
        (["--label", "click", "--time", "user_id"], "--time: column 'user_id': expected a time like"),
        (["--label", "click", "--group", "who"], "--group: expected a column"),
        (["--label", "click", "--split", "shop"], "expected values such as train"),
        (["--label", "click", "--rows", "1"], "--rows"),
        (["--label", "click", "--train", "log.parquet"], "either FILE"),
        (["--label", "click", "--name", "a b"], "--name"),
        (["--label", "click,buy"], "expected a column 'buy'"),
        (["--label", "click,click"], "expected different columns"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    pq.write_table(event_log(300), tmp_path / "log.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "guess", "log.parquet", *arguments]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "data").exists()


def test_yaml_keeps_awkward_names(tmp_path):
    fields = {n: {"separator": "|"} for n in ("yes", "7", "a: b", "äö", "x#y", 'q"q', "null", "a.b")}
    path = tmp_path / "odd.yaml"
    path.write_text(write_yaml({"label": "no", "path": "${x}", "fields": fields}, {"fields.7": "line\nbreak # x"}))
    assert OmegaConf.to_container(OmegaConf.load(path), resolve=True) == {
        "label": "no",
        "path": "${x}",
        "fields": fields,
    }
    assert entry("plain_name-1.x") == "plain_name-1.x"


def test_an_unknown_subcommand_and_help(capsys):
    assert main(["data", "fly"]) == 2
    assert main(["data"]) == 0
    assert "recsys data guess clicks.csv" in capsys.readouterr().out


# — whole numbers past 2^53 —


def near_the_end(rng, rows):
    return 2**63 - 1 - rng.integers(0, 1000, rows)


def test_whole_numbers_that_floats_cannot_tell_apart_are_codes():
    rng = np.random.default_rng(11)
    big = near_the_end(rng, 3000)
    assert np.unique(big.astype(np.float64)).size < 3
    assert kind("x", big) == {"min_count": 2}
    assert kind("x", -big)["min_count"] == 2
    assert kind("x", pl.Series(big, dtype=pl.UInt64) + 2**62) == {"min_count": 2}
    nanoseconds = 1_700_000_000_000_000_000 + rng.integers(0, 10**15, 3000)
    late = (nanoseconds > np.median(nanoseconds)).astype(np.int64)
    assert kind("x", nanoseconds, late)["kind"] == "numeric", "they stay apart as floats"
    assert kind("x", [1e200, 1.0, 2.0, 3.0] * 50) == {"kind": "numeric", "encoding": "log"}


def test_columns_of_ids_that_are_one_as_floats_are_no_copies(tmp_path):
    rng = np.random.default_rng(12)
    first, second = near_the_end(rng, 2000), near_the_end(rng, 2000)
    pq.write_table(pa.table({"a": first, "b": second, "y": rng.integers(0, 2, 2000)}), tmp_path / "t.parquet")
    made = guess(Given(str(tmp_path / "t.parquet"), "y", name="t"))
    assert made.config["fields"] == {"a": {"min_count": 2}, "b": {"min_count": 2}}


# — weights and tables of nothing else —


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("weight", [0.5, 2.0, 1.0], True),
        ("Sample_Weight", [1.5, 2.5, 3.5], True),
        ("importance", [3, 1, 2], True),
        ("weight", [0.0, 1.0, 2.5], False),
        ("weight", [-1.0, 1.0, 2.5], False),
        ("weight", [None, 1.0, 2.5], False),
        ("weight", ["a", "b", "c"], False),
        ("net_weight", [0.5, 2.0, 1.0], False),
    ],
)
def test_a_column_of_weights_is_proposed_as_such(tmp_path, capfd, name, values, found):
    rng = np.random.default_rng(13)
    table = pl.DataFrame({"x": rng.integers(0, 9, 900), name: values * 300, "y": rng.integers(0, 2, 900)})
    table.write_parquet(tmp_path / "t.parquet")
    out = tmp_path / "t.yaml"
    assert main(["data", "guess", str(tmp_path / "t.parquet"), "--label", "y", "--out", str(out)]) == 0
    config = loaded(out)
    assert config["weight"] == (name if found else None)
    assert (name in config["fields"]) is not found
    assert ("Found by its name" in " ".join(out.read_text().split())) is found
    assert (f"weight: {name}" in capfd.readouterr().err) is found


@pytest.mark.parametrize(
    ("columns", "message"),
    [([], "no column but the label 'y'"), (["weight"], "no column is left for a field but the weight 'weight'")],
)
def test_a_table_without_a_field_is_told_so(tmp_path, capfd, columns, message):
    rng = np.random.default_rng(14)
    table = {c: rng.random(300) + 1 for c in columns} | {"y": rng.integers(0, 2, 300)}
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    assert main(["data", "guess", str(tmp_path / "t.parquet"), "--label", "y", "--out", str(tmp_path / "t.yaml")]) == 2
    assert message in capfd.readouterr().err

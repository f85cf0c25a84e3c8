"""`recsys data guess` and times: what preparation reads as times is found, what only looks like them is named."""

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recsys.commands.cli import main
from recsys.data.inspection.profile import guess_kind, profile
from recsys.data.inspection.sample import plain
from recsys.data.inspection.times import as_time, untaken
from recsys.data.preparation.columns import instants
from recsys.data.preparation.prepare import prepare
from recsys.data.sources.scan import scan
from recsys.errors import DataError
from recsys.features.values import instant

START = datetime(2025, 3, 1)
MOMENTS = st.lists(st.datetimes(datetime(2001, 9, 10), datetime(2037, 12, 31)), min_size=3, max_size=20)
ZONES = ("", "Z", " UTC", "+00:00", "+02:00", "-0330", "+05", " +02:00", "UTC", " CET")
CLOCKS = ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M:%S,%f", "%H:%M", "%H%M%S", "%H", "%I:%M %p", "%H.%M")
DAYS = ("%Y-%m-%d", "%Y%m%d", "%G-W%V-%u", "%Y/%m/%d", "%d.%m.%Y", "%b %d, %Y", "%Y-%j", "%y-%m-%d")


def spellings() -> list[str]:
    """Formats of which preparation takes some."""
    return [*DAYS, *(day + mark + clock for day in DAYS for mark in "T _" for clock in CLOCKS)]


def taken(text: str) -> bool:
    try:
        return instant(text, "at") is not None
    except DataError:
        return False


TAKEN = [(f, z) for f in spellings() for z in ZONES if taken(START.strftime(f) + z)]


def test_preparation_takes_many_spellings_and_not_all():
    assert 50 < len(TAKEN) < len(spellings()) * len(ZONES) / 2
    assert ("%Y-%m-%dT%H:%M:%S.%f", "Z") in TAKEN
    assert ("%Y-%m-%d %H:%M:%S.%f", " UTC") in TAKEN


@settings(deadline=None)
@given(MOMENTS, st.sampled_from(TAKEN), st.booleans())
def test_every_text_that_preparation_takes_is_found(moments, spelling, blank):
    shape, zone = spelling
    texts = [m.strftime(shape) + zone for m in moments] + [""] * blank
    same_as_preparation(pa.array(texts))


@settings(deadline=None)
@given(MOMENTS, st.sampled_from(["s", "ms", "us", "ns"]), st.sampled_from([None, "UTC", "Europe/Berlin"]))
def test_every_type_that_preparation_takes_is_found(moments, unit, zone):
    whole = [m.replace(microsecond=0, tzinfo=UTC if zone else None) for m in moments] + [None]
    seconds = [m and int(m.replace(tzinfo=UTC).timestamp()) for m in whole]
    same_as_preparation(pa.array(whole, pa.timestamp(unit, zone)))
    same_as_preparation(pa.array([m and m.date() for m in whole], pa.date32()))
    for kind in (pa.int64(), pa.int32(), pa.uint64(), pa.float64()):
        same_as_preparation(pa.array(seconds, kind))
    same_as_preparation(pa.array([m and m.isoformat() for m in whole]).dictionary_encode())


def same_as_preparation(column: pa.Array) -> None:
    us_B, there_B = instants(column.cast(column.type.value_type) if hasattr(column.type, "value_type") else column, "x")
    found = as_time(plain(pa.table({"x": column}))["x"])
    assert found is not None, column[0]
    assert found.to_physical().to_list() == [int(u) if t else None for u, t in zip(us_B, there_B, strict=True)]


@pytest.mark.parametrize(
    ("name", "seconds", "is_time"),
    [
        ("timestamp", 874_965_758, True),  # MovieLens
        ("rated_at", 874_965_758, True),
        ("price", 874_965_758, False),
        ("price", 1_574_965_758, True),
        ("item_id", 1_574_965_758, False),
        ("timestamp", 1_000, False),
    ],
)
def test_numbers_are_times_by_their_range_and_name(name, seconds, is_time):
    assert (as_time(pl.Series(name, [seconds, seconds + 7200])) is not None) is is_time


def test_a_moment_after_2200_is_dropped_with_the_reason():
    values = pl.Series("until", [date(2025, 3, 1), date(9999, 12, 31)] * 50)
    guessed = guess_kind(values, profile(values), np.arange(100) % 2, 100)
    assert guessed.settings is None
    assert "from 1900 to 2200" in guessed.cautions[0]


# — through the command —


def log(path, spell, rows=400):
    """Rows out of order, so that the order of time is not that of the file."""
    rng = np.random.default_rng(0)
    moments = [START + timedelta(seconds=int(s), milliseconds=7) for s in rng.integers(0, 40 * 86400, rows)]
    lines = [{"at": spell(m), "user": f"u{i % 20}", "click": int(rng.random() < 0.5)} for i, m in enumerate(moments)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return moments


SPELLED = {
    "JavaScript": lambda m: m.isoformat(timespec="milliseconds") + "Z",
    "offset": lambda m: m.isoformat(timespec="milliseconds") + "+00:00",
    "BigQuery": lambda m: m.isoformat(" ", timespec="milliseconds") + " UTC",
    "summer": lambda m: (m + timedelta(hours=2)).isoformat(timespec="milliseconds") + "+02:00",
}


@pytest.mark.parametrize(("spell", "named"), [*((s, []) for s in SPELLED), ("BigQuery", ["--time", "at"])])
def test_a_log_with_fractions_and_zones_is_split_by_time(tmp_path, spell, named):
    moments = log(tmp_path / "log.jsonl", SPELLED[spell])
    out = tmp_path / "log.yaml"
    assert main(["data", "guess", str(tmp_path / "log.jsonl"), "--label", "click", "--out", str(out), *named]) == 0
    config = OmegaConf.to_container(OmegaConf.load(out))
    assert config["time"] == "at"
    assert config["fields"]["at"] == {"kind": "timestamp", "parts": ["hour", "weekday"]}
    assert config["split"] == {"shares": [0.8, 0.1, 0.1], "gap_days": 1}
    assert f"{min(moments):%Y-%m-%d %H:%M} to {max(moments):%Y-%m-%d %H:%M}" in " ".join(out.read_text().split())
    prepare(config, lambda: scan(str(tmp_path / "log.jsonl")), tmp_path / "prepared")
    assert main(["data", "report", str(out), "--out", str(tmp_path / "report.html")]) == 0


def guessed(tmp_path, capfd, *arguments):
    code = main(["data", "guess", *arguments, "--label", "click", "--out", str(tmp_path / "t.yaml"), "--force"])
    return code, capfd.readouterr().err


@pytest.mark.parametrize("scale", [3, 6, 9])
def test_a_smaller_unit_than_seconds_is_named(tmp_path, capfd, scale):
    unit = {3: "milliseconds", 6: "microseconds", 9: "nanoseconds"}[scale]
    path = str(tmp_path / "log.jsonl")
    log(tmp_path / "log.jsonl", lambda m: int(m.replace(tzinfo=UTC).timestamp()) * 10**scale)
    code, said = guessed(tmp_path, capfd, path)
    assert code == 0
    assert f"look at at: not read as a time: these look like {unit}: divide by {10**scale:,}" in said
    assert f"LOOK: not read as a time: these look like {unit}" in (tmp_path / "t.yaml").read_text().replace(
        "\n  # ", " "
    )
    code, said = guessed(tmp_path, capfd, path, "--time", "at")
    assert code == 2
    assert "error: --time: column 'at': expected a time from 1900 to 2200" in said
    assert f"these look like {unit}: send seconds" in said


@pytest.mark.parametrize(
    "spell",
    [
        lambda m: f"{m:%d/%m/%Y %H:%M}",
        lambda m: f"{m:%Y/%m/%d}",
        lambda m: f"{m:%a %b %d %H:%M:%S %Y}",
        lambda m: f"{m:%a, %d %b %Y %H:%M:%S} GMT",
        lambda m: f"{m:%B %d, %Y}",
        lambda m: f"{m:%d.%m.%Y}",
        lambda m: "unknown" if m.minute == 7 else f"{m:%Y-%m-%d %H:%M:%S}",
        lambda m: int(f"{m:%Y%m%d}"),
        lambda m: "" if m.minute == 7 else f"{m:%Y-%m-%d %H:%M:%S}",
    ],
)
def test_what_looks_like_a_time_and_is_not_taken_as_one_is_named(tmp_path, capfd, spell):
    log(tmp_path / "log.jsonl", spell)
    code, said = guessed(tmp_path, capfd, str(tmp_path / "log.jsonl"))
    assert code == 0
    assert "time: null" in said
    assert "look at at: " in said


@pytest.mark.parametrize(
    "values",
    [
        ["red", "blue", "green"],
        ["1-2-3", "4-5-6", "10-20-30"],
        ["sold 3 May", "the 2025-03-01 edition of", "Mar"],
        ["192.168.10.1", "10.0.0.12", "127.0.0.1"],
        [1.5, 2.5, 1e12],
        [20_250_301, 20_251_301, 20_250_302],
        [4_006_381_333_931, 5_901_234_123_457, 1_006_381_333_931],
        [12, 1_740_787_200_000, 13],
    ],
)
def test_what_does_not_look_like_a_time_is_not_named(values):
    assert as_time(pl.Series("x", values)) is None
    assert untaken(pl.Series("x", values)) == ""


def test_the_counts_of_the_headline_agree(tmp_path, capfd):
    rng = np.random.default_rng(1)
    table = pl.DataFrame({"x": rng.random(300), "same": [1] * 300, "click": rng.integers(0, 2, 300)})
    table.write_parquet(tmp_path / "t.parquet")
    _, said = guessed(tmp_path, capfd, str(tmp_path / "t.parquet"))
    assert "1 field, 1 column dropped" in " ".join(said.split())
    assert f"({100 * table['click'].mean():.2f} % of the rows looked at have 1.)" in said


def split_of(tmp_path, moments, label):
    """What `data guess` writes, and the rows and labels of each split by it."""
    pl.DataFrame({"at": moments, "x": range(len(label)), "y": label}).write_parquet(tmp_path / "t.parquet")
    out = tmp_path / "t.yaml"
    assert main(["data", "guess", str(tmp_path / "t.parquet"), "--label", "y", "--time", "at", "--out", str(out)]) == 0
    split = OmegaConf.to_container(OmegaConf.load(out))["split"]
    parts = {}
    for name in ("train", "valid", "test"):
        start, end = (datetime.fromisoformat(t) for t in split[name])
        parts[name] = [y for t, y in zip(moments, label, strict=True) if start <= t < end]
    return split, parts


def test_years_are_split_whole_and_no_row_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    moments = [datetime(2010 + int(y), 7, 1) for y in rng.integers(0, 6, 3000)]
    split, parts = split_of(tmp_path, moments, rng.integers(0, 2, 3000).tolist())
    assert split["test"] == ["2015-07-01", "2015-07-01T00:00:01"] and split["valid"] == ["2014-07-01", "2015-07-01"]
    assert sum(map(len, parts.values())) == 3000


def test_newest_labels_that_are_all_alike_do_not_fill_a_split(tmp_path):
    rng = np.random.default_rng(0)
    moments = [datetime(2020, 1, 1) + timedelta(hours=i) for i in range(3000)]
    label = np.r_[rng.integers(0, 2, 2600), np.ones(400, int)].tolist()
    _, parts = split_of(tmp_path, moments, label)
    assert sum(map(len, parts.values())) == 3000
    assert all(min(part.count(0), part.count(1)) >= 10 for part in parts.values())

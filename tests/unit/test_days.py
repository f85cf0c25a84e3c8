"""The rows of days: encoded as `prepare` encodes them, counted as a loop counts them."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.daily_settings import Daily, check_daily
from recsys.data.preparation.days import DAY, DayRows, Span
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.errors import ConfigError, DataError
from recsys.features.encoders import encoder_from_json
from recsys.features.row_encoder import read_encoders
from recsys.features.schema import Schema

SPLIT = {"train": ["2017-01-01", "2017-01-11"], "valid": ["2017-01-11", "2017-01-13"], "test": ["2017-01-13", "2018"]}
SPLIT["test"][1] = "2017-02-01"
CONFIG: dict[str, Any] = {
    "name": "shop",
    "label": "click",
    "time": "at",
    "group": "user",
    "weight": "w",
    "split": SPLIT,
    "fields": {
        "user": {"min_count": 3},
        "item": {},
        "seen": {"kind": "multi", "table": "item", "max_length": 3},
        "before": {"kind": "numeric", "past": {"what": "rate", "by": ["user"]}},
        "price": {"kind": "numeric", "encoding": "piecewise", "buckets": 4},
    },
}


def shop(**changed: Any) -> pa.Table:
    """Rows in no order of time."""
    r = np.random.default_rng(0)
    hours = r.permutation(600)
    columns = {
        "at": np.datetime64("2017-01-01", "s") + hours.astype("timedelta64[h]"),
        "user": r.integers(0, 40, 600),
        "item": [f"i{i}" for i in r.integers(0, 30, 600)],
        "seen": [[f"i{i}" for i in r.integers(0, 30, k)] for k in r.integers(0, 5, 600)],
        "price": r.normal(size=600),
        "w": r.integers(1, 3, 600).astype(float),
        "click": r.integers(0, 2, 600) * 2 - 1,
    }
    return pa.table({**columns, **changed})


def read(folder: Path, table: pa.Table, schema: Schema) -> DayRows:
    folder.mkdir()
    return DayRows.read(CONFIG, lambda: table, schema, folder)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(CONFIG, shop, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def rows(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DayRows]:
    held = read(tmp_path_factory.mktemp("rows") / "spool", shop(), Schema.load(fitted / "schema.json"))
    yield held
    held.close()


def span(start: str, stop: str) -> Span:
    return Span.between(datetime.fromisoformat(start), datetime.fromisoformat(stop))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_day_is_encoded_as_a_split_is(rows: DayRows, fitted: Path, tmp_path: Path, split: str) -> None:
    schema = Schema.load(fitted / "schema.json")
    encoders = {n: encoder_from_json(e) for n, e in read_encoders(fitted).items()}
    facts = rows.write(tmp_path / "data", "day", span(*SPLIT[split]), schema, encoders)
    ours, theirs = Shards(tmp_path / "data", "day").batch(slice(None)), Shards(fitted, split).batch(slice(None))
    assert facts.rows == len(ours.ids_BL) == rows.count(span(*SPLIT[split]))
    for name in ("ids_BL", "dense_BN", "label_BT", "weight_B"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("field", ["user", "item"])
def test_values_are_counted_as_in_a_loop(rows: DayRows, field: str) -> None:
    start, stop = datetime(2017, 1, 3), datetime(2017, 1, 8)
    inside = [r for r in shop().to_pylist() if start <= r["at"] < stop]
    seen = rows.seen(field, span("2017-01-03", "2017-01-08"))
    assert dict(zip(seen.values, seen.count_V, strict=True)) == Counter(str(r[field]) for r in inside)
    last: dict[str, int] = {}
    for r in inside:
        last[str(r[field])] = max(last.get(str(r[field]), 0), (r["at"] - datetime(1970, 1, 1)).days)
    assert dict(zip(seen.values, seen.last_V, strict=True)) == last
    assert span("2017-01-03", "2017-01-08").last_day == (stop - datetime(1970, 1, 1)).days


def test_a_span_without_rows_is_named(rows: DayRows, fitted: Path, tmp_path: Path) -> None:
    message = "expected rows from 2018-03-01.* to 2018-03-02.*, found none: the table has rows from 2017-01-01 to"
    with pytest.raises(DataError, match=message):
        rows.write(tmp_path, "day", span("2018-03-01", "2018-03-02"), Schema.load(fitted / "schema.json"), {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": [f"u{i % 40}" for i in range(600)]}, "column 'user': expected int, as on the first day, got string"),
        ({"at": pa.array([None] * 600, pa.timestamp("s"))}, "time 'at': expected one in every row"),
    ],
)
def test_a_table_of_another_kind_is_refused(fitted: Path, tmp_path: Path, changed: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "spool", shop(**changed), Schema.load(fitted / "schema.json"))


def test_periods_follow_one_another_and_leave_time_for_labels() -> None:
    days = list(Daily(days=7, delay_days=28, end="2017-06-01").periods(5, datetime(2017, 4, 1), datetime(2018, 1, 1)))
    assert [d.number for d in days] == [5, 6, 7]
    assert (days[1].start, days[1].stop) == ("2017-04-08T00:00:00", "2017-04-15T00:00:00")
    assert (days[1].scored_start, days[1].scored_stop) == ("2017-05-13T00:00:00", "2017-05-20T00:00:00")
    assert days[-1].scored_stop <= "2017-06-01T00:00:00"


@pytest.mark.parametrize(
    ("daily", "split", "message"),
    [
        (None, SPLIT, "stage daily needs the key daily"),
        (Daily(), {**SPLIT, "shares": [0.8, 0.1, 0.1]}, "dates alone.*~data.split.shares removes it"),
        (Daily(), {"column": "part", "train": 1, "valid": 2, "test": 3}, "dates alone.*~data.split.column"),
        (Daily(days=7, delay_days=28, end="2017-02-20"), SPLIT, "daily.end: expected 2017-02-22 or later"),
    ],
)
def test_days_that_cannot_be(daily: Daily | None, split: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_daily(daily, {**CONFIG, "split": split})


def test_an_end_that_is_no_date() -> None:
    with pytest.raises(ConfigError, match="daily.end: expected an ISO date, got 'soon'"):
        Daily(end="soon")
    with pytest.raises(ConfigError, match="daily.end: expected a date without a time zone"):
        Daily(end="2017-12-03T00:00:00+00:00")
    assert DAY == 24 * 3600 * 10**6

"""Past-only features against a row-by-row loop, and at serving against training."""

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.preparation.prepare import prepare
from recsys.errors import ConfigError, DataError
from recsys.features.derived import Past
from recsys.features.past import Order
from recsys.features.row_encoder import RowEncoder
from recsys.features.schema import Schema

DAY = 86_400


def events(rows: int = 400, seed: int = 0) -> pa.Table:
    """An event log in no order, with ties in time and gaps in the key."""
    r = np.random.default_rng(seed)
    return pa.table(
        {
            "user": [None if u == 0 else f"u{u}" for u in r.integers(0, 9, rows)],
            "item": [None if i == 0 else int(i) for i in r.integers(0, 12, rows)],
            "at": pa.array(r.integers(0, 60, rows) * DAY // 2, pa.timestamp("s")),
            "click": (r.random(rows) < 0.4).astype(np.int8),
        }
    )


FIELDS: dict[str, Any] = {
    "user": {"min_count": 1},
    "item": {"min_count": 1},
    "recent": {"kind": "sequence", "table": "item", "max_length": 4}
    | {"past": {"what": "last", "of": "item", "by": ["user"]}},
    "clicked": {"kind": "sequence", "table": "item", "max_length": 3}
    | {"past": {"what": "last", "of": "item", "by": ["user"], "where": "positive", "delay_days": 2}},
    "count": {"kind": "numeric", "past": {"what": "count", "by": ["user", "item"]}},
    "clicks": {"kind": "numeric", "past": {"what": "count", "by": ["user"], "where": "positive"}},
    "count_bucket": {"encoding": "bucket", "buckets": 4, "past": {"what": "count", "by": ["user"]}},
    "since": {"kind": "numeric", "encoding": "log", "past": {"what": "days_since", "by": ["user"]}},
    "since_skip": {"kind": "numeric"}
    | {"past": {"what": "days_since", "by": ["user", "item"], "where": "negative", "delay_days": 4}},
    "rate": {"kind": "numeric", "past": {"what": "rate", "by": ["item"], "delay_days": 3, "prior": 5}},
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "name": "log",
    "label": "click",
    "time": "at",
    "split": {"shares": [0.6, 0.2, 0.2]},
    "fields": FIELDS,
}


def slow(rows: list[dict[str, Any]], i: int, rate: float) -> dict[str, Any]:
    """What row i may know of the others, one by one."""
    now = rows[i]
    day = {id(r): r["at"].timestamp() / DAY for r in rows}

    def before(*by: str, delay: float = 0) -> list[dict[str, Any]]:
        if any(now[c] is None for c in by):
            return []
        same = [r for r in rows if all(r[c] == now[c] for c in by) and day[id(r)] < day[id(now)] - delay]
        return sorted(same, key=lambda r: day[id(r)])

    known = before("item", delay=3)
    mine = before("user")
    skipped = [r for r in before("user", "item", delay=4) if not r["click"]]
    return {
        "clicks": math.nan if now["user"] is None else sum(r["click"] for r in mine),
        "since_skip": day[id(now)] - day[id(skipped[-1])] if skipped else math.nan,
        "clicked": [r["item"] for r in reversed(before("user", delay=2)) if r["item"] is not None and r["click"]][:3],
        "count": math.nan if None in (now["user"], now["item"]) else len(before("user", "item")),
        "count_bucket": math.nan if now["user"] is None else len(mine),
        "since": day[id(now)] - day[id(mine[-1])] if mine else math.nan,
        "rate": math.nan if now["item"] is None else (sum(r["click"] for r in known) + 5 * rate) / (len(known) + 5),
        "recent": [r["item"] for r in reversed(mine) if r["item"] is not None][:4],
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_training_sees_the_past_and_nothing_else(tmp_path: Path, seed: int) -> None:
    table = events(seed=seed)
    folder = prepare(CONFIG, lambda: table, tmp_path)
    schema = Schema.load(folder / "schema.json")
    rows = table.to_pylist()
    rate = schema["rate"].past.rate  # type: ignore[union-attr]
    golden = json.loads((folder / "golden_rows.json").read_text())
    test_ids = np.load(folder / "test" / "ids.npy")
    cut = sorted(r["at"] for r in rows)[int(0.8 * len(rows))]
    tests = [i for i, r in enumerate(rows) if r["at"] >= cut]
    assert len(golden) == len(tests) == len(test_ids)
    ties = dict.fromkeys(("recent", "clicked"), 0)
    for i, row in zip(tests, golden, strict=True):
        want = slow(rows, i, rate)
        for name in ("count", "count_bucket", "clicks", "since", "since_skip", "rate"):
            assert math.isnan(want[name]) if row[name] is None else row[name] == pytest.approx(want[name], abs=1e-9)
        # rows of one instant have no order among themselves, so only their set is the same
        for name in ties:
            ties[name] += row[name] != want[name]
            assert len(row[name]) == len(want[name])
    assert max(ties.values()) < len(tests) / 2
    ids_BL, dense_BN = RowEncoder.load(folder)(golden)
    np.testing.assert_array_equal(ids_BL, test_ids)
    np.testing.assert_array_equal(dense_BN, np.load(folder / "test" / "dense.npy"))


def test_a_sequence_is_newest_first(tmp_path: Path) -> None:
    at = pa.array([3, 1, 2, 5, 4, 6] * 20, pa.timestamp("s"))
    user = [f"u{i // 6}" for i in range(120)]
    table = pa.table(
        {"user": user, "item": [30, 10, 20, 50, 40, 60] * 20, "at": at, "click": [i // 6 % 2 for i in range(120)]}
    )
    fields = {n: FIELDS[n] for n in ("user", "item", "recent")}
    folder = prepare({**CONFIG, "fields": fields, "split": {"shares": [0.4, 0.2, 0.4]}}, lambda: table, tmp_path)
    golden = json.loads((folder / "golden_rows.json").read_text())
    seen = {row["item"]: row["recent"] for row in golden}
    assert seen[60] == [50, 40, 30, 20] and seen[50] == [40, 30, 20, 10]


def test_serving_looks_up_what_training_would_have_computed(tmp_path: Path) -> None:
    """The next event after the table's end, answered by the snapshot, as if it had been in the table."""
    table = events()
    later = {"at": [max(table["at"].to_pylist()) + timedelta(seconds=1)] * 8, "click": [0, 1] * 4}
    later |= {"user": ["u1", "u2", "u3", "u4", None, "never seen", "u5", "u6"], "item": [1, 2, 3, None, 5, 6, 7, 8]}
    both = pa.concat_tables([table, pa.table({n: pa.array(later[n], table[n].type) for n in table.column_names})])
    dates = {"train": ["1970-01-01", "1970-01-20"], "valid": ["1970-01-20", "1970-01-25"]}
    end = later["at"][0].isoformat()
    first = prepare({**CONFIG, "split": {**dates, "test": ["1970-01-25", end]}}, lambda: table, tmp_path)
    whole = prepare({**CONFIG, "split": {**dates, "test": [end, "1972-01-01"]}}, lambda: both, tmp_path)
    rows = both.slice(table.num_rows).drop(["click"]).to_pylist()
    ids_BL, dense_BN = RowEncoder.load(first)(rows)
    np.testing.assert_array_equal(ids_BL[:, :2], np.load(whole / "test" / "ids.npy")[:, :2])
    np.testing.assert_array_equal(ids_BL[:, -1], np.load(whole / "test" / "ids.npy")[:, -1])
    for columns in (slice(2, 6), slice(6, 9)):
        np.testing.assert_array_equal(
            np.sort(ids_BL[:, columns]), np.sort(np.load(whole / "test" / "ids.npy")[:, columns])
        )
    np.testing.assert_allclose(dense_BN, np.load(whole / "test" / "dense.npy"), atol=1e-6)


def test_a_request_may_bring_its_own_past_or_its_key_but_one_of_them(tmp_path: Path) -> None:
    table = events()
    encoder = RowEncoder.load(prepare(CONFIG, lambda: table, tmp_path))
    row = {"user": "u1", "item": 3, "at": "1970-03-01"}
    own = {"recent": [1, 2], "clicked": [1], "count": 2.0, "count_bucket": 1.0, "clicks": 1.0}
    own |= {"since": 3.5, "since_skip": None, "rate": None}
    ids_BL, dense_BN = encoder([{**row, **own}])
    assert not np.array_equal(dense_BN, encoder([row])[1]) and ids_BL[0, 4] == -1
    assert encoder([{**own, "user": "u1", "item": 3}])[0].tolist() == ids_BL.tolist()
    with pytest.raises(DataError, match=r"row 0: expected 'since', or 'at' to look it up by, got neither"):
        encoder([{"user": "u1", "item": 3}])


def test_delay_leaves_out_labels_that_are_not_known_yet() -> None:
    order = Order(np.zeros(4, np.int64), np.array([0, 1, 2, 3]) * DAY * 1_000_000)
    label = np.array([1.0, 1.0, 0.0, 0.0])
    past = Past("rate", ("k",), prior=0.0, delay_days=1.5)
    got = order.column(past, label, order.key_B, order.time_B)
    np.testing.assert_array_equal(got, [np.nan, np.nan, 1.0, 1.0])


@pytest.mark.parametrize(
    ("past", "message"),
    [
        ({"what": "sum", "by": ["user"]}, "past.what: expected one of count"),
        ({"what": "count", "by": "user"}, "past.by: expected a list"),
        ({"what": "count", "by": []}, "past.by: expected a list"),
        ({"what": "last", "by": ["user"]}, "past.of"),
        ({"what": "count", "by": ["user"], "of": "item"}, "past.of"),
        ({"what": "count", "by": ["user"], "delay_days": -1}, "delay_days"),
        ({"what": "count", "by": ["user"], "where": "clicked"}, "past.where: expected positive or negative"),
        ({"what": "rate", "by": ["user"], "where": "positive"}, "past.where: expected nothing"),
        ({"what": "count", "by": ["user"], "window": 3}, "unknown"),
        ("count", "past: expected settings"),
    ],
)
def test_impossible_pasts_are_refused(tmp_path: Path, past: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare({**CONFIG, "fields": {"c": {"kind": "numeric", "past": past}}}, events, tmp_path)


def test_past_needs_a_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set data.time"):
        prepare({**CONFIG, "time": None}, events, tmp_path)

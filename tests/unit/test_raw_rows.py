"""Cells and columns of files of raw rows → what `RowEncoder` takes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from recsys.data.preparation.prepare import prepare
from recsys.errors import DataError
from recsys.features.row_encoder import RowEncoder
from recsys.serving.rows import read_rows

START = 1_700_000_000
FIELDS = {
    "item": {"min_count": 1},
    "tags": {"kind": "multi", "separator": "|", "min_count": 1},
    "title": {"kind": "text", "buckets": 50},
    "lists": {"kind": "multi", "min_count": 1, "weights": "shares"},
    "at": {"kind": "timestamp", "parts": ["hour"]},
    "recent": {"kind": "sequence", "table": "item", "past": {"what": "last", "of": "item", "by": ["user"]}},
    "since": {"kind": "numeric", "past": {"what": "days_since", "by": ["user"]}},
}


def raw(rows=200):
    r = np.random.default_rng(0)
    return pa.table(
        {
            "user": [f"u{u}" for u in r.integers(0, 9, rows)],
            "item": r.integers(0, 12, rows),
            "tags": ["|".join(f"t{t}" for t in r.integers(0, 5, n)) or None for n in r.integers(0, 4, rows)],
            "title": [" ".join(r.choice(["[a]", "b", "C"], 3)) for _ in range(rows)],
            "lists": [r.integers(0, 5, 2).tolist() for _ in range(rows)],
            "shares": [r.random(2).tolist() for _ in range(rows)],
            "at": pa.array((START + np.arange(rows) * 3600) * 10**9 + 1, pa.timestamp("ns")),
            "click": r.integers(0, 2, rows),
        }
    )


@pytest.fixture(scope="module")
def table():
    return raw()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, table):
    config = {"name": "t", "label": "click", "time": "at", "split": {"shares": [0.6, 0.2, 0.2]}, "fields": FIELDS}
    return prepare(config, lambda: table, tmp_path_factory.mktemp("rows"))


def same(encoder, some, others):
    for got, want in zip(encoder(some), encoder(others), strict=True):
        np.testing.assert_array_equal(got, want)


def test_every_file_of_raw_rows_is_encoded_alike(folder, table, tmp_path):
    encoder = RowEncoder.load(folder)
    rows = table.slice(150, 20).drop_columns(["click"]).to_pylist()
    for row in rows:
        row["at"] = row["at"].isoformat()[:19]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    spelled = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]
    pa.csv.write_csv(pa.Table.from_pylist(spelled), tmp_path / "t.csv")
    seconds = [{**r, "at": START + (150 + i) * 3600} for i, r in enumerate(spelled)]
    pa.csv.write_csv(pa.Table.from_pylist(seconds), tmp_path / "seconds.csv")
    pq.write_table(table.slice(150, 20), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.csv", "seconds.csv", "t.parquet"):
        read = list(read_rows(str(tmp_path / name), encoder))
        assert len(read) == 20, name
        assert "click" not in read[0] or name == "t.jsonl"
        same(encoder, read, rows)


def test_a_cell_that_is_no_list_is_named(folder, tmp_path):
    (tmp_path / "t.csv").write_text("user,lists\nu1,1|2\n")
    with pytest.raises(DataError, match=r"line 2: column 'lists': expected a list as JSON, got '1\|2'"):
        list(read_rows(str(tmp_path / "t.csv"), RowEncoder.load(folder)))


def test_a_time_that_is_none_is_named(folder, tmp_path):
    encoder = RowEncoder.load(folder)
    (tmp_path / "t.csv").write_text("user,item,tags,title,lists,shares,at\nu1,1,t1,b,[1],[1],noon\n")
    with pytest.raises(DataError, match="column 'at': expected a time like"):
        encoder(list(read_rows(str(tmp_path / "t.csv"), encoder)))


def test_what_a_request_may_leave_out(folder):
    schema = RowEncoder.load(folder).schema
    assert schema.lookup_columns == {"user": "string", "at": "time"}
    assert schema.subset(["recent"]).lookup_columns == {"user": "string"}
    assert schema.subset(["item"]).lookup_columns == {}


def test_shares_of_ids_count_values_and_not_the_room_of_a_list(folder, table):
    told = json.loads((folder / "prepared.json").read_text())["splits"]["test"]["fields"]
    known = {v for row in table["tags"].to_pylist()[:120] for v in (row or "").split("|") if v}
    given = [v for row in table["tags"].to_pylist()[160:] for v in (row or "").split("|") if v]
    assert given
    assert told["tags"]["unseen"] == pytest.approx(np.mean([v not in known for v in given]))
    assert told["tags"]["missing"] == 0

import errno
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.preparation.prepare import SPLITS, prepare
from recsys.data.preparation.shard_writer import ShardWriter
from recsys.data.preparation.split import kth_smallest, split_codes
from recsys.data.preparation.spool import Spool
from recsys.data.sources.scan import scan
from recsys.errors import Cancelled, ConfigError, DataError, RecsysError
from recsys.features.encoders import MISSING, UNSEEN, Hash
from recsys.features.row_encoder import RowEncoder
from recsys.features.schema import Schema


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with one column replaced."""
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def refuse(config: dict[str, Any], table: pa.Table, cache: Path, kind: type[RecsysError], message: str) -> None:
    """Preparing must fail with a one-line message and leave nothing in the cache."""
    with pytest.raises(kind, match=message) as caught:
        prepare(config, lambda: table, cache)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda n: [2] + [0, 1] * (n // 2 - 1) + [0], "only 0 and 1"),
        (lambda n: [0.5] * n, "only 0 and 1"),
        (lambda n: ["yes", "perhaps"] * (n // 2), "got 'perhaps': map it to 0 and 1"),
        (lambda n: [0] * n, "every row is 0"),
        (lambda n: [True] * n, "every row is 1"),
        (lambda n: [None] + [0, 1] * (n // 2 - 1) + [1], "1 rows have none"),
        (lambda n: pa.array([float("nan")] + [0.0, 1.0] * (n // 2 - 1) + [1.0]), "only 0 and 1"),
        (lambda n: pa.array([0, 1] * (n // 2), pa.timestamp("s")), "map it to 0 and 1"),
        (lambda n: [[1]] * n, "map it to 0 and 1"),
    ],
)
def test_impossible_labels_are_refused(config, table, tmp_path, label, message) -> None:
    refuse(config, put(table, "click", label(table.num_rows)), tmp_path / "c", DataError, message)


@pytest.mark.parametrize("key", ["label", "time", "group"])
def test_absent_columns_are_named(config, table, tmp_path, key) -> None:
    refuse({**config, key: "nowhere"}, table, tmp_path / "c", DataError, rf"{key}: .*'nowhere'.*user, item")


@pytest.mark.parametrize(
    "at",
    [
        lambda n: ["yesterday"] * n,
        lambda n: [None, *range(1, n)],
        lambda n: [float("nan")] + [float(i) for i in range(1, n)],
        lambda n: [float("inf")] + [float(i) for i in range(1, n)],
        lambda n: [True] * n,
        lambda n: [[1]] * n,
    ],
)
def test_times_that_do_not_parse_are_refused(config, table, tmp_path, at) -> None:
    refuse(config, put(table, "at", at(table.num_rows)), tmp_path / "c", DataError, "(time|column) 'at'")


DATES = {"train": ["2017-07-14", "2017-09-01"], "valid": ["2017-09-05", "2017-10-01"], "test": ["2017-10-05", "2018"]}


@pytest.mark.parametrize(
    ("split", "kind", "message"),
    [
        (
            {**DATES, "test": ["2031-01-01", "2032-01-01"]},
            DataError,
            r"test split is empty .*2031-01-01.*, and \w+ goes from \d{4}",
        ),
        ({"shares": [0.6, 0.2, 0.2], "gap_days": 90}, DataError, "split is empty"),
        (DATES, ConfigError, "data.split.test: expected .* two ISO dates"),
        ({k: DATES[k] for k in ("train", "valid")}, ConfigError, "data.split.test"),
        ({**DATES, "train": "2017"}, ConfigError, "data.split.train"),
        ({"shares": [0.6, 0.6, 0.2]}, ConfigError, "sum to 1"),
        ({"shares": [0.5, 0.5]}, ConfigError, "three positive shares"),
        ({"shares": ["most", 0.1, 0.1]}, ConfigError, "three positive shares"),
        ({"shares": 0.8}, ConfigError, "three positive shares"),
    ],
)
def test_impossible_splits_are_refused(config, table, tmp_path, split, kind, message) -> None:
    refuse({**config, "split": split}, table, tmp_path / "c", kind, message)


@pytest.mark.parametrize(
    ("label", "split", "weight"),
    [("click", "train", None), ("click", "valid", None), ("click", "valid", "w"), ("buy", "test", "w")],
)
def test_a_split_in_which_a_label_has_one_value_is_refused(config, table, tmp_path, label, split, weight) -> None:
    """A row of the other value whose weight is 0 counts for nothing."""
    n = table.num_rows
    first, last = {"train": (0, 0.61), "valid": (0.59, 0.81), "test": (0.8, 1)}[split]
    in_split, odd = (np.arange(n) >= first * n) & (np.arange(n) < last * n), np.arange(n) % 2
    columns = {"click": np.arange(n) // 2 % 2, "buy": np.arange(n) // 2 % 2, label: odd}
    more = put(table, "click", columns["click"]).append_column("buy", pa.array(columns["buy"]))
    if weight:
        more = more.append_column("w", pa.array(np.where(in_split & (odd == 1), 0.0, 1.0)))
    else:
        more = put(more, label, np.where(in_split, 0, odd))
    said = rf"label '{label}': expected 0 and 1 in each split, {split} has \[0.0\]{' in rows of w' if weight else ': '}"
    refuse({**config, "labels": ["click", "buy"], "weight": weight}, more, tmp_path / "c", DataError, said)


@pytest.mark.parametrize(
    ("name", "entry", "kind", "message"),
    [
        ("colour", {}, DataError, "data.fields.colour: expected a column 'colour'"),
        ("age", {"kind": "categoric"}, ConfigError, "data.fields.age.kind: .*categorical"),
        ("age", {"encoding": "onehot"}, ConfigError, "data.fields.age.encoding"),
        ("age", {"min_cuont": 3}, ConfigError, r"data.fields.age: unknown \['min_cuont'\]"),
        ("age", {"encoding": "hash"}, ConfigError, "data.fields.age.buckets: expected at least 2"),
        ("age", {"encoding": "hash", "buckets": "many"}, ConfigError, "data.fields.age.buckets"),
        ("age", {"min_count": "often"}, ConfigError, "data.fields.age.min_count"),
        ("age", {"inputs": "age"}, ConfigError, "data.fields.age.inputs: expected a list"),
        ("age", 5, ConfigError, "data.fields.age: expected"),
        ("tags", {"kind": "multi", "max_length": 0}, ConfigError, "data.fields.tags.max_length"),
        ("age", {"inputs": ["user", "age"]}, ConfigError, "must have encoding: hash"),
        ("user", {"kind": "numeric"}, DataError, "column 'user': expected numbers, got string"),
        ("price", {}, DataError, "column 'price': expected a whole number"),
        ("tags", {}, DataError, "column 'tags': .*single values"),
        ("user", {"kind": "multi"}, DataError, "column 'user': .*lists"),
        ("user", {"kind": "vector"}, DataError, "column 'user': .*lists"),
        ("tags", {"kind": "numeric"}, DataError, "column 'tags'"),
    ],
)
def test_impossible_fields_are_refused(config, table, tmp_path, name, entry, kind, message) -> None:
    config["fields"][name] = entry
    refuse(config, table, tmp_path / "c", kind, message)


def test_infinite_and_all_missing_numbers_are_refused(config, table, tmp_path) -> None:
    n = table.num_rows
    refuse(config, put(table, "score", [float("inf")] * n), tmp_path / "c", DataError, "finite")
    refuse(config, put(table, "score", pa.nulls(n, pa.float64())), tmp_path / "c", DataError, "none but missing")


def test_a_number_whose_square_is_infinite_is_refused(config, table, tmp_path):
    """One cell of 1e200 made the deviation infinite, and the whole column one constant, without a word."""
    values = table["score"].to_pylist()
    values[0] = 1e200
    refuse(config, put(table, "score", values), tmp_path / "cache", DataError, "'score'.*got 1e.200")


def test_failure_while_writing_leaves_nothing(config, table, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(ShardWriter, "append", full)
    with pytest.raises(DataError, match="no space left on device: free some space"):
        prepare(config, lambda: table, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_second_run_is_cached_and_other_settings_are_not(config, table, tmp_path) -> None:
    calls = []

    def load() -> pa.Table:
        calls.append(1)
        return table

    folder = prepare(config, load, tmp_path)
    assert prepare(config, load, tmp_path) == folder and len(calls) == 1
    config["fields"]["item"]["min_count"] = 5
    assert prepare(config, load, tmp_path) != folder and len(calls) == 2


def test_changed_file_is_prepared_again(config, table, tmp_path) -> None:
    file = tmp_path / "clicks.parquet"
    config["source"] = {"path": str(file)}
    pa.parquet.write_table(table, file)
    first = prepare(config, lambda: scan(str(file)), tmp_path / "c")
    pa.parquet.write_table(table.slice(0, 2500), file)
    second = prepare(config, lambda: scan(str(file)), tmp_path / "c")
    assert first != second and len(np.load(second / "train" / "label.npy")) < len(
        np.load(first / "train" / "label.npy")
    )


def test_files_are_all_there_and_readable(prepared: Path) -> None:
    assert {p.name for p in prepared.iterdir()} == {
        *("schema.json", "encoders.json", "prepared.json", "golden_rows.json"),
        *SPLITS,
    }
    schema = Schema.load(prepared / "schema.json")
    assert schema.names == ["user", "item", "user_x_city", "age", "tags", "price", "score"]
    assert (schema.label, schema.group) == ("click", "user")


def test_shards_hold_what_the_row_encoder_makes_of_the_raw_rows(prepared: Path, table: pa.Table) -> None:
    about = json.loads((prepared / "prepared.json").read_text())["splits"]
    encoder = RowEncoder.load(prepared)
    first = {"train": 0, "test": table.num_rows - about["test"]["rows"]}
    for name, start in first.items():
        rows = table.slice(start, 300).to_pylist()
        ids_BL, dense_BN = encoder(rows)
        np.testing.assert_array_equal(np.load(prepared / name / "ids.npy")[:300], ids_BL)
        np.testing.assert_array_equal(np.load(prepared / name / "dense.npy")[:300], dense_BN)
        assert np.load(prepared / name / "label.npy")[:300].tolist() == [r["click"] for r in rows]


@pytest.mark.parametrize("order", [["past", "city", "user", "as_user"], ["as_user", "past", "user", "city"]])
def test_a_column_is_read_by_its_own_field_and_by_one_that_shares_a_table(order, config, table, tmp_path) -> None:
    """Both read column city: one through its own vocabulary, which the group uses too, one through that of user."""
    city = [u if i % 3 else f"town {i % 7}" for i, u in enumerate(table["user"].to_pylist())]
    fields = {
        "user": {},
        "city": {"min_count": 2},
        "as_user": {"table": "user", "inputs": ["city"]},
        "past": {"kind": "sequence", "max_length": 2, "past": {"what": "last", "by": ["item"], "of": "city"}},
    }
    changed = {**config, "group": "city", "fields": {name: fields[name] for name in order}}
    table = put(table, "city", city)
    folder = prepare(changed, lambda: table, tmp_path)
    rows = RowEncoder.load(folder).encoders
    schema = Schema.load(folder / "schema.json")
    ids_BL, codes = np.load(folder / "train" / "ids.npy"), np.load(folder / "train" / "group.npy")
    for name, column in {"user": "user", "city": "city", "as_user": "city"}.items():
        want = [rows[name].id([v]) for v in table[column].to_pylist()[: len(ids_BL)]]
        np.testing.assert_array_equal(ids_BL[:, schema.id_columns[name].start], want, err_msg=name)
    pairs = set(zip(codes.tolist(), city[: len(codes)], strict=True))
    assert len(pairs) == len(set(codes.tolist())) == len(set(city[: len(codes)]))


def test_golden_rows_are_the_first_raw_test_rows(prepared: Path) -> None:
    golden = json.loads((prepared / "golden_rows.json").read_text())
    ids_BL, dense_BN = RowEncoder.load(prepared)(golden)
    assert len(golden) == 256
    np.testing.assert_array_equal(np.load(prepared / "test" / "ids.npy")[:256], ids_BL)
    np.testing.assert_array_equal(np.load(prepared / "test" / "dense.npy")[:256], dense_BN)


def test_not_a_number_anywhere_still_gives_strict_json(config, table, tmp_path) -> None:
    n = table.num_rows
    score = [float("nan") if i % 3 == 0 else float(i % 7) for i in range(n)]
    lists = [[float("nan"), 2.0] if i % 2 else [1.0] for i in range(n)]
    table = put(put(table, "score", score), "tags", lists)

    def strict(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    folder = prepare(config, lambda: table, tmp_path)
    for name in ("golden_rows.json", "encoders.json", "prepared.json"):
        json.loads((folder / name).read_text(), parse_constant=strict)


def test_encoders_are_fitted_on_training_rows_only(config, table, tmp_path) -> None:
    n = table.num_rows
    user = ["old"] * (n * 6 // 10) + ["new"] * (n - n * 6 // 10)
    score = [float(i % 5) for i in range(n * 6 // 10)] + [1e6] * (n - n * 6 // 10)
    folder = prepare(config, lambda: put(put(table, "user", user), "score", score), tmp_path)
    encoders = json.loads((folder / "encoders.json").read_text())["encoders"]
    assert encoders["user"]["values"] == ["old"]
    assert abs(encoders["score"]["mean"] - 2) < 0.01
    assert (np.load(folder / "test" / "ids.npy")[:, 0] == UNSEEN).all()
    assert json.loads((folder / "prepared.json").read_text())["splits"]["test"]["fields"]["user"]["unseen"] == 1.0


def test_description_counts_missing_ids(prepared: Path) -> None:
    about = json.loads((prepared / "prepared.json").read_text())["splits"]
    for name in SPLITS:
        ids = np.load(prepared / name / "ids.npy")
        assert about[name]["fields"]["item"]["missing"] == (ids[:, 1] == MISSING).mean() > 0
        assert about[name]["rows"] == len(ids)


def test_groups_tell_the_same_rows_apart_as_the_raw_column(prepared: Path, table: pa.Table) -> None:
    codes = np.load(prepared / "train" / "group.npy")
    users = table["user"].to_pylist()[: len(codes)]
    assert len(set(zip(codes.tolist(), users, strict=True))) == len(set(codes.tolist())) == len(set(users))


def split_rows(folder: Path, config: dict[str, Any], **columns: np.ndarray) -> dict[str, np.ndarray]:
    """The row numbers of each split."""
    spool = Spool(folder)
    for name, values in columns.items():
        spool.append(name.replace("_", "/"), values)
        spool.rows = len(values)
    try:
        code_B = split_codes(spool, config)
    finally:
        spool.close()
    return {name: np.flatnonzero(code_B == i) for i, name in enumerate(SPLITS)}


def test_time_split_leaves_the_gap_out_whatever_the_rows_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    day = rng.permutation(np.repeat(np.arange(100), 3))
    time_B = (np.datetime64("2017-01-01", "us") + day.astype("timedelta64[D]")).astype(np.int64)
    shares = {"time": "at", "split": {"shares": [0.6, 0.2, 0.2], "gap_days": 5}}
    rows = split_rows(tmp_path, shares, us_at=time_B)
    assert {n: (day[r].min(), day[r].max()) for n, r in rows.items()} == {
        "train": (0, 59),
        "valid": (65, 79),
        "test": (85, 99),
    }
    dates = {"train": ["2017-01-01", "2017-01-11"], "valid": ["2017-01-21", "2017-01-31"]}
    dates["test"] = ["2017-03-01", "2018-01-01"]
    rows = split_rows(tmp_path, {"time": "at", "split": dates}, us_at=time_B)
    assert [(day[r].min(), day[r].max(), len(r)) for r in rows.values()] == [(0, 9, 30), (20, 29, 30), (59, 99, 123)]


def test_without_time_every_row_is_in_one_split_by_the_seed(tmp_path: Path) -> None:
    label = np.zeros(50_000, np.float32)
    first, again, other = (
        split_rows(tmp_path, {"split": {"shares": [0.7, 0.2, 0.1], "seed": s}}, label=label) for s in (3, 3, 4)
    )
    assert [round(len(r) / 50_000, 2) for r in first.values()] == [0.7, 0.2, 0.1]
    assert sorted(np.concatenate(list(first.values())).tolist()) == list(range(50_000))
    assert all(np.array_equal(first[n], again[n]) for n in SPLITS)
    assert not np.array_equal(first["test"], other["test"])


def test_dates_without_a_time_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set data.time"):
        split_rows(tmp_path, {"split": DATES}, label=np.zeros(10, np.float32))


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), min_size=1, max_size=50), st.data())
def test_kth_smallest_is_what_sorting_gives(values: list[int], data: st.DataObject) -> None:
    x = np.array(values, np.int64)
    k = data.draw(st.integers(0, len(values) - 1))
    assert kth_smallest(lambda a, b: x[a:b], len(x), k) == sorted(values)[k]


def test_the_random_split_is_independent_of_what_a_made_table_was_drawn_from(tmp_path: Path) -> None:
    drawn_B = np.random.default_rng(0).random(10_000)  # a made table's first column, as people write it
    split = split_rows(tmp_path, {"split": {"shares": [0.5, 0.3, 0.2], "seed": 0}}, label=np.zeros(10_000, np.float32))
    means = [drawn_B[split[name]].mean() for name in ("train", "valid", "test")]
    assert means == pytest.approx([0.5, 0.5, 0.5], abs=0.03)


def test_a_group_is_in_one_split_only(config, table, tmp_path) -> None:
    config["split"] = {"shares": [0.6, 0.2, 0.2], "by": "user"}
    folder = prepare(config, lambda: table, tmp_path)
    seen = [set(np.load(folder / n / "group.npy").tolist()) for n in SPLITS]
    assert all(seen) and not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])


def test_a_column_tells_the_split_and_validation_is_cut_from_training(config, table, tmp_path) -> None:
    fold = ["fit" if i % 3 else "check" for i in range(table.num_rows)]
    config["split"] = {"column": "fold", "train": ["fit"], "test": "check", "valid_share": 0.25}
    folder = prepare(config, lambda: table.append_column("fold", pa.array(fold)), tmp_path)
    rows = [len(np.load(folder / n / "label.npy")) for n in SPLITS]
    assert rows[2] == fold.count("check") and sum(rows) == len(fold)
    assert abs(rows[1] / (rows[0] + rows[1]) - 0.25) < 0.02
    config["split"]["train"] = ["nothing"]
    other = table.append_column("fold", pa.array(fold))
    refuse(config, other, tmp_path / "c", DataError, "data.split.train: expected values of column 'fold'.*check")


def test_yes_and_no_are_labels(config, table, tmp_path) -> None:
    words = ["Yes" if v else "no " for v in table["click"].to_pylist()]
    same = prepare(config, lambda: put(table, "click", words), tmp_path / "words")
    whole = prepare(config, lambda: table, tmp_path / "numbers")
    assert np.array_equal(np.load(same / "test" / "label.npy"), np.load(whole / "test" / "label.npy"))


def test_a_vocabulary_grows_and_keeps_its_ids(config, table, tmp_path) -> None:
    first = prepare(config, lambda: table, tmp_path)
    old = json.loads((first / "encoders.json").read_text())["encoders"]["item"]["values"]
    later = put(table, "item", [10_000 + i % 7 if i % 2 else v for i, v in enumerate(table["item"].to_pylist())])
    grown = prepare({**config, "grow_from": str(first)}, lambda: later, tmp_path)
    new = json.loads((grown / "encoders.json").read_text())["encoders"]["item"]["values"]
    assert new[: len(old)] == old and {str(10_000 + i) for i in range(7)} <= set(new[len(old) :])


def test_sample_weights_and_further_labels_are_kept(config, table, tmp_path) -> None:
    n = table.num_rows
    more = table.append_column("w", pa.array(np.arange(n, dtype=float))).append_column(
        "buy", pa.array([0, 1] * (n // 2))
    )
    folder = prepare({**config, "weight": "w", "labels": ["click", "buy"]}, lambda: more, tmp_path)
    assert np.load(folder / "train" / "weight.npy")[:3].tolist() == [0, 1, 2]
    assert np.load(folder / "train" / "label.npy")[:4, 1].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda n: [-1.0] * n, "weight 'w': expected numbers from 0 to 1e.30 in every row"),
        (lambda n: [None] + [1.0] * (n - 1), "weight 'w': expected numbers from 0 to 1e.30 in every row"),
        (lambda n: [1.0] * (n - 1) + [1e39], "weight 'w': expected numbers from 0 to 1e.30 in every row"),
        (lambda n: [0.0] * (n * 8 // 10) + [1.0] * (n - n * 8 // 10), "the train split has none"),
        (lambda n: [1e-50] * n, "the train split has none"),
        (lambda n: [1.0] * (n * 7 // 10) + [0.0] * (n - n * 7 // 10), "the valid split has none"),
        (lambda n: [1.0] * (n * 85 // 100) + [0.0] * (n - n * 85 // 100), "the test split has none"),
    ],
)
def test_weights_that_no_split_can_use_are_refused(config, table, tmp_path, weights, message) -> None:
    more = table.append_column("w", pa.array(weights(table.num_rows), pa.float64()))
    split = {"shares": [0.7, 0.15, 0.15]}
    refuse({**config, "weight": "w", "split": split}, more, tmp_path / "c", DataError, message)


def test_collisions_of_a_hash_are_estimated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2000, 50_000)
    table = pa.table({"v": values, "y": rng.integers(0, 2, 50_000)})
    config = {"name": "h", "label": "y", "split": {"shares": [0.8, 0.1, 0.1]}}
    config["fields"] = {"v": {"encoding": "hash", "buckets": 4000}}
    folder = prepare(config, lambda: table, tmp_path)
    told = json.loads((folder / "prepared.json").read_text())["splits"]["train"]["fields"]["v"]["collision"]
    ids = {int(v): Hash(4000).id([str(v)]) for v in range(2000)}
    counts = np.bincount(list(ids.values()))
    real = sum(counts[i] > 1 for i in ids.values()) / len(ids)
    assert abs(told - real) < 0.05


@pytest.mark.parametrize("looks", [0, 1])
def test_a_preparation_that_is_cancelled_stops_in_each_pass_and_leaves_nothing(config, table, tmp_path, looks) -> None:
    """The table is one chunk: the first look is after it is read, the second while the shards are written."""
    reporter = Mock(cancelled=Mock(side_effect=[False] * looks + [True]))
    with pytest.raises(Cancelled):
        prepare(config, lambda: table, tmp_path / "cache", reporter)
    assert reporter.cancelled.call_count == looks + 1
    assert not list((tmp_path / "cache").glob("*/*"))
    assert prepare(config, lambda: table, tmp_path / "cache").is_dir()

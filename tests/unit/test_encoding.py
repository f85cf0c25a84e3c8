import itertools
import json
import math
import random
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.preparation.encode import TableEncoder
from recsys.data.preparation.fields import FieldConfig
from recsys.data.preparation.first_pass import read_source
from recsys.data.preparation.fit import field_of, fit
from recsys.data.preparation.spool import Spool
from recsys.data.sources.scan import Scan
from recsys.errors import ConfigError, DataError
from recsys.features.encoders import (
    MISSING,
    UNSEEN,
    Bucket,
    Hash,
    Piecewise,
    Scale,
    Vocabulary,
    encoder_from_json,
    hash_text,
    number,
    text,
)
from recsys.features.row_encoder import RowEncoder
from recsys.features.schema import Schema
from recsys.features.values import END_US, FIRST_US

COLUMNS = {
    "s": pa.string(),
    "i": pa.int64(),
    "b": pa.bool_(),
    "f": pa.float64(),
    "l": pa.list_(pa.string()),
    "n": pa.list_(pa.int64()),
    "x": pa.float64(),
    "v": pa.list_(pa.float64()),
    "t": pa.timestamp("us"),
    "w": pa.string(),
    "p": pa.string(),
    "h": pa.list_(pa.string()),
    "k": pa.list_(pa.int64()),
    "g": pa.list_(pa.float64()),
}
FIELDS = [
    FieldConfig("s", min_count=2),
    FieldConfig("i", min_count=1),
    FieldConfig("b", min_count=1),
    FieldConfig("f", min_count=1),
    FieldConfig("s_hash", encoding="hash", inputs=("s",), buckets=1000),
    FieldConfig("cross", encoding="hash", inputs=("s", "i", "b"), buckets=1000, seed=3),
    FieldConfig("x_bucket", encoding="bucket", inputs=("x",), buckets=5),
    FieldConfig("l", kind="multi", min_count=1, max_length=3),
    FieldConfig("n", kind="multi", encoding="hash", buckets=20, max_length=2),
    FieldConfig("hour", encoding="hour", inputs=("t",)),
    FieldConfig("weekday", encoding="weekday", inputs=("t",)),
    FieldConfig("day", encoding="day", inputs=("t",)),
    FieldConfig("month", encoding="month", inputs=("t",)),
    FieldConfig("w", kind="text", buckets=50, ngrams=(1, 2), max_length=4),
    FieldConfig("p", kind="multi", separator="|", min_count=1, max_length=3),
    FieldConfig("h", kind="sequence", table="s", max_length=3, reverse=True),
    FieldConfig("k", kind="multi", weights="g", min_count=1, max_length=2),
    FieldConfig("x", kind="numeric"),
    FieldConfig("x_log", kind="numeric", encoding="log", inputs=("x",)),
    FieldConfig("x_bins", kind="numeric", encoding="piecewise", inputs=("x",), buckets=4),
    FieldConfig("x_log_bins", kind="numeric", encoding="piecewise_log", inputs=("x",)),
    FieldConfig("v", kind="vector"),
]
TRAIN = [
    {
        "s": "a",
        "i": 3,
        "b": True,
        "f": 1.0,
        "l": ["p", "q"],
        "n": [1, 2, 3],
        "x": 0.5,
        "v": [1.0, 2.0],
        "t": datetime(2017, 2, 1, 12, 30),
        "w": "Red shoes, red",
        "p": "a|b|a|c",
        "h": ["a", "x", "日本", "a"],
        "k": [1, 2, 3],
        "g": [0.5, 2.0, 1.0],
    },
    {
        "s": "a",
        "i": -9,
        "b": False,
        "f": 2.0,
        "l": [],
        "n": None,
        "x": -7.25,
        "v": [0.0, -1.0],
        "t": datetime(1969, 12, 31, 23, 59, 59, 999999),
        "w": "",
        "p": "",
        "h": [],
        "k": [],
        "g": [],
    },
    {
        "s": "日本",
        "i": None,
        "b": None,
        "f": math.nan,
        "l": None,
        "n": [7],
        "x": 1e6,
        "v": None,
        "t": None,
        "w": None,
        "p": None,
        "h": None,
        "k": None,
        "g": None,
    },
    {
        "s": "",
        "i": 3,
        "b": True,
        "f": None,
        "l": ["p", None, "é", "q"],
        "n": [None],
        "x": None,
        "v": [3.0, 4.0],
        "t": datetime(2024, 2, 29),
        "w": "été à la mer",
        "p": "|",
        "h": [None, "a"],
        "k": [1, None],
        "g": [0.0, 1.0],
    },
    {
        "s": "日本",
        "i": 0,
        "b": None,
        "f": 4.0,
        "l": ["é"],
        "n": [],
        "x": 2.0,
        "v": [5.0, 9.0],
        "t": datetime(2031, 12, 31, 0, 0, 1),
        "w": "one",
        "p": "b",
        "h": ["日本"],
        "k": [7],
        "g": [3.25],
    },
]


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {c: pa.array([r[c] for r in rows], t) for c, t in COLUMNS.items()}
    return pa.table({**columns, "y": [0] * len(rows)})


def spooled(table: pa.Table, fields: list[FieldConfig]) -> Spool:
    """The first pass over a table; its files have no name any more, but stay open."""
    with tempfile.TemporaryDirectory() as folder:
        return read_source(Scan.of(table), fields, {"label": "y"}, Path(folder))


def encode(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """As preparation encodes a whole table."""
    spool = spooled(table, FIELDS)
    try:
        return TableEncoder(spool, FIELDS, ENCODER.schema, ENCODER.encoders)(0, table.num_rows)
    finally:
        spool.close()


def fit_one(table: pa.Table, config: FieldConfig) -> Any:
    """One field's encoder, every row a training row."""
    rows = table.num_rows
    spool = spooled(table.append_column("y", pa.array([0] * rows)), [config])
    try:
        return fit(spool, np.zeros(rows, np.int8), config, {})
    finally:
        spool.close()


def fitted() -> RowEncoder:
    spool, codes = spooled(as_table(TRAIN), FIELDS), np.zeros(len(TRAIN), np.int8)
    made: dict[str, Any] = {}
    for c in FIELDS:
        made[c.name] = fit(spool, codes, c, made)
    schema = Schema(tuple(field_of(c, spool, made[c.name], 0.5) for c in FIELDS), "y")
    stored = {n: json.loads(json.dumps(e.to_json())) for n, e in made.items()}
    spool.close()
    return RowEncoder(schema, {n: encoder_from_json(v) for n, v in stored.items()})


ENCODER = fitted()


@pytest.mark.parametrize(
    ("value", "seed", "expected"),
    [
        ("", 0, 0xEF46DB3751D8E999),
        ("a", 0, 0xD24EC4F1A98C6E5B),
        ("abc", 0, 0x44BC2CF5AD770999),
        ("xxhash", 0, 0x32DD38952C4BC720),
        ("xxhash", 20141025, 0xB559B98D844E0635),
        ("Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
    ],
)
def test_hash_is_the_published_xxh64(value: str, seed: int, expected: int) -> None:
    assert hash_text(value, seed) == expected


def test_reserved_ids() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert [vocabulary.id([v]) for v in (None, "new", "a", "b")] == [MISSING, UNSEEN, 2, 3]
    assert vocabulary.cardinality == 4


def test_hash_stays_inside_its_cardinality_and_never_hits_missing() -> None:
    h = Hash(7)
    assert {h.id([str(i)]) for i in range(500)} == set(range(1, h.cardinality))
    assert h.id([None]) == h.id([None, None]) == MISSING


def test_cross_tells_its_parts_apart() -> None:
    h = Hash(1 << 40)
    ids = [h.id(p) for p in (["a", "b"], ["b", "a"], ["ab", None], [None, "ab"], ["a", None], [None, "a"])]
    assert len(set(ids)) == len(ids)


def test_another_seed_moves_the_collisions() -> None:
    def pairs(seed: int) -> set[tuple[int, int]]:
        ids = [Hash(50, seed).id([str(i)]) for i in range(60)]
        return {(i, j) for i in range(60) for j in range(i) if ids[i] == ids[j]}

    assert pairs(0) and pairs(1) and pairs(0) != pairs(1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6, unique=True), st.floats(-2e6, 2e6))
def test_bucket_counts_the_boundaries_at_or_below(boundaries: list[float], x: float) -> None:
    encoder = Bucket(sorted(boundaries))
    assert encoder.numbers(np.array([x]))[0] == 1 + sum(b <= x for b in boundaries) < encoder.cardinality
    assert encoder.numbers(np.array([math.nan]))[0] == MISSING


def test_scale_is_standardised_signed_log() -> None:
    z = Scale(True, 0.5, 2.0).numbers(np.array([-3.0, 0.0, 10.0, math.nan]))
    expected = [(-math.log(4) - 0.5) / 2, -0.25, (math.log(11) - 0.5) / 2, 0.0]
    np.testing.assert_allclose(z, expected, rtol=1e-6)


def test_training_column_comes_out_with_mean_0_and_deviation_1() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"x": rng.lognormal(1, 2, 4000)})
    for encoding in ("standardise", "log"):
        scale = fit_one(table, FieldConfig("x", kind="numeric", encoding=encoding))
        z = scale.numbers(table["x"].to_numpy()).astype(np.float64)  # type: ignore[union-attr]
        assert abs(z.mean()) < 1e-4 and abs(z.std() - 1) < 1e-4


@pytest.mark.parametrize("log", [False, True])
def test_piecewise_is_the_standardised_number_and_what_it_has_passed_of_each_bin(log: bool) -> None:
    """Against the paper's formula by cases, a bin at a time; beyond the ends it stays at 0 and 1."""
    edges = [-2.0, -0.5, 0.0, 3.0]
    x_B = np.array([math.nan, -1e300, -9.0, -1.0, 0.0, 0.25, 2.0, 40.0, 1e300])
    encoder = encoder_from_json(json.loads(json.dumps(Piecewise(log, 0.5, 2.0, edges).to_json())))
    assert isinstance(encoder, Piecewise)
    expected = []
    for x in x_B:
        z = ((math.copysign(math.log1p(abs(x)), x) if log else x) - 0.5) / 2.0
        bins = [0.0 if z < a else 1.0 if z >= b else (z - a) / (b - a) for a, b in itertools.pairwise(edges)]
        expected.append([0.0] * 4 if math.isnan(x) else [min(1e6, max(-1e6, z)), *bins])
    np.testing.assert_allclose(encoder.numbers(x_B), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(encoder.numbers(x_B)[:, 0], Scale(log, 0.5, 2.0).numbers(x_B))


def ends(values: list[float | None], buckets: int = 4) -> list[float]:
    """The ends of the bins of a column, in its own units."""
    field = FieldConfig("x", kind="numeric", encoding="piecewise", buckets=buckets)
    encoder = fit_one(pa.table({"x": pa.array(values, pa.float64())}), field)
    assert isinstance(encoder, Piecewise)
    return np.round(encoder.edges * encoder.scale.std + encoder.scale.mean, 6).tolist()


def test_bins_end_at_quantiles_or_at_every_value_if_these_are_few() -> None:
    assert ends([float(i) for i in range(101)]) == pytest.approx([0, 25, 50, 75, 100], abs=1)
    assert ends([3.0, 7.0, 3.0, None, 100.0]) == [3, 7, 100]
    assert ends([5.0] * 9) == [5]  # no bin
    often = ends([0.0] * 900 + [float(i) for i in range(1, 101)])
    assert often[0] == 0 and len(often) == 5 and often[1] < 60, "the value that most rows have takes one bin"


def test_a_row_of_numbers_alone_stands_row_by_row() -> None:
    numbers = RowEncoder(ENCODER.schema.subset(["x", "x_bins", "x_log_bins"]), ENCODER.encoders)
    dense_BN = numbers([{"x": 0.5}, {"x": None}, {"x": -3.0}])[1]
    assert dense_BN.flags.c_contiguous and dense_BN.shape == (3, 9)


def test_bins_out_of_range_and_of_a_bad_file_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.fields.x.buckets: expected at most 1,024, got 2,000"):
        FieldConfig("x", kind="numeric", encoding="piecewise", buckets=2000)
    with pytest.raises(ValueError, match="do not ascend"):
        encoder_from_json({"encoder": "piecewise", "log": False, "mean": 0, "std": 1, "edges": [1, 1]})


@pytest.mark.parametrize("value", [0.1, 3.0, -1e9 - 0.1])
def test_constant_column_does_not_blow_up_later_values(value: float) -> None:
    scale = fit_one(pa.table({"x": [value] * 1000}), FieldConfig("x", kind="numeric"))
    np.testing.assert_allclose(scale.numbers(np.array([value, value + 2.0])), [0, 2], atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("log", [False, True])
def test_any_finite_number_encodes_to_a_finite_one(log: bool) -> None:
    with np.errstate(over="raise"):
        z = Scale(log, 0.0, 0.01).numbers(np.array([1e308, -1e308, 1e30, 0.25]))
    assert np.isfinite(z).all() and np.isfinite(np.square(z)).all()
    assert z[0] > z[3] > z[1]


def test_booleans_are_no_numbers_in_columns_either() -> None:
    with pytest.raises(DataError, match="'x': expected numbers, got bool"):
        fit_one(pa.table({"x": [True, False]}), FieldConfig("x", kind="numeric"))


def test_vocabulary_is_by_count_then_spelling_and_drops_the_rare() -> None:
    table = pa.table({"c": ["z", "b", "z", "a", "b", "rare", "z", "a", None]})
    encoder = fit_one(table, FieldConfig("c", min_count=2))
    assert encoder.to_json() == {"encoder": "vocabulary", "values": ["z", "a", "b"]}
    assert encoder.cardinality == 5
    encoder = fit_one(table, FieldConfig("c", min_count=1, max_size=2))
    assert encoder.to_json()["values"] == ["z", "a"]


def test_two_float_zeros_are_one_value() -> None:
    encoder = fit_one(pa.table({"c": [0.0, -0.0, 5.0, 5.0]}), FieldConfig("c", min_count=2))
    assert sorted(encoder.to_json()["values"]) == ["0", "5"]


def with_weights(given: dict[str, Any]) -> dict[str, Any]:
    """`pairs` as two lists of one length."""
    pairs = given.pop("pairs")
    sides = (None, None) if pairs is None else ([k for k, _ in pairs], [w for _, w in pairs])
    return {**given, "k": sides[0], "g": sides[1]}


words = st.one_of(st.none(), st.sampled_from(["a", "日本", "", "p", "q", "é"]), st.text(max_size=4))
ints = st.one_of(st.none(), st.sampled_from([3, -9, 0]), st.integers(-(2**63), 2**63 - 1))
floats = st.one_of(st.none(), st.just(math.nan), st.floats(-1e9, 1e9))
row = st.fixed_dictionaries(
    {
        "s": words,
        "i": ints,
        "b": st.one_of(st.none(), st.booleans()),
        "f": st.one_of(st.none(), st.just(math.nan), st.integers(-100, 100).map(float)),
        "l": st.one_of(st.none(), st.lists(words, max_size=5)),
        "n": st.one_of(st.none(), st.lists(ints, max_size=4)),
        "x": floats,
        "v": st.one_of(st.none(), st.lists(floats, min_size=2, max_size=2)),
        "t": st.one_of(st.none(), st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31))),
        "w": st.one_of(words, st.sampled_from(["red shoes", "RED  shoes!", "İstanbul ß", "a_b c-d"])),
        "p": st.one_of(words, st.lists(words.filter(bool), max_size=4).map("|".join)),
        "h": st.one_of(st.none(), st.lists(words, max_size=5)),
        "pairs": st.one_of(st.none(), st.lists(st.tuples(ints, st.floats(0, 9)), max_size=4)),
    }
).map(with_weights)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(row, min_size=1, max_size=60))
def test_rows_encode_as_columns_do(rows: list[dict[str, Any]]) -> None:
    check_rows_against_columns(rows)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**63))
def test_a_hundred_thousand_random_rows_encode_as_columns_do(seed: int) -> None:
    check_rows_against_columns([random_row(random.Random(seed + i)) for i in range(1000)])


def random_row(r: random.Random) -> dict[str, Any]:
    """A row of anything that the columns may hold, drawn faster than hypothesis does."""

    def word() -> str | None:
        return r.choice([None, "", "a", "日本", "p", "q", chr(r.randrange(1, 0xD800)) * r.randrange(3)])

    def whole() -> int | None:
        return r.choice([None, 3, -9, 0, r.randrange(-(2**63), 2**63), r.randrange(-99, 99)])

    def real() -> float | None:
        return r.choice([None, math.nan, -0.0, r.gauss(0, 1), r.uniform(-1e9, 1e9), 10 ** r.uniform(-30, 30)])

    def some(make: Callable[[], Any], most: int) -> list[Any] | None:
        return r.choice([None, [make() for _ in range(r.randrange(most + 1))]])

    pairs = some(lambda: (whole(), r.uniform(0, 9)), 4)
    made = {
        "s": word(), "i": whole(), "b": r.choice([None, True, False]), "l": some(word, 5), "n": some(whole, 4),
        "f": r.choice([None, math.nan, float(r.randrange(-99, 99))]), "x": real(), "h": some(word, 5),
        "v": r.choice([None, [real(), real()]]), "w": " ".join(word() or "!" for _ in range(r.randrange(5))),
        "t": r.choice([None, datetime(1970, 1, 1) + timedelta(microseconds=r.randrange(FIRST_US, END_US))]),
        "p": "|".join(word() or "" for _ in range(r.randrange(4))), "pairs": pairs,
    }  # fmt: skip
    return with_weights(made)


def check_rows_against_columns(rows: list[dict[str, Any]]) -> None:
    rows = [*rows, TRAIN[0]]  # its vector tells the width
    ids_BL, dense_BN = encode(as_table(rows))
    row_ids_BL, row_dense_BN = ENCODER(rows)
    np.testing.assert_array_equal(row_ids_BL, ids_BL)
    np.testing.assert_array_equal(row_dense_BN, dense_BN)


@settings(max_examples=30, deadline=None)
@given(st.lists(row, min_size=1, max_size=4))
def test_rows_that_went_through_json_encode_the_same(rows: list[dict[str, Any]]) -> None:
    sent = json.loads(json.dumps(rows, default=datetime.isoformat))
    for got, want in zip(ENCODER(sent), ENCODER(rows), strict=True):
        np.testing.assert_array_equal(got, want)


def test_chunks_slices_and_dictionaries_of_a_column_change_nothing() -> None:
    whole = as_table(TRAIN)
    coded = whole.set_column(0, "s", whole["s"].dictionary_encode())
    chunked = pa.concat_tables([coded.slice(0, 1), coded.slice(1, 3), coded.slice(4)])
    plain = encode(whole)
    for other, part in ((chunked, slice(None)), (chunked.slice(1, 3), slice(1, 4))):
        for got, want in zip(encode(other), plain, strict=True):
            np.testing.assert_array_equal(got, want[part])


def test_subset_of_a_row_encoder_reads_its_own_fields_only() -> None:
    part = ENCODER.schema.subset(["cross", "l", "x"])
    ids_BL, dense_BN = RowEncoder(part, ENCODER.encoders)([{k: TRAIN[0][k] for k in ("s", "i", "b", "l", "x")}])
    whole_ids, whole_dense = ENCODER(TRAIN[:1])
    np.testing.assert_array_equal(ids_BL, whole_ids[:, [5, 7, 8, 9]])
    np.testing.assert_array_equal(dense_BN, whole_dense[:, :1])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("s", 7),
        ("s", True),
        ("s", ["a"]),
        ("i", "3"),
        ("i", 3.5),
        ("i", True),
        ("i", math.inf),
        ("b", 1),
        ("b", "true"),
        ("f", 0.5),
        ("l", "p"),
        ("l", [1]),
        ("l", {"p": 1}),
        ("n", ["1"]),
        ("x", "1.0"),
        ("x", True),
        ("x", math.inf),
        ("x", -math.inf),
        pytest.param("x", 10**400, id="x-huge"),
        ("x", [1.0]),
        ("v", [1.0]),
        ("v", 1.0),
        ("v", [1.0, "2"]),
    ],
)
def test_wrong_type_is_a_data_error_that_names_the_column(column: str, value: Any) -> None:
    with pytest.raises(DataError, match=f"'{column}'") as caught:
        ENCODER([{**TRAIN[0], column: value}])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_missing_column_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"row 1.*'x'.*null"):
        ENCODER([TRAIN[0], {k: v for k, v in TRAIN[0].items() if k != "x"}])


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", "\x00", "\x1f", "x" * 100_000])
def test_odd_strings_of_a_request_still_get_an_id(value: str) -> None:
    ids_BL, _ = ENCODER([{**TRAIN[0], "s": value, "l": [value]}])
    assert ids_BL[0, 0] == UNSEEN and 1 <= ids_BL[0, 4] <= 1000


@given(st.lists(row, min_size=9, max_size=20))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_batch_is_its_rows_one_by_one(rows: list[dict[str, Any]]) -> None:
    """Few rows and many take their loops in another order."""
    many = ENCODER(rows)
    assert all(array.flags.c_contiguous for array in many), "graph.pt2 reads them row by row, whatever their strides"
    for whole, parts in zip(many, zip(*[ENCODER([r]) for r in rows], strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_no_rows_give_empty_arrays() -> None:
    ids_BL, dense_BN = ENCODER([])
    assert ids_BL.shape == (0, 28) and dense_BN.shape == (0, 6 + 4 + 4)


def test_numpy_numbers_are_numbers() -> None:
    assert text(np.int32(7), "int", "c") == text(7.0, "int", "c") == "7"
    assert number(np.float32(0.5), "c") == 0.5 and math.isnan(number(np.float32("nan"), "c"))

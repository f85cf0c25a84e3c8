import json
from dataclasses import replace

import pytest

from recsys.errors import ConfigError
from recsys.features.schema import Field, Schema

A = Field("a", "categorical", ("a",), ("string",), 10)
AB = Field("ab", "categorical", ("a", "b"), ("string", "int"), 50)
M = Field("m", "multi", ("m",), ("int",), 7, 3)
X = Field("x", "numeric", ("x",), ("float",))
V = Field("v", "vector", ("v",), ("float",), 0, 4)
WHOLE = Schema((AB, A, M, X, V), "click", "b")


def test_order_is_kept_and_split_by_kind() -> None:
    assert WHOLE.names == ["ab", "a", "m", "x", "v"]
    assert [f.name for f in WHOLE.sparse] == ["ab", "a", "m"]
    assert [f.name for f in WHOLE.numeric] == ["x", "v"]


def test_raw_columns_name_each_once_in_order_of_first_use() -> None:
    assert WHOLE.raw_columns == ["a", "b", "m", "x", "v"]


def test_json_round_trip_is_equal(tmp_path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(WHOLE.to_json()))
    assert Schema.load(path) == WHOLE


def test_subset_keeps_the_schemas_order_label_and_group() -> None:
    part = WHOLE.subset(["x", "m", "ab"])
    assert part == Schema((AB, M, X), "click", "b")
    assert part["m"] == M and WHOLE["a"] == A, "a subset must not disturb its parent's index"


def test_subset_of_unknown_name_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no field named 'colour'.*ab, a, m"):
        WHOLE.subset(["a", "colour"])
    with pytest.raises(ConfigError, match="at least one field"):
        WHOLE.subset([])


def test_dropped_field_is_unknown_to_the_subset() -> None:
    with pytest.raises(ConfigError, match="no field named 'a'"):
        WHOLE.subset(["m", "x"])["a"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [((), "at least one"), ((A, replace(M, name="a")), r"unique, got \['a'\]"), ((X, A), "numeric fields must come")],
)
def test_impossible_schemas_are_refused(fields: tuple[Field, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema(fields, "click")

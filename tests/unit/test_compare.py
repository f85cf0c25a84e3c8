"""Agreement of rankings against the definitions, by hand and by chance."""

import copy
import random

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.selection.compare import compare, jaccard, jaccard_by_chance, rbo


def report(ranking: list[str], keep: int, data: str = "d", health: str = "sound") -> dict:
    fields = {n: {"rank": i + 1, "verdict": "keep" if i < keep else "drop"} for i, n in enumerate(ranking)}
    provenance = {"data": data, "model": {"seed": 0}}
    return {"fields": fields, "provenance": provenance, "health": {"verdict": health}, "savings": {"table_bytes": 0}}


NAMES = [f"f{i}" for i in range(12)]


def test_a_report_with_itself_agrees_fully():
    found = compare(report(NAMES, 5), report(NAMES, 5))
    assert (found["rbo"], found["jaccard"], found["kendall_tau"]) == pytest.approx((1, 1, 1))
    assert not found["flips"] and not found["movers"] and not found["warnings"]


def test_a_reversed_ranking_has_tau_of_minus_one():
    found = compare(report(NAMES, 5), report(NAMES[::-1], 5))
    assert found["kendall_tau"] == pytest.approx(-1)
    assert found["jaccard"] == 0
    assert len(found["flips"]) == 10


def test_rbo_is_its_definition():
    a, b, p = ["x", "y", "z"], ["y", "x", "w"], 0.9
    overlap = [0, 1, 2 / 3]
    assert rbo(a, b, p) == pytest.approx(sum(p**d * o for d, o in enumerate(overlap)) / (1 + p + p * p))


def test_random_rankings_meet_the_chance_level():
    shuffle = random.Random(0).sample
    drawn = [jaccard(shuffle(NAMES, 12), shuffle(NAMES, 12), 5) for _ in range(4000)]
    expected = jaccard_by_chance(5, 12)
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / 4000**0.5)
    assert jaccard_by_chance(12, 12) == pytest.approx(1)


def test_differences_that_forbid_trust_are_named():
    a, b = report(NAMES, 5), report([*NAMES[1:], "new"], 5, data="other", health="overfit")
    b["provenance"]["model"] = {"seed": 1, "model": "fm"}
    found = compare(a, b)
    assert found["added"] == ["new"] and found["removed"] == ["f0"]
    assert len(found["warnings"]) == 3
    same_but_for_the_seed = copy.deepcopy(a)
    same_but_for_the_seed["provenance"]["model"]["seed"] = 7
    assert not compare(a, same_but_for_the_seed)["warnings"]
    with pytest.raises(ConfigError, match="share no field"):
        compare(a, report(["z"], 1))

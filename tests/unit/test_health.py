"""What a report says of its model before it says anything of fields."""

import numpy as np
import pytest

from recsys.metrics import logloss
from recsys.selection.price import default_price, gain_over_constant
from recsys.selection.report import doubt, health
from recsys.selection.scores import FieldScores, decide
from tests.unit.test_leap import linear


def judged(model, train, valid):
    found = health(model, train, valid)
    return found["verdict"], found["reason"], doubt(found)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A model that is right about its rows."""
    return linear(tmp_path_factory.mktemp("l"), {"a": 1.0, "b": 0.3}, rows=10_000)[:2]


def test_a_model_that_is_right_is_sound(learned):
    model, valid = learned
    assert judged(model, valid, valid) == ("sound", "", "")


def test_labels_without_relation_are_no_signal(learned, tmp_path):
    model = learned[0]
    null = linear(tmp_path, {"a": 0.0, "b": 0.0}, rows=10_000)[1]
    verdict, reason, why = judged(model, null, null)
    assert verdict == "no signal" and "chance" in reason and why.startswith("no signal")


def test_a_constant_model_is_no_signal(learned):
    model, valid = learned
    weight = model.interaction.weight.data.clone()
    model.interaction.weight.data.zero_()
    verdict = judged(model, valid, valid)[0]
    model.interaction.weight.data.copy_(weight)
    assert verdict == "no signal"


def test_a_model_that_ranks_but_is_worse_than_a_constant_is_inconclusive(learned):
    model, valid = learned
    model.interaction.weight.data.mul_(30)
    verdict, reason, why = judged(model, valid, valid)
    model.interaction.weight.data.div_(30)
    assert verdict == "inconclusive" and "worse than a constant" in reason and why.startswith("inconclusive")


def test_an_overfit_model_is_inconclusive_and_keeps_its_verdicts(learned, tmp_path):
    model, valid = learned
    easy = linear(tmp_path, {"a": 6.0, "b": 1.8}, rows=10_000)[1]
    verdict, reason, why = judged(model, easy, valid)
    assert verdict == "inconclusive" and "overfit" in reason and why == ""


def test_gain_is_the_difference_of_loglosses_with_its_error(learned):
    r = np.random.default_rng(0)
    logit, y = r.normal(size=500), (r.random(500) < 0.3).astype(np.float32)
    p = 1 / (1 + np.exp(-logit))
    gain = gain_over_constant(logit, y)
    rows = np.where(y == 1, np.log(p / y.mean()), np.log((1 - p) / (1 - y.mean())))
    assert gain.mean == pytest.approx(logloss(np.full(500, y.mean()), y) - logloss(p, y))
    assert gain.error == pytest.approx(rows.std() / 500**0.5)


def test_a_model_without_gain_still_has_a_price(learned):
    model, valid = learned
    gain = default_price(model, valid, 0.01) / 0.01
    weight = model.interaction.weight.data.clone()
    model.interaction.weight.data.zero_()
    floor = default_price(model, valid, 0.01) / 0.01
    model.interaction.weight.data.copy_(weight)
    assert floor == pytest.approx(0.05 * np.log(2), rel=0.01)
    assert gain > 2 * floor


def test_where_no_score_can_be_believed_no_field_is_dropped():
    scores = FieldScores({"a": 1.0, "b": 0.0}, {"a": True, "b": False}, {"a": {}, "b": {}}, {"method": "x"})
    made = decide(scores, protect=["a"], doubt="no signal: chance")
    assert [(v.field, v.verdict) for v in made] == [("a", "protected"), ("b", "uncertain")]
    assert made[1].reason == "no signal: chance"

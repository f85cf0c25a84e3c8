"""LeAP's own prices w_i·λ, where they are not 1: in what its gates cost and in what its scores say."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tests.unit.test_leap import linear, search

RARE = 0.16  # share of rows in which the second field is not 0: a permutation changes about .3 of its rows


def uneven(tmp_path, strength: float):
    """A field of numbers and one that is mostly 0, of which only the first tells the label; w of the first."""
    model, valid, _ = linear(tmp_path, {"a": strength, "b": 0.0})
    there = np.random.default_rng(2).random(len(valid)) < RARE
    column = valid._dense[:, model.schema.names.index("b")]
    column *= there
    change = 1 - np.sum(np.unique(column, return_counts=True)[1].astype(float) ** 2) / len(valid) ** 2
    lower = np.sqrt(change)  # torch's median of two is the lower one, and a's change rate is 1
    return model, valid, 1 / lower


def test_a_gate_pays_its_weight_times_the_price(tmp_path) -> None:
    """Where E BCE + λ·w·g is least, found numerically; without w the gate would stand elsewhere."""
    model, valid, weight = uneven(tmp_path, 0.9)
    price = 0.065
    found = search(model, valid, price=price, steps=600, adaptive=True).details["a"]
    assert found["weight"] == pytest.approx(weight, rel=1e-3) and weight > 1.5
    batch = valid.batch(slice(0, len(valid)))
    a, y = batch.dense_BN[:, 0].double().numpy(), batch.label_B.double().numpy()
    other = np.random.default_rng(1).permutation(a)

    def best(paid: float) -> float:
        def loss(g: float) -> float:
            z = 0.9 * (g * a + (1 - g) * other)
            return float(np.mean(np.logaddexp(0, z) - y * z)) + paid * g

        return minimize_scalar(loss, bounds=(0.02, 0.98), method="bounded").x

    assert abs(best(weight * price) - best(price)) > 0.1, "the test needs a weight that shows"
    assert found["gate"] == pytest.approx(best(weight * price), abs=0.05)


def test_a_score_is_weight_times_where_the_gate_closed(tmp_path) -> None:
    """The same gate under the same climb: its score grows by w when its price does, up to where it closed."""
    model, valid, weight = uneven(tmp_path, 0.25)
    plain, paid = (search(model, valid, price=0.05, adaptive=a) for a in (False, True))
    first, second = plain.details["a"], paid.details["a"]
    assert second["closes_at"] < first["closes_at"] < 0.1
    assert first["closes_at"] / second["closes_at"] == pytest.approx(weight, rel=0.25), "it closes w times earlier"
    assert paid.score["a"] == pytest.approx(plain.score["a"], rel=0.25), "and yet is worth the same"

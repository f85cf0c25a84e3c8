"""LeAP against numerical optima, and five broken LeAPs that must miss them."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.optimize import minimize

from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.frame.ctr import CTR
from recsys.selection import gates as gates_module
from recsys.selection.gates import EDGE, Gates, gated, rolled
from recsys.selection.methods import leap as leap_module
from tests.unit.test_leap import Linear, linear, search

PRICE = 0.06


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two columns that nearly cancel, and one that is not used; which gates are best, found numerically."""
    r, rows = np.random.default_rng(0), 20_000
    common = r.normal(size=rows)
    x = {"a": common + 0.3 * r.normal(size=rows), "b": common + 0.3 * r.normal(size=rows), "c": r.normal(size=rows)}
    weight = {"a": 1.4, "b": -0.9, "c": 0.0}
    label = (r.random(rows) < 1 / (1 + np.exp(-sum(w * x[n] for n, w in weight.items())))).astype(np.int8)
    config = {"name": "p", "label": "label", "split": {"shares": [0.1, 0.8, 0.1]}}
    config["fields"] = {n: {"kind": "numeric"} for n in x}
    folder = prepare(config, lambda: pa.table({**x, "label": label}), tmp_path_factory.mktemp("p"))
    valid = Shards(folder, "valid")
    model = CTR(valid.schema, per_field(valid.schema), partial(Linear, weight=[weight[n] for n in valid.schema.names]))
    batch = valid.batch(slice(0, len(valid)))
    at = valid.schema.names.index
    a, b = (weight[n] * batch.dense_BN[:, at(n)].double().numpy() for n in ("a", "b"))
    y = batch.label_B.double().numpy()
    others = [(r.permutation(a), r.permutation(b)) for _ in range(5)]

    def loss(g):
        z = [g[0] * a + (1 - g[0]) * a2 + g[1] * b + (1 - g[1]) * b2 for a2, b2 in others]
        return float(np.mean([np.logaddexp(0, v) - y * v for v in z])) + PRICE * sum(g)

    best = minimize(loss, [0.5, 0.5], bounds=[(EDGE, 1 - EDGE)] * 2).x
    return model, valid, dict(zip("ab", best, strict=True))


def gates_are_best(pair) -> bool:
    model, valid, best = pair
    found = search(model, valid, price=PRICE, steps=400, adaptive=False).details
    return all(abs(found[n]["gate"] - g) < 0.06 for n, g in best.items()) and found["c"]["gate"] < 0.05


def test_the_gates_of_a_cancelling_pair_are_the_joint_argmin(pair):
    assert any(0.1 < g < 0.95 for g in pair[2].values()), "the test needs an optimum inside"
    assert gates_are_best(pair)


def frozen(monkeypatch):
    """Gates that never move from 1."""
    monkeypatch.setattr(leap_module._GateTraining, "step", lambda self, price: 0.0)
    monkeypatch.setattr(Gates, "gates", lambda self: torch.ones_like(self.theta_U))


def one_permutation(monkeypatch):
    """All fields move together."""
    monkeypatch.setattr(gates_module, "rolled", lambda x, shift_U, of: rolled(x, shift_U[:1].expand_as(shift_U), of))


def sign(monkeypatch):
    """An open gate lets the permutation through."""
    monkeypatch.setattr(gates_module, "gated", lambda x, other, gate_U, of: gated(x, other, 1 - gate_U, of))


def unshuffled(monkeypatch):
    """What replaces a row is the row."""
    monkeypatch.setattr(gates_module, "rolled", lambda x, shift_U, of: x.clone())


def wrong_column(monkeypatch):
    """Every gate acts on its neighbour."""
    monkeypatch.setattr(gates_module, "gated", lambda x, other, gate_U, of: gated(x, other, gate_U, of.roll(1)))


SLOW_MUTANTS = [pytest.param(m, marks=pytest.mark.slow) for m in (frozen, one_permutation, unshuffled, wrong_column)]


@pytest.mark.parametrize("mutant", [sign, *SLOW_MUTANTS], ids=lambda m: m.__name__)
def test_a_broken_leap_misses_the_optimum(mutant, pair, monkeypatch):
    mutant(monkeypatch)
    assert not gates_are_best(pair)


def test_name_order_and_seed_do_not_change_what_a_field_is_worth(tmp_path):
    """Order changes nothing; a new name or seed draws other permutations of the same expectation."""
    weight = {"a": 1.0, "b": 0.3, "c": 0.0}
    first = search(*linear(tmp_path / "1", weight)[:2], price=1e-3)
    model, valid, _ = linear(tmp_path / "2", {f"x{n}": w for n, w in weight.items()})
    renamed, seeded = search(model, valid, price=1e-3), search(model, valid, seed=9, price=1e-3)
    for name in weight:
        for other in (renamed, seeded):  # a fifth of a decade: the gate's mean over the climb within .05
            assert np.log10(other.score[f"x{name}"]) == pytest.approx(np.log10(first.score[name]), abs=0.2)
    assert renamed.keep == seeded.keep == {f"x{n}": k for n, k in first.keep.items()}

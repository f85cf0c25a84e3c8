"""LeAP against its definition, on models whose answer is known."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.frame.ctr import CTR
from recsys.selection.columns import change_rates, field_generators, units
from recsys.selection.gates import Gates, adaptive_weights, gated, rolled, rolled_blocks
from recsys.selection.methods.leap import _worth_its_price, leap
from recsys.selection.methods.permutation import permutation
from recsys.selection.scores import decide
from recsys.selection.search import Search
from recsys.training.config import TrainConfig


class Linear(nn.Module):
    """logit = w·x: what a gate does to it can be computed by hand."""

    def __init__(self, widths, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x_BW):
        return x_BW @ self.weight


def linear(tmp_path, weight: dict[str, float], scale: dict[str, float] | None = None, rows: int = 20_000):
    """Rows of independent normals whose label follows the linear logit exactly."""
    r = np.random.default_rng(0)
    x = {n: r.normal(size=rows) for n in sorted(weight)}
    logit = sum(w * x[n] for n, w in weight.items())
    label = (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    table = pa.table({**{n: x[n] * (scale or {}).get(n, 1.0) for n in weight}, "label": label})
    config = {"name": "l", "label": "label", "split": {"shares": [0.1, 0.8, 0.1]}}
    config["fields"] = {n: {"kind": "numeric"} for n in weight}
    valid = Shards(prepare(config, lambda: table, tmp_path), "valid")
    schema = valid.schema
    model = CTR(schema, per_field(schema), partial(Linear, weight=[weight[n] for n in schema.names]))
    return model, valid, np.stack([x[n] for n in schema.names], 1)


def given(model, valid, seed=0) -> Search:
    """What a selector is given; LeAP looks at no training rows."""
    return Search(model, valid, valid, lambda schema: model, TrainConfig(precision="fp32"), seed)


def search(model, valid, seed=0, **settings):
    """LeAP."""
    return leap(given(model, valid, seed), **settings)


def test_gate_is_the_argmin_of_the_expected_loss(tmp_path):
    """E over permutations of BCE(y, Σ w(g·x + (1 − g)·x')) + λ·w_i·g, minimised numerically for one g."""
    price = 0.09
    model, valid, _ = linear(tmp_path, {"a": 0.9, "b": 0.0})
    found = search(model, valid, price=price, steps=600, adaptive=False).details["a"]["gate"]
    x = valid.batch(slice(0, len(valid)))
    a, y = x.dense_BN[:, 0].double().numpy(), x.label_B.double().numpy()
    other = np.random.default_rng(1).permutation(a)

    def loss(g: float) -> float:
        z = 0.9 * (g * a + (1 - g) * other)
        return float(np.mean(np.logaddexp(0, z) - y * z)) + price * g

    best = minimize_scalar(loss, bounds=(0.02, 0.98), method="bounded").x
    assert 0.1 < best < 0.97, "the test needs an optimum inside"
    assert found == pytest.approx(best, abs=0.05)


def test_order_of_fields_changes_no_score(tmp_path):
    weight = {"a": 1.0, "b": 0.3, "c": 0.0}
    first = search(*linear(tmp_path / "1", weight)[:2], price=1e-3)
    second = search(*linear(tmp_path / "2", dict(reversed(weight.items())))[:2], price=1e-3)
    for name in weight:
        assert first.score[name] == pytest.approx(second.score[name], rel=1e-3)


def test_a_column_ten_times_larger_under_a_weight_ten_times_smaller_keeps_its_gate(tmp_path):
    """Preparation standardises; undo it with the weight, so that the logit is the same."""
    weight = {"a": 1.0, "b": 0.3}
    plain = search(*linear(tmp_path / "1", weight)[:2], price=1e-3)
    scaled = search(*linear(tmp_path / "2", weight, scale={"b": 10.0})[:2], price=1e-3)
    for name in weight:
        assert plain.details[name]["gate"] == pytest.approx(scaled.details[name]["gate"], abs=1e-3)


def test_gates_mix_each_field_with_its_own_permutation():
    x_BW = torch.arange(12.0).view(4, 3)
    of_column_W = torch.tensor([0, 1, 1])
    other = rolled(x_BW, torch.tensor([1, 3]), of_column_W)
    torch.testing.assert_close(other[:, 0], x_BW[[1, 2, 3, 0], 0])
    torch.testing.assert_close(other[:, 1:], x_BW[[3, 0, 1, 2], 1:])
    assert torch.equal(rolled_blocks(x_BW, [1, 3], [1, 2]), other)  # what other devices than the CPU do
    torch.testing.assert_close(gated(x_BW, other, torch.ones(2), of_column_W), x_BW)
    torch.testing.assert_close(gated(x_BW, other, torch.zeros(2), of_column_W), other)
    mixed = gated(x_BW, other, torch.tensor([0.25, 1.0]), of_column_W)
    torch.testing.assert_close(mixed[:, 0], 0.25 * x_BW[:, 0] + 0.75 * other[:, 0])
    torch.testing.assert_close(mixed[:, 1:], x_BW[:, 1:])


def mixed_by(model, valid, seed=0, rows=50):
    """What closed gates put in the place of 50 rows, and the rows."""
    found = units(model, valid)
    gates = Gates(found, torch.ones(len(found.names)), seed, 5)
    gates.gates = lambda: torch.zeros(len(found.names))
    x_BW = torch.arange(float(rows))[:, None].expand(rows, len(found.of_column_W)).contiguous()
    return torch.stack([gates(x_BW) for _ in range(5)]), x_BW


def test_fields_are_permuted_independently_and_by_name(tmp_path):
    other, x = mixed_by(*linear(tmp_path / "1", {"a": 1.0, "b": 0.3}, rows=4000)[:2])
    assert (other.sort(1).values == x).all(), "every row is there once"
    assert (other != x).all(), "no row keeps its own value"
    assert (other[:, :, 0] != other[:, :, 1]).any(1).all(), "each field has a permutation of its own"
    assert (other[0] != other[1]).any(), "and each batch"
    more = mixed_by(*linear(tmp_path / "2", {"b": 0.3, "c": 0.0}, rows=4000)[:2])[0]
    torch.testing.assert_close(more[:, :, 0], other[:, :, 1])


def test_adaptive_weights_follow_width_and_change_rate():
    weight = adaptive_weights(torch.tensor([1.0, 4.0, 16.0, 64.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.01]))
    torch.testing.assert_close(weight, torch.tensor([0.5, 1.0, 2.0, 4.0, 0.05]))


def test_change_rate_is_the_chance_that_another_row_differs(valid):
    rates = change_rates(valid)
    ids = valid.batch(slice(0, len(valid))).ids_BL[:, 0].numpy()
    slow = np.mean([np.mean(ids != v) for v in ids])
    assert rates[valid.schema.sparse[0].name] == pytest.approx(slow)
    assert all(0 <= c <= 1 for c in rates.values())


def test_every_name_and_seed_draws_its_own():
    drawn = [torch.rand(3, generator=g).tolist() for s in (0, 1, 2**32) for g in field_generators(["a", "b"], s)]
    assert len({tuple(d) for d in drawn}) == 6


def test_a_score_orders_fields_as_permuting_them_does_and_is_not_called_nats(tmp_path):
    weight = {"a": 1.0, "b": 0.5, "c": 0.25}
    model, valid, _ = linear(tmp_path, weight)
    assert search(model, valid, price=1e-3).ranking == ["a", "b", "c"]
    assert "no unit" in " ".join((leap.__doc__ or "").split())


def test_a_price_that_is_given_is_every_fields_and_adding_a_field_does_not_move_it(tmp_path):
    """A flag of few active rows pays by default by its weight, far from 1; at a given price what all pay."""
    price = 2e-3
    for n, extra in enumerate(({}, {"z1": 0.0, "z2": 0.0})):
        found = search(*linear(tmp_path / str(n), {"a": 1.0, "b": 0.3, **extra}, rows=8000)[:2], price=price)
        assert [d["price"] for d in found.details.values()] == pytest.approx([price] * (2 + len(extra)))
    model, valid, _ = linear(tmp_path / "2", {"a": 1.0, "flag": 0.3}, rows=8000)
    column = valid._dense[:, model.schema.names.index("flag")]
    column[:] = (column > 2).astype(np.float32)
    by_default, given = search(model, valid), search(model, valid, price=price)
    assert by_default.details["flag"]["price"] < 0.7 * by_default.details["a"]["price"]
    assert given.details["flag"]["price"] == given.details["a"]["price"] == pytest.approx(price)


@pytest.mark.slow
def test_near_its_price_a_field_is_kept_by_what_shuffling_it_costs(tmp_path):
    """Whatever its gate says; the verdict and its reason tell both figures, in nats."""
    model, valid, _ = linear(tmp_path, {"a": 1.0, "b": 0.5, "c": 0.25})
    worth = permutation(given(model, valid), repeats=5).score["b"]
    measured = 0
    for price in np.geomspace(0.3, 3, 7) * worth:
        found = search(model, valid, price=float(price))
        for v in decide(found):
            d = found.details[v.field]
            if "delta_logloss" not in d:
                assert found.keep[v.field] == (d["gate"] > 0.5) and not 0.1 < d["gate"] < 0.9
                continue
            measured += 1
            assert found.keep[v.field] == (d["delta_logloss"] > price)
            close = abs(d["delta_logloss"] - price) <= 1.96 * d["delta_logloss_error"]
            assert v.verdict == ("uncertain" if close else "keep" if d["delta_logloss"] > price else "drop")
            assert f"{d['delta_logloss']:.1e}" in v.reason and f"{price:.1e}" in v.reason
        if "delta_logloss" in found.details["b"]:
            assert found.details["b"]["delta_logloss"] == pytest.approx(worth, rel=0.2)
    assert measured


def test_a_measured_cost_overrules_the_gate():
    assert _worth_its_price({"gate": 0.2, "price": 1e-3, "delta_logloss": 2e-3})
    assert not _worth_its_price({"gate": 0.8, "price": 1e-3, "delta_logloss": 5e-4})

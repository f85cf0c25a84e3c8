"""LeAP against its definition, on models whose answer is known."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import average_precision_score
from torch import nn

from recsys.data import planted
from recsys.data.prepare import prepare
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.errors import ConfigError, DataError
from recsys.models.ctr import CTR
from recsys.models.dcn import DCN
from recsys.selection.columns import change_rates, field_generators, permuted_rows
from recsys.selection.leap import adaptive_weights, gated, leap
from recsys.selection.report import health
from recsys.train import TrainConfig, fit


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


def test_gate_is_the_argmin_of_the_expected_loss(tmp_path):
    """E over permutations of BCE(y, Σ w(g·x + (1 − g)·x')) + λ·w_i·g, minimised numerically for one g."""
    price = 0.09
    model, valid, _ = linear(tmp_path, {"a": 0.9, "b": 0.0})
    found = leap(model, valid, seed=0, price=price, steps=600, adaptive=False).details["a"]["gate"]
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
    first = leap(*linear(tmp_path / "1", weight)[:2], seed=0, price=1e-3)
    second = leap(*linear(tmp_path / "2", dict(reversed(weight.items())))[:2], seed=0, price=1e-3)
    for name in weight:
        assert first.score[name] == pytest.approx(second.score[name], abs=1e-4)


def test_a_column_ten_times_larger_under_a_weight_ten_times_smaller_keeps_its_gate(tmp_path):
    """Preparation standardises; undo it with the weight, so that the logit is the same."""
    weight = {"a": 1.0, "b": 0.3}
    plain = leap(*linear(tmp_path / "1", weight)[:2], seed=0, price=1e-3)
    scaled = leap(*linear(tmp_path / "2", weight, scale={"b": 10.0})[:2], seed=0, price=1e-3)
    for name in weight:
        assert plain.details[name]["gate"] == pytest.approx(scaled.details[name]["gate"], abs=1e-3)


def test_gates_mix_each_field_with_its_own_permutation():
    x_BW = torch.arange(12.0).view(4, 3)
    width_F = torch.tensor([1, 2])
    index_BF = torch.tensor([[1, 3], [0, 2], [3, 1], [2, 0]])
    shuffled = torch.stack([x_BW[index_BF[:, 0], 0], x_BW[index_BF[:, 1], 1], x_BW[index_BF[:, 1], 2]], 1)
    torch.testing.assert_close(gated(x_BW, index_BF, torch.ones(2), width_F), x_BW)
    torch.testing.assert_close(gated(x_BW, index_BF, torch.zeros(2), width_F), shuffled)
    mixed = gated(x_BW, index_BF, torch.tensor([0.25, 1.0]), width_F)
    torch.testing.assert_close(mixed[:, 0], 0.25 * x_BW[:, 0] + 0.75 * shuffled[:, 0])
    torch.testing.assert_close(mixed[:, 1:], x_BW[:, 1:])


def test_fields_are_permuted_independently_and_by_name():
    index_BF = permuted_rows(field_generators(["a", "b"], 0), 50)
    assert sorted(index_BF[:, 0].tolist()) == list(range(50))
    assert not torch.equal(index_BF[:, 0], index_BF[:, 1])
    torch.testing.assert_close(permuted_rows(field_generators(["z", "b"], 0), 50)[:, 1], index_BF[:, 1])


def test_adaptive_weights_follow_width_and_change_rate():
    weight = adaptive_weights(torch.tensor([1.0, 4.0, 16.0, 64.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.01]))
    torch.testing.assert_close(weight, torch.tensor([0.5, 1.0, 2.0, 4.0, 0.05]))


def test_change_rate_is_the_chance_that_another_row_differs(valid):
    rates = change_rates(valid)
    ids = valid.batch(slice(0, len(valid))).ids_BL[:, 0].numpy()
    slow = np.mean([np.mean(ids != v) for v in ids])
    assert rates[valid.schema.sparse[0].name] == pytest.approx(slow)
    assert all(0 <= c <= 1 for c in rates.values())


def test_bad_settings_are_refused(tmp_path):
    model, valid, _ = linear(tmp_path, {"a": 1.0, "b": 0.3}, rows=4000)
    with pytest.raises(ConfigError, match="at least 150"):
        leap(model, valid, 0, steps=10)
    with pytest.raises(ConfigError, match="above 0"):
        leap(model, valid, 0, price=0.0)
    model.interaction.weight.data.neg_()
    with pytest.raises(DataError, match="no signal"):
        leap(model, valid, 0)


@pytest.mark.slow
def test_planted_truth_is_found(tmp_path):
    """Average precision ≥ .95, all sparse fields and at most one noise field, on 4 of 5 seeds."""
    passed = []
    for seed in range(5):
        config = {"name": "planted", "label": "click", "split": {"shares": [0.7, 0.15, 0.15]}, "seed": seed}
        kinds = {n: "vector" if "vector" in n else "numeric" if "scalar" in n else "categorical" for n in names()}
        kinds |= {"duplicate": "numeric", "pair_a": "numeric", "pair_b": "numeric"}
        config["fields"] = {n: {"kind": k} for n, k in kinds.items()}
        folder = prepare(config, partial(planted.load, seed=seed), tmp_path)
        train, valid = Shards(folder, "train"), Shards(folder, "valid")
        torch.manual_seed(seed)
        model = CTR(train.schema, per_field(train.schema), partial(DCN, dropout=0.2), 0.2)
        how = TrainConfig(batch_size=1024, lr=1e-3, table_lr=0.02, max_epochs=2, warmup_steps=20, evals_per_epoch=2)
        fit(model, train, valid, how, seed)
        sound = health(model, train, valid)
        assert sound["valid_auc"] >= 0.74, f"inconclusive: the model itself is too weak ({sound})"
        found = leap(model, valid, seed)
        precision = average_precision_score(
            [n not in planted.NOISE for n in names()], [found.score[n] for n in names()]
        )
        sparse, noise = (sum(found.keep[n] for n in group) for group in (planted.SPARSE, planted.NOISE))
        passed.append(precision >= 0.95 and sparse == 4 and noise <= 1)
    assert sum(passed) >= 4, passed


def names() -> list[str]:
    return [*planted.INFORMATIVE, *planted.SPARSE, *planted.NOISE]

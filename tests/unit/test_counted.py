"""Sample weights in selection: weight 0 is no row, weight n is n rows."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from omegaconf import OmegaConf

from recsys.config.factory import make
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.evaluation.metrics import weighted_mean
from recsys.frame.ctr import CTR
from recsys.selection.columns import change_rates
from recsys.selection.counted import Rows, counted, donors, resampled
from recsys.selection.price import default_price, gain_over_constant
from recsys.selection.reports.health import health
from recsys.selection.search import gate_loss
from recsys.selection.shuffle import shuffled_cost
from recsys.training.device import CPU
from tests.unit.test_leap import Linear, given

CONF = Path(__file__).parents[2] / "conf" / "selection"
FROZEN = ("leap", "permutation", "sfs", "shark")
WEIGHT = {"a": 1.0, "b": 0.8, "c": 0.0}


def split_of(folder, columns, weight):
    table = pa.table({**columns, "weight": weight.astype(np.float32)})
    fields = {n: {"kind": "numeric"} for n in WEIGHT}
    config = {"name": "w", "label": "label", "weight": "weight", "split": {"shares": [0.1, 0.8, 0.1]}, "fields": fields}
    return Shards(prepare(config, lambda: table, folder), "valid")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Half of the rows weigh 0; their label follows b, the others' a."""
    r, rows = np.random.default_rng(0), 12_000
    columns = {n: r.normal(size=rows) for n in WEIGHT}
    out = r.random(rows) < 0.5
    logit = np.where(out, 2 * columns["b"], 1.5 * columns["a"])
    columns["label"] = (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    valid = split_of(tmp_path_factory.mktemp("w"), columns, np.where(out, 0.0, 1.0))
    model = CTR(valid.schema, per_field(valid.schema), partial(Linear, weight=[WEIGHT[n] for n in valid.schema.names]))
    return model, valid


def run(name, model, valid):
    select = make(OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")), "selection")
    return select(given(model, valid))


@pytest.mark.parametrize("name", FROZEN)
def test_rows_of_weight_0_are_as_good_as_dropped(name, case):
    model, valid = case
    dropped = Rows(valid, np.flatnonzero(valid.weight_B > 0))
    found, want = run(name, model, valid), run(name, model, dropped)
    assert found.score == want.score and found.keep == want.keep
    if name not in ("sfs", "shark"):  # b misleads on the rows that count, which both take for importance
        assert found.ranking[0] == "a"
    everything = Rows(valid, np.arange(len(valid)))
    everything.weight_B = None
    assert run(name, model, everything).score != pytest.approx(want.score, rel=0.1), "the test needs rows that matter"


def test_health_price_and_shuffles_leave_out_rows_of_weight_0(case):
    model, valid = case
    dropped = Rows(valid, np.flatnonzero(valid.weight_B > 0))
    assert default_price(model, valid, 0.01) == default_price(model, dropped, 0.01)
    groups = {"x": ["a"], "y": ["b", "c"]}
    assert shuffled_cost(model, valid, groups, 0) == shuffled_cost(model, dropped, groups, 0)
    found, want = health(model, valid, valid), health(model, dropped, dropped)
    assert found.agreement == want.agreement and found.gain == want.gain
    assert found.train_auc == pytest.approx(want.train_auc)


@pytest.fixture(scope="module")
def weighed(case):
    """The rows that count, weighing 1, 2 or 3; and the same rows as often as they weigh."""
    model, valid = case
    once = counted(valid)
    weight = np.random.default_rng(1).integers(1, 4, len(once)).astype(np.float32)
    few = Rows(once, np.arange(len(once)))
    few.weight_B = weight
    few.batch = lambda rows: _with(once.batch(rows), weight[rows])
    repeated = Rows(once, np.random.default_rng(2).permutation(np.repeat(np.arange(len(once)), weight.astype(int))))
    return model, few, repeated


def _with(batch, weight):
    batch.weight_B = torch.from_numpy(weight)
    return batch


def test_the_default_price_is_that_of_repeated_rows(weighed):
    model, few, repeated = weighed
    assert default_price(model, few, 0.01) == pytest.approx(default_price(model, repeated, 0.01), rel=1e-6)
    plain = Rows(few._real, np.arange(len(few)))
    assert default_price(model, plain, 0.01) != pytest.approx(default_price(model, few, 0.01), rel=1e-6)


def test_a_weight_of_n_is_n_rows(weighed):
    """Exactly for what draws nothing; within noise where other rows are drawn."""
    model, few, repeated = weighed
    one, many = (run("shark", model, s).score for s in (few, repeated))
    assert one == pytest.approx(many, rel=1e-5)
    assert change_rates(few) == pytest.approx(change_rates(repeated), abs=1e-9)
    logit = [np.concatenate([model(b)[:, 0].detach().numpy() for b in s.batches(999)]) for s in (few, repeated)]
    gain = [gain_over_constant(z, s.label_B, s.weight_B) for z, s in zip(logit, (few, repeated), strict=True)]
    assert gain[0].mean == pytest.approx(gain[1].mean) and gain[0].constant == pytest.approx(gain[1].constant)
    for name in WEIGHT:
        (a,), (b,) = (shuffled_cost(model, s, {"x": [name]}, 0).values() for s in (few, repeated))
        noise = 4 * (a.delta_logloss_error + b.delta_logloss_error)
        assert a.delta_logloss == pytest.approx(b.delta_logloss, abs=noise + 1e-12)
    one, many = (run("permutation", model, s).score for s in (few, repeated))
    assert one == pytest.approx(many, abs=0.02)
    one, many = (run("leap", model, s).score for s in (few, repeated))
    assert np.log10(list(one.values())) == pytest.approx(np.log10(list(many.values())), abs=0.3)


def test_what_replaces_a_value_is_drawn_as_it_weighs(case):
    """Rows of a large `a` weigh nine times: against every row's value in every row."""
    model, valid = case
    rows = Rows(valid, np.flatnonzero(valid.weight_B > 0)[:500])
    at = model.schema.names.index("a")
    x, y = rows.batch(slice(0, 500)).dense_BN.double().numpy(), rows.label_B
    w = np.where(x[:, at] > 0, 9.0, 1.0).astype(np.float32)
    rows.weight_B, rows.batch = w, lambda part, batch=rows.batch: _with(batch(part), w[part])
    head = model.interaction.weight.detach().double().numpy()
    assert head[at] == 1.0
    logit = x @ head
    other = (logit - x[:, at])[:, None] + x[None, :, at]  # row, donor
    loss = [np.logaddexp(0, z) - y.reshape(-1, *[1] * (z.ndim - 1)) * z for z in (logit, other)]
    want = np.average(np.average(loss[1], axis=1, weights=w) - loss[0], weights=w)
    plain = np.average(loss[1].mean(1) - loss[0], weights=w)
    found = [shuffled_cost(model, rows, {"x": ["a"]}, s)["x"].delta_logloss for s in range(60)]
    error = np.std(found) / 60**0.5
    assert np.mean(found) == pytest.approx(want, abs=5 * error) and abs(want - plain) > 10 * error


def test_fields_together_share_their_donors(case):
    """Half of a and half of its copy are a: in one order they lose what a loses."""
    model, valid = case
    rows, names = counted(valid), model.schema.names
    x = rows.batch(slice(0, len(rows)))
    b, a = names.index("b"), names.index("a")
    rows.batch = lambda part, batch=rows.batch: _copied(batch(part), a, b)
    twin = CTR(valid.schema, per_field(valid.schema), partial(Linear, weight=[0.0] * 3))
    twin.interaction.weight.data[[a, b]] = 0.5
    z, y = x.dense_BN[:, a].double().numpy(), rows.label_B
    other = z[np.random.default_rng(0).permutation(len(z))]
    loss = [np.mean(np.logaddexp(0, v) - y * v) for v in (z, other, (z + other) / 2)]
    for together, want in ((True, loss[1] - loss[0]),):
        got = shuffled_cost(twin, rows, {"x": ["a", "b"]}, 0, together=together)["x"].delta_logloss
        assert got == pytest.approx(want, rel=0.1)
    apart = shuffled_cost(twin, rows, {"x": ["a", "b"]}, 0)["x"].delta_logloss
    assert apart < 0.8 * got


def _copied(batch, a, b):
    batch.dense_BN[:, b] = batch.dense_BN[:, a]
    return batch


def test_auc_of_shuffled_rows_is_of_logits_which_do_not_saturate(case):
    model, valid = case
    far = CTR(valid.schema, per_field(valid.schema), partial(Linear, weight=[WEIGHT[n] for n in valid.schema.names]))
    far.logits_of = lambda x_BW, head=model.logits_of: head(x_BW) + 40  # probabilities of 1, all of them
    near, want = (shuffled_cost(m, valid, {"x": ["a"]}, 0)["x"].delta_auc for m in (far, model))
    assert want < -0.1 and near == pytest.approx(want, abs=1e-3)


def test_health_reads_training_rows_that_count_from_anywhere(case):
    """The first half of training weighs nothing (a warm-up), and the model is right about the other half alone."""
    model, valid = case
    once = counted(valid)
    train = Rows(once, np.arange(len(once)))
    half = len(once) // 2
    train.weight_B = np.repeat([0.0, 1.0], [half, len(once) - half]).astype(np.float32)
    train.label_B = np.where(np.arange(len(once)) < half, 1 - once.label_B, once.label_B)
    assert health(model, train, valid, rows=half).train_auc > 0.7
    train.weight_B = None
    train.label_B = np.r_[1 - once.label_B[: half // 2], once.label_B[half // 2 :]]
    assert 0.55 < health(model, train, valid, rows=half).train_auc < 0.75, "of all rows, not of the first"


def test_gate_loss_is_the_weighted_mean(weighed):
    model, few, _ = weighed
    batch = few.batch(slice(0, 500))
    z, y, w = (v.detach().double().numpy() for v in (model(batch)[:, 0], batch.label_B, batch.weight_B))
    want = np.average(np.logaddexp(0, z) - y * z, weights=w)
    assert float(gate_loss(model, torch.nn.Identity(), batch, CPU).detach()) == pytest.approx(want, rel=1e-5)


def test_rows_lend_their_values_as_often_as_they_weigh():
    weight = torch.tensor([0.0, 1.0, 2.0, 5.0])
    assert resampled(weight, 8).bincount(minlength=4).tolist() == [0, 1, 2, 5]
    assert resampled(torch.full((6,), 0.3), 6).tolist() == list(range(6))
    drawn = torch.stack([donors(4, weight, torch.Generator().manual_seed(s)) for s in range(3000)])
    share = [(drawn == i).double().mean().item() for i in range(4)]
    assert share == pytest.approx([0, 1 / 8, 2 / 8, 5 / 8], abs=0.02)
    assert donors(9, None, torch.Generator().manual_seed(0)).sort().values.tolist() == list(range(9))


def test_a_weighted_mean_has_its_error():
    r = np.random.default_rng(0)
    weight = r.integers(1, 9, 400).astype(np.float64)
    means = [np.average(r.normal(3, 2, 400), weights=weight) for _ in range(3000)]
    mean, error = weighted_mean(r.normal(3, 2, 400), weight)
    assert error == pytest.approx(np.std(means), rel=0.15) and abs(mean - 3) < 4 * error
    value = r.normal(size=50)
    assert weighted_mean(value, None) == pytest.approx((value.mean(), value.std() / 50**0.5))

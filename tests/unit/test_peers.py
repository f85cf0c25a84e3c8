"""The essence of each of LeAP's peers, against its definition."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from sklearn.metrics import roc_auc_score
from torch import nn

from recsys.config.factory import make
from recsys.data.shards import Shards
from recsys.data.split import Split
from recsys.embeddings.per_field import per_field
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.models.dcn import DCN
from recsys.selection.methods.autofield import AutoFieldGate, autofield, steps_between
from recsys.selection.methods.label_encoding import label_encoded
from recsys.selection.methods.lasso import lasso
from recsys.selection.methods.leap_joint import leap_joint
from recsys.selection.methods.lightgbm_gain import lightgbm_gain
from recsys.selection.methods.lpfs import lpfs, polarised, soft_threshold
from recsys.selection.methods.optfs import ValueMasks, optfs
from recsys.selection.methods.permutation import permutation
from recsys.selection.methods.random_order import random_order
from recsys.selection.methods.sfs import sfs
from recsys.selection.methods.shark import shark
from recsys.selection.methods.shufflegate import shufflegate
from recsys.selection.methods.variational_dropout import ConcreteDropout, variational_dropout
from recsys.selection.search import Search, gate_loss, train_gated
from recsys.selection.shuffle import shuffled_cost
from recsys.training.config import TrainConfig
from recsys.training.device import CPU, Device
from recsys.training.fit import best_look, fit
from recsys.training.loop import Step
from tests.unit.test_leap import linear

HOW = TrainConfig(batch_size=256, lr=5e-3, table_lr=0.05, warmup_steps=5, precision="fp32", max_epochs=1)


def build(schema: Schema) -> CTR:
    return CTR(schema, per_field(schema, dim=4), partial(DCN, hidden=(8,), layers=1))


def given(model: CTR, train: Split, valid: Split, seed: int = 0, **changes) -> Search:
    """What a selector is given."""
    return replace(Search(model, train, valid, build, HOW, seed), **changes)


@pytest.fixture
def model(train: Shards, valid: Shards) -> CTR:
    """Categories, lists and numbers, trained a little."""
    made = build(train.schema)
    fit(made, train, valid, HOW, 0)
    return made


def whole(shards: Shards):
    return shards.batch(slice(0, len(shards)))


def bce(logit, label, reduction="mean"):
    return nn.functional.binary_cross_entropy_with_logits(logit, label, reduction=reduction)


def test_random_is_another_order_for_another_seed_and_the_same_for_the_same(model, train, valid):
    orders = [random_order(given(model, train, valid, s)).ranking for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_permutation_is_the_loss_of_shuffling_one_field(model, train, valid):
    """Against 30 shuffles of one block of x, done here."""
    found = permutation(given(model, train, valid), repeats=30)
    batch, name = whole(valid), "price"
    with torch.no_grad():
        x_BW = model.embedding(batch)
        base, deltas = bce(model.logits_of(x_BW)[:, 0], batch.label_B), []
        at = sum(model.widths[: model.schema.names.index(name)])
        for s in range(30):
            y_BW = x_BW.clone()
            y_BW[:, at] = x_BW[torch.randperm(len(x_BW), generator=torch.Generator().manual_seed(s)), at]
            deltas.append(float(bce(model.logits_of(y_BW)[:, 0], batch.label_B) - base))
    error = np.std(deltas) / 30**0.5
    assert found.score[name] == pytest.approx(np.mean(deltas), abs=6 * error)


def test_what_shuffling_costs_is_measured_row_by_row_with_its_error(model, valid):
    """Fields shuffled together, against 40 shuffles done here; alone, the same as permutation importance."""
    found = [shuffled_cost(model, valid, {"both": ["price", "item"], "one": ["price"]}, s) for s in range(40)]
    batch, names = whole(valid), model.schema.names
    label, r, deltas, aucs = batch.label_B.numpy(), np.random.default_rng(0), [], []
    with torch.no_grad():
        x_BW = model.embedding(batch)
        base = model.logits_of(x_BW)[:, 0]
        blocks = dict(zip(names, x_BW.split(model.widths, 1), strict=True))
        for _ in range(40):
            order = {n: torch.from_numpy(r.permutation(len(label))) for n in ("price", "item")}
            logit = model.logits_of(torch.cat([b[order[n]] if n in order else b for n, b in blocks.items()], 1))[:, 0]
            delta = (bce(logit, batch.label_B, "none") - bce(base, batch.label_B, "none")).numpy()
            deltas.append((float(delta.mean()), float(delta.std(ddof=1)) / len(delta) ** 0.5))
            aucs.append(roc_auc_score(label, logit) - roc_auc_score(label, base))
    means, errors = zip(*deltas, strict=True)
    both = {k: [getattr(f["both"], k) for f in found] for k in vars(found[0]["both"])}
    spread = float(np.std(means)) / 40**0.5
    assert np.mean(both["delta_logloss"]) == pytest.approx(np.mean(means), abs=6 * spread)
    assert np.mean(both["delta_logloss_error"]) == pytest.approx(np.mean(errors), rel=0.1)
    assert np.mean(both["delta_auc"]) == pytest.approx(np.mean(aucs), abs=6 * np.std(aucs) / 40**0.5)
    alone = permutation(given(model, valid, valid), repeats=40).score["price"]
    one = [f["one"].delta_logloss for f in found]
    assert np.mean(one) == pytest.approx(alone, abs=6 * np.std(one) / 40**0.5)


def test_sfs_is_the_slope_of_the_loss_in_each_mask(model, train, valid):
    """Central differences of the mean loss on the one batch there is, in float64."""
    found = sfs(given(model, train, valid), batch_size=len(valid))
    batch = whole(valid)
    with torch.no_grad():
        x_BW = model.embedding(batch).double()
    head = model.double().logits_of
    for name, x in zip(model.schema.names, x_BW.split(model.widths, 1), strict=True):

        def loss(mask, x=x):
            keep = x.clone()
            x.mul_(mask)
            value = float(bce(head(x_BW)[:, 0], batch.label_B.double()).detach())
            x.copy_(keep)
            return value

        slope = (loss(1 + 1e-6) - loss(1 - 1e-6)) / 2e-6  # so near that hardly a ReLU turns over
        assert found.score[name] == pytest.approx(abs(slope), rel=1e-3, abs=2e-6)


def test_shark_is_the_first_order_loss_of_each_row(model, train, valid):
    """Row by row, with one backward pass a row."""
    found = shark(given(model, train, valid), batch_size=97)
    batch = whole(valid)
    with torch.no_grad():
        x_BW = model.embedding(batch)
    step_BW = x_BW.mean(0) - x_BW
    rows = []
    for b in range(len(x_BW)):
        x = x_BW[b : b + 1].clone().requires_grad_()
        (g,) = torch.autograd.grad(bce(model.logits_of(x)[:, 0], batch.label_B[b : b + 1]), x)
        rows.append([float(p.sum().abs()) for p in (g[0] * step_BW[b]).split(model.widths)])
    for name, slow in zip(model.schema.names, np.mean(rows, 0), strict=True):
        assert found.score[name] == pytest.approx(slow, rel=1e-4, abs=1e-9)


def test_label_encoding_shows_no_row_its_own_label(train):
    x_RC, label_R, _, field_C = label_encoded(train, len(train), 0)
    assert len(x_RC) == len(train) and (label_R == train.label_B).all()
    fields = enumerate(train.schema.fields)
    assert field_C.tolist() == [i for i, f in fields for _ in range(f.max_length if f.kind == "numeric" else 1)]
    order = np.random.default_rng(0).permutation(len(train))
    half = np.empty(len(train), int)
    half[order] = np.arange(len(train)) % 2
    ids = whole(train).ids_BL.numpy()
    for name in ("item", "tags"):
        block = ids[:, list(train.schema.id_columns[name])]
        for row in (0, 17, 400):
            rates = []
            for v in block[row][block[row] >= 0]:
                hit = (block == v) & (half != half[row])[:, None]
                n, clicks = hit.sum(), (hit * label_R[:, None]).sum()
                rates.append((clicks + 20 * label_R.mean()) / (n + 20))
            expected = np.mean(rates) if rates else label_R.mean()
            assert x_RC[row, train.schema.names.index(name)] == pytest.approx(expected)


def test_lasso_is_scikit_learns_on_standardised_columns(model, train, valid):
    found = lasso(given(model, train, valid), alpha=5e-3)
    x_RC, y, _, field_C = label_encoded(train, len(train), 0)
    slow = Lasso(alpha=5e-3).fit((x_RC - x_RC.mean(0)) / x_RC.std(0), y).coef_
    slow = np.array([np.linalg.norm(slow[field_C == i]) for i in range(len(model.schema.fields))])
    assert [found.score[n] for n in model.schema.names] == pytest.approx(slow.tolist())
    assert found.keep == {n: s > 0 for n, s in zip(model.schema.names, slow, strict=True)}
    assert not any(lasso(given(model, train, valid), alpha=10.0).keep.values())


def test_tree_gains_are_shares_and_see_a_pair_that_lasso_cannot(tmp_path):
    model, valid, _ = linear(tmp_path, {"a": 0.0, "b": 0.0, "c": 0.0})
    x = whole(valid).dense_BN.numpy()
    a, b = (model.schema.names.index(n) for n in "ab")
    valid.label_B[:] = (x[:, a] * x[:, b] > 0).astype(np.float32)
    trees = lightgbm_gain(given(model, valid, valid), trees=20)
    assert sum(trees.score.values()) == pytest.approx(1)
    assert set(trees.ranking[:2]) == {"a", "b"} and trees.score["c"] < 0.1
    assert not any(lasso(given(model, valid, valid), alpha=0.02).keep.values())


def test_autofield_is_gumbel_softmax_at_a_falling_temperature():
    """Field by field, with the noise drawn again: τ falls by `tau_step` a call, this one included."""
    gate = AutoFieldGate(torch.tensor([0, 1, 1]), 5, tau_step=0.2)
    gate.alpha_F2.data.copy_(torch.tensor([[0.7, 0.1], [-0.4, 0.3]]))
    noise, x_BW = torch.Generator().manual_seed(5), torch.tensor([[2.0, -1.0, 3.0], [0.5, 4.0, 1.0]])
    for call in range(1, 8):
        tau = max(0.01, 1 - 0.2 * call)
        drawn = -np.log(-np.log(torch.rand(2, 2, generator=noise).double().numpy()))
        logit_F2 = (gate.alpha_F2.detach().double().numpy() + drawn) / tau
        keep = 1 / (1 + np.exp(np.clip(logit_F2[:, 1] - logit_F2[:, 0], -600, 600)))
        slow = x_BW.numpy() * keep[[0, 1, 1]]
        assert gate(x_BW).detach().numpy() == pytest.approx(slow, rel=1e-3, abs=1e-5), call
        assert gate.tau == pytest.approx(tau)


def test_autofield_chooses_by_gumbel_softmax():
    """P(keep wins) over the noise is α_keep, whatever τ; as τ falls the choice hardens."""
    gate = AutoFieldGate(torch.tensor([0, 1, 1]), 0, tau_step=1.0)
    gate.alpha_F2.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    x_BW = torch.ones(1, 3)
    with torch.no_grad():
        p = torch.cat([gate(x_BW) for _ in range(4000)])
    assert (p[:, 1] == p[:, 2]).all()
    assert (p[:, 0] > 0.5).float().mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)
    assert ((p < 0.05) | (p > 0.95)).float().mean() > 0.9
    torch.testing.assert_close(gate.keep(), torch.tensor([1 / (1 + np.exp(-1)), 0.5], dtype=torch.float32))


def test_lpfs_polarises_and_steps_to_zero_exactly():
    x = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0], dtype=torch.float64, requires_grad=True)
    g = polarised(x, 1e-4)
    slow = [np.sign(v) * v * v / (v * v + 1e-4) + 0.1 * np.arctan(v) for v in x.tolist()]
    assert g.tolist() == pytest.approx(slow)
    assert polarised(torch.zeros(1), 1e-4) == 0 and polarised(torch.ones(1), 1e-8).item() == pytest.approx(1, abs=1e-2)
    (slope,) = torch.autograd.grad(g.sum(), x)
    assert slope[2] == pytest.approx(0.1), "a closed gate still has a slope"
    assert (slope > 0).all(), "a gate climbs on both sides of 0"
    stepped = soft_threshold(torch.tensor([-2.0, -0.1, 0.1, 2.0]), 0.5)
    torch.testing.assert_close(stepped, torch.tensor([-1.5, 0.0, 0.0, 1.5]))


def test_optfs_masks_values_of_their_own_field(train):
    masks = ValueMasks(train.schema, 0.5)
    batch = train.batch(slice(0, 40))
    torch.testing.assert_close(masks(batch), torch.ones(40, len(train.schema.fields)) * (masks(batch) > 0))
    with torch.no_grad():
        masks.c_V.uniform_(-1, 1)
    masks.tau = 3.0
    got, g_V = masks(batch), 1 / (1 + np.exp(-3 * masks.c_V.detach().numpy())) * (1 + np.exp(-0.5))
    first = 0
    for i, f in enumerate(train.schema.fields):
        if not f.is_sparse:
            assert got[:, i].tolist() == pytest.approx([g_V[first]] * 40)
            first += 1
            continue
        ids = batch.ids_BL[:, list(train.schema.id_columns[f.name])].numpy()
        slow = [np.mean(g_V[first + row[row >= 0]]) if (row >= 0).any() else 0.0 for row in ids]
        assert got[:, i].tolist() == pytest.approx(slow, rel=1e-5)
        first += f.cardinality


def test_concrete_dropout_keeps_with_its_rate_and_passes_a_slope():
    gate = ConcreteDropout(torch.tensor([0, 1, 1]), 0.01, 0)
    gate.logit_F.data.copy_(torch.tensor([2.0, -1.0]))
    z = gate(torch.ones(20_000, 3))
    torch.testing.assert_close(z[:, 1], z[:, 2])
    assert z.mean(0)[:2].tolist() == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))], abs=0.02)
    assert (torch.autograd.grad(z.sum(), gate.logit_F)[0] > 0).all()


def test_gates_on_held_out_rows_leave_the_model_alone(model, valid):
    """The gate step looks tables up without gradient: their fused update must not run."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gate = AutoFieldGate(torch.arange(len(model.widths)).repeat_interleave(torch.tensor(model.widths)), 0, 5e-5)
    loss = gate_loss(model, gate, whole(valid), CPU)
    assert torch.autograd.grad(loss, gate.alpha_F2)[0].abs().sum() > 0
    for k, v in model.state_dict().items():
        torch.testing.assert_close(v, before[k], rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"decay": "linear"},
        {"table_l2": 1e-2},
        {"embedding_dropout": 0.3},
        {"fresh_tables": True},
        {"precision": "bf16"},
        {"weights": True},
    ],
    ids=lambda c: "_".join(c) or "plain",
)
def test_training_with_gates_that_pass_all_is_training(change, train, valid):
    """Identity gates give the very weights that `fit` keeps, after as many steps as its best look took."""
    how = replace(HOW, evals_per_epoch=3, max_epochs=3, **{k: v for k, v in change.items() if k != "weights"})
    if "weights" in change:
        train = Shards(train.folder, "train")  # the fixture is shared by all tests
        train.weight_B = np.random.default_rng(0).integers(0, 3, len(train)).astype(np.float32)
    plain, mine = (
        CTR(train.schema, per_field(train.schema, dim=4), partial(DCN, hidden=(8,)), how.embedding_dropout)
        for _ in range(2)
    )
    mine.load_state_dict(plain.state_dict())
    best = int(best_look(fit(plain, train, valid, how, 3))["step"])
    assert best > len(train) // 256, "the best look is in the second epoch or later"
    device = Device.choose("cpu", how.precision)
    search = given(mine, train, valid, 3, how=how, steps=best, device=device)
    steps = list(train_gated(mine, lambda x_BW, batch: (x_BW, torch.zeros(())), search))
    assert [s.number for s in steps] == list(range(1, best + 1)) and steps[-1].total == best
    for (name, a), b in zip(plain.state_dict().items(), mine.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize(("epochs", "steps", "times"), [(3, 5, 3), (None, 5, 5 / 7), (None, None, 1), (1, None, 1)])
def test_epochs_stand_before_the_steps_of_the_model(epochs, steps, times, train):
    model = build(train.schema)
    size = len(train) // 7
    search = given(model, train, train, how=replace(HOW, batch_size=size), steps=steps)
    done = list(train_gated(model, lambda x_BW, batch: (x_BW, torch.zeros(())), search, epochs))
    assert len(done) == done[0].total == round(7 * times)


@pytest.mark.parametrize(
    ("method", "setting", "value"),
    [
        ("autofield", "every", 0),
        ("autofield", "tau_step", -0.01),
        ("autofield", "gate_lr", 0.0),
        ("autofield", "epochs", 0),
        ("lasso", "alpha", 0.0),
        ("leap", "price", 0.0),
        ("leap", "steps", 149),
        ("lightgbm_gain", "trees", 0),
        ("lpfs", "last_epsilon", 0.11),
        ("optfs", "last_tau", 0.9),
        ("variational_dropout", "gain_share", 1.0),
        ("variational_dropout", "temperature", 0.0),
    ],
)
def test_a_setting_beyond_the_end_of_its_range_is_refused(method, setting, value):
    with pytest.raises(ConfigError, match=f"selection.{setting}: input should be"):
        make({"_target_": f"recsys.selection.methods.{method}.{method}", setting: value}, "selection")


def test_a_schema_of_numbers_alone_will_do(tmp_path):
    """No table, no ids: what trains a model of its own must not need one."""
    _, valid, _ = linear(tmp_path, {"a": 1.5, "b": 0.0}, rows=3000)
    assert isinstance(valid.schema, Schema)
    model = build(valid.schema)
    fit(model, valid, valid, HOW, 0)
    for method in (autofield, lpfs, optfs, variational_dropout):
        assert method(given(model, valid, valid), epochs=6).ranking[0] == "a", method.__name__


def test_lpfs_epsilon_shrinks_to_its_last_by_a_constant_factor(model, train, valid, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "recsys.selection.methods.lpfs.polarised", lambda x_F, e: (seen.append(e), polarised(x_F, e))[1]
    )
    lpfs(given(model, train, valid, steps=9), last_epsilon=1e-3)
    assert seen == pytest.approx([0.1 * 0.01 ** (n / 9) for n in range(10)])


def test_lpfs_orders_by_size_and_keeps_a_gate_in_use_below_0(model, train, valid, monkeypatch):
    """A field whose gradient is always +1 goes from 1 to about −2, one of −1 to 4, one of 0 to 0."""
    names, slope = model.schema.names, {"item": 1.0, "price": -1.0}

    def steps(own, mix, *_):
        for number in range(1, 21):
            parts = mix(torch.ones(1, sum(own.widths)), None)[0].split(own.widths, 1)
            sum(slope.get(n, 0.0) * p.mean() for n, p in zip(names, parts, strict=True)).backward()
            yield Step(number, 20, 0.0)

    monkeypatch.setattr("recsys.selection.methods.lpfs.train_gated", steps)
    found = lpfs(given(model, train, valid))
    x = {n: d["x"] for n, d in found.details.items()}
    assert x["item"] < -0.5 and x["price"] > 1
    assert found.score == {n: abs(v) for n, v in x.items()}
    assert found.keep == {n: n in slope for n in names}
    assert set(found.ranking[:2]) == set(slope)


def test_optfs_tau_grows_to_its_last_by_a_constant_factor(model, train, valid, monkeypatch):
    seen, values = [], ValueMasks.values
    monkeypatch.setattr(ValueMasks, "values", lambda self: (seen.append(self.tau), values(self))[1])
    optfs(given(model, train, valid, steps=9), last_tau=50.0)
    assert seen[:9] == pytest.approx([50 ** (n / 9) for n in range(9)])


def test_autofield_temperature_falls_with_each_pass(model, train, valid):
    """Nine passes over training rows and, after steps 1 and 6, two over validation rows."""
    found = autofield(given(model, train, valid, steps=9), every=5, tau_step=0.01)
    assert found.notes.figures["tau"] == pytest.approx(1 - 11 * 0.01)


def test_choices_of_a_short_autofield_take_a_step_with_each_of_the_models(model, train, valid):
    """Nine of each lower τ eighteen times; a long run has one in ten, as its reference."""
    found = autofield(given(model, train, valid, steps=9), tau_step=0.01)
    assert found.notes.figures["tau"] == pytest.approx(1 - 18 * 0.01)
    assert [steps_between(n) for n in (1, 399, 400, 1000, 2000, 10**6)] == [1, 1, 2, 5, 10, 10]


def apart(tmp_path, counted: str, other: str, weights: bool):
    """Rows of even numbers follow one field, the others another more strongly; if asked, the others weigh 0."""
    model, shards, _ = linear(tmp_path, {"a": 0.0, "b": 0.0, "c": 0.0}, rows=10_000)
    x, r = whole(shards).dense_BN.numpy(), np.random.default_rng(1)
    even = np.arange(len(shards)) % 2 == 0
    at = [model.schema.names.index(n) for n in (counted, other)]
    logit = np.where(even, 2 * x[:, at[0]], 6 * x[:, at[1]])
    shards.label_B[:] = (r.random(len(x)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    if weights:
        shards.weight_B = even.astype(np.float32)
    return shards


JOINT = {"autofield": autofield, "leap_joint": leap_joint, "lpfs": lpfs, "optfs": optfs}
JOINT |= {"shufflegate": shufflegate, "variational_dropout": variational_dropout}


# What lpfs and variational_dropout do with weights is what all of JOINT do in `train_gated`.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in ("lpfs", "variational_dropout") else ())
        for n in (*JOINT, "lasso", "lightgbm_gain")
    ],
)
def test_rows_of_weight_0_do_not_count(name, tmp_path):
    """Half of the rows follow b, more strongly than the others follow a: b is first unless they weigh 0."""
    select = {**JOINT, "lasso": lasso, "lightgbm_gain": lightgbm_gain}[name]
    settings = {"epochs": 12} if name in JOINT else {}
    settings |= {"every": 2, "gate_lr": 0.05} if name == "autofield" else {}
    leads = []
    for weights in (False, True):
        shards = apart(tmp_path / str(weights), "a", "b", weights)
        found = select(given(build(shards.schema), shards, shards), **settings)
        leads.append(found.score["a"] - found.score["b"])
    assert leads[0] <= 0 < leads[1]  # gates of both may be wide open while both count


def test_label_means_are_those_of_the_counted_rows_alone(train):
    """Weight 0 for half of the rows leaves them out; any scale of the weights will do."""
    weight = (np.arange(len(train)) % 2 * 3).astype(np.float32)
    train = Shards(train.folder, "train")
    train.weight_B = weight
    x_RC, label_R, weight_R, _ = label_encoded(train, len(train), 0)
    assert len(x_RC) == (weight > 0).sum() and weight_R.tolist() == pytest.approx([1.0] * len(x_RC))
    assert label_R.tolist() == train.label_B[weight > 0].tolist()
    train.weight_B = np.where(weight > 0, 1.0, 0.0).astype(np.float32)
    assert (label_encoded(train, len(train), 0)[0] == x_RC).all()


def test_a_row_of_weight_2_is_two_rows_to_lasso(model, train, valid):
    train = Shards(train.folder, "train")
    train.weight_B = (1 + np.arange(len(train)) % 2).astype(np.float32)
    x_RC, y, weight_R, field_C = label_encoded(train, len(train), 0)
    twice = np.repeat(np.arange(len(y)), 1 + np.arange(len(y)) % 2)
    x, y = x_RC[twice], y[twice]
    slow = Lasso(alpha=5e-3).fit((x - x.mean(0)) / x.std(0), y).coef_
    slow = np.array([np.linalg.norm(slow[field_C == i]) for i in range(len(model.schema.fields))])
    found = lasso(given(model, train, valid), alpha=5e-3)
    assert [found.score[n] for n in model.schema.names] == pytest.approx(slow.tolist(), abs=1e-4)
    assert weight_R.max() / weight_R.min() == pytest.approx(2)


def test_autofield_gates_learn_on_validation_rows(tmp_path):
    """Both fields tell the label of a training row; on validation rows one of them has turned round."""
    _, train, _ = linear(tmp_path / "t", {"a": 1.0, "b": 1.0}, rows=10_000)
    for turned in ("a", "b"):
        _, valid, _ = linear(tmp_path / turned, {"a": 1.0, "b": 1.0, turned: -1.0}, rows=10_000)
        found = autofield(given(build(train.schema), train, valid), epochs=4, every=1, gate_lr=0.05)
        assert found.ranking[-1] == turned and found.score[turned] < 0.5

"""A network beside a frozen logistic regression. B rows, V ids of a field."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from recsys.baselines.linear import STRENGTHS, linear_weights
from recsys.compression.contract import TrainingRows, compressor
from recsys.compression.rounding import rounding
from recsys.compression.svd import svd
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.evaluation.metrics import logloss, sigmoid
from recsys.frame.linear import linear_fields
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.fit import best_look, best_share, fit, logits

MODELS = {
    "dcn": {"_target_": "recsys.models.dcn.DCN", "hidden": [16]},
    "fm": {"_target_": "recsys.models.fm.FM"},
    "mlp": {"_target_": "recsys.models.mlp.MLP", "hidden": [16]},
    "wukong": {"_target_": "recsys.models.wukong.Wukong", "layers": 1, "hidden": [16]},
    "autoint": {"_target_": "recsys.models.autoint.AutoInt", "layers": 1},
}
SCHEMES = {
    "per_field": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 4},
    "unified": {"_target_": "recsys.embeddings.unified.unified", "rows": 64, "dim": 8, "chunks": 2},
    "qr": {"_target_": "recsys.embeddings.qr.qr", "dim": 4, "threshold": 10},
}


def spec(model="dcn", scheme="per_field", **more) -> checkpoint.Spec:
    return {"model": MODELS[model], "embedding": SCHEMES[scheme], "embedding_dropout": 0.0, "linear": True, **more}


def started(shards, model="dcn", scheme="per_field"):
    """A fresh model beside weights that are drawn, and those weights; of the mean only these count."""
    rng = np.random.default_rng(0)
    fresh = checkpoint.build(shards.schema, spec(model, scheme))
    ids = {n: rng.normal(size=shards.schema[n].cardinality) for n in linear_fields(shards.schema)}
    numbers_N = rng.normal(size=sum(f.max_length for f in shards.schema.numeric))
    fresh.set_linear(ids, numbers_N, -0.7)
    fresh.linear.share.fill_(0)
    return fresh, ids, numbers_N


def by_hand(batch, schema, ids, numbers_N) -> list[float]:
    """Row by row, id by id."""
    rows = []
    for i in range(len(batch)):
        total = -0.7 + float(batch.dense_BN[i, : len(numbers_N)].double() @ torch.from_numpy(numbers_N))
        for name, weight_V in ids.items():
            columns = schema.id_columns[name]
            present = [(int(v), p) for p, v in enumerate(batch.ids_BL[i, columns.start : columns.stop]) if v >= 0]
            counts = [1.0] * len(present)
            if schema[name].weighted:
                start = schema.weight_columns[name].start
                counts = [float(batch.dense_BN[i, start + p]) for _, p in present]
            if sum(counts):
                total += sum(c * weight_V[v] for c, (v, _) in zip(counts, present, strict=True)) / sum(counts)
        rows.append(total)
    return rows


@pytest.fixture(scope="module")
def weighted_lists(tmp_path_factory) -> Shards:
    rng, rows = np.random.default_rng(0), 400
    tags = [rng.integers(0, 9, n).tolist() for n in rng.integers(0, 5, rows)]
    table = pa.table(
        {
            "tags": tags,
            "how": [rng.random(len(t)).tolist() for t in tags],
            "item": rng.integers(0, 30, rows),
            "past": [rng.integers(0, 30, n).tolist() for n in rng.integers(0, 4, rows)],
            "seen": [rng.integers(0, 200, n).tolist() for n in rng.integers(0, 4, rows)],
            "price": rng.random(rows),
            "y": rng.integers(0, 2, rows),
        }
    )
    fields = {
        "tags": {"kind": "multi", "max_length": 4, "weights": "how"},
        "item": {},
        "past": {"kind": "sequence", "max_length": 3, "table": "item"},
        "seen": {"kind": "sequence", "max_length": 3},
        "price": {"kind": "numeric"},
    }
    config = {"name": "lists", "label": "y", "split": {"shares": [0.8, 0.1, 0.1], "seed": 0}, "fields": fields}
    return Shards(prepare(config, lambda: table, tmp_path_factory.mktemp("lists")), "train")


@pytest.mark.parametrize("model", MODELS)
def test_the_logit_is_the_mean_of_network_and_regression(train, batch, model):
    beside, ids, numbers_N = started(train, model)
    beside.eval()
    linear_B = by_hand(batch, train.schema, ids, numbers_N)
    np.testing.assert_allclose(beside(batch)[:, 0].detach(), linear_B, atol=1e-5)
    torch.manual_seed(3)
    alone = checkpoint.build(train.schema, {**spec(model), "linear": False}).eval()
    torch.manual_seed(3)
    beside = checkpoint.build(train.schema, spec(model)).eval()
    beside.set_linear(ids, numbers_N, -0.7)
    torch.testing.assert_close(beside(batch), alone(batch), msg="share is 1 until validation has chosen it")
    beside.linear.share.fill_(0.3)
    want = 0.3 * alone(batch)[:, 0].detach().numpy() + 0.7 * np.array(linear_B)
    np.testing.assert_allclose(beside(batch)[:, 0].detach(), want, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_plain_tables_and_graphs_hold_the_regression(train, batch, scheme, exported_is_eager):
    fresh, *_ = started(train, "dcn", scheme)
    fresh.linear.share.fill_(0.6)
    plain = fresh.over(fresh.embedding.scoring()).eval()
    torch.testing.assert_close(plain(batch), fresh.eval()(batch), rtol=1e-5, atol=1e-6)
    assert fresh.widths == plain.widths and fresh.features(batch).shape[1] == sum(fresh.widths)
    exported_is_eager(fresh, batch)


def test_weighted_lists_count_by_weight_and_sequences_are_the_networks(weighted_lists):
    shards = weighted_lists
    fresh = checkpoint.build(shards.schema, spec(sequence={"_target_": "recsys.sequences.mean.Mean"}))
    rng = np.random.default_rng(0)
    ids = {n: rng.normal(size=shards.schema[n].cardinality) for n in ("tags", "item")}
    fresh.set_linear(ids, np.array([0.4]), -0.7)
    fresh.linear.share.fill_(0)
    rows = shards.batch(slice(0, 100))
    want = by_hand(rows, shards.schema, ids, np.array([0.4]))
    np.testing.assert_allclose(fresh.eval()(rows)[:, 0].detach(), want, atol=1e-5)
    plain = fresh.over(fresh.embedding.scoring()).eval()
    torch.testing.assert_close(plain(rows), fresh(rows), rtol=1e-5, atol=1e-6)


def test_the_regression_is_scikit_learns(train, valid):
    names = [n for n in ("user", "item", "price", "score") if n in train.schema.names]
    narrow = train.schema.subset(names)
    rows, valid_rows = (Shards(s.folder, s.split, narrow) for s in (train, valid))
    fitted = linear_weights(rows, valid_rows, 10**6, 0)
    batch = rows.batch(slice(0, len(rows)))
    often = [
        np.bincount(batch.ids_BL[:, i], minlength=rows.schema[n].cardinality) >= 10 for i, n in enumerate(fitted.ids)
    ]

    def columns(batch):
        ids = zip(often, batch.ids_BL.T.numpy(), strict=True)
        hot = [np.eye(len(o) + 1)[np.where(o[b], b, len(o))] for o, b in ids]  # rare ids share the last column
        x_BN = (batch.dense_BN.numpy() - mean) / deviation
        return np.concatenate([*hot, x_BN], 1)

    x_BN = batch.dense_BN.numpy().astype(float)
    mean, deviation = x_BN.mean(0), np.r_[x_BN.std(0)[:2], 1, 1, 1]  # a price, a score, and the three pieces of it
    model = LogisticRegression(C=fitted.settings["C"], tol=1e-8, max_iter=1000).fit(columns(batch), rows.label_B)
    seen = valid_rows.batch(slice(0, 200))
    got = fitted.bias + seen.dense_BN.numpy() @ fitted.numbers_N
    for i, weight_V in enumerate(fitted.ids.values()):
        got = got + weight_V[seen.ids_BL[:, i]]
    np.testing.assert_allclose(got, model.decision_function(columns(seen)), atol=0.01)
    again = linear_weights(rows, fitted.settings["C"], 10**6, 0)
    np.testing.assert_allclose(again.numbers_N, fitted.numbers_N, atol=0.02)  # both end at a tolerance of 1e-4


def test_validation_chooses_the_share_at_every_look(train, valid, tmp_path):
    weights = linear_weights(train, valid, 10**6, 0)
    model = checkpoint.build(train.schema, spec(seed=0))
    model.set_linear(weights.ids, weights.numbers_N, weights.bias)
    history = fit(model, train, valid, TrainConfig(batch_size=64, max_epochs=2, linear=True, fresh_tables=True), 0)
    best, share = best_look(history), float(model.linear.share)
    assert share == pytest.approx(best["network_share"]) and 0 < share < 1
    assert logloss(sigmoid(logits(model, valid)), valid.label_B) == pytest.approx(best["valid_logloss"], abs=1e-6)

    def at(s):
        other = model.over(model.embedding)
        other.linear.share.fill_(s)
        return logloss(sigmoid(logits(other, valid)), valid.label_B)

    assert best["valid_logloss"] <= min(at(s) for s in np.linspace(0, 1, 21)) + 1e-6
    tables = model.embedding.scoring().tables
    for name, weight_V in weights.ids.items():
        np.testing.assert_allclose(tables[f"{name} linear"].dense()[:, 0], weight_V, rtol=1e-5)
    np.testing.assert_allclose(model.linear.weight_N, weights.numbers_N, rtol=1e-5)
    checkpoint.save(tmp_path, model, spec(seed=0))
    again, _ = checkpoint.load(tmp_path)
    np.testing.assert_array_equal(logits(again, valid), logits(model, valid))


def test_patience_waits_while_the_network_alone_gets_better(train, valid):
    weights = linear_weights(valid, 100.0, 10**6, 0)  # it has seen the answers: the network has nothing to add
    model = checkpoint.build(train.schema, spec(seed=0))
    model.set_linear(weights.ids, weights.numbers_N, weights.bias)
    slow = TrainConfig(batch_size=64, max_epochs=8, evals_per_epoch=2, patience=1, lr=3e-4, table_lr=3e-4, linear=True)
    history = fit(model, train, valid, slow, 0)

    def records(key):
        seen = [h[key] for h in history]
        return [x < min(seen[:i], default=np.inf) for i, x in enumerate(seen)]

    mean, network = records("valid_logloss"), records("network_logloss")
    good = [a or b for a, b in zip(mean, network, strict=True)]
    assert all(good[:-1]) and not all(mean[:-1]), "the test needs a look that only the network thinks good"
    assert not good[-1] or len(history) == 16


def test_too_few_validation_rows_choose_nothing(train, valid, monkeypatch):
    monkeypatch.setattr("recsys.training.fit.LEAST_TO_CHOOSE", int(valid.label_B.sum()) + 1)
    model, *_ = started(train)
    history = fit(model, train, valid, TrainConfig(batch_size=64, max_epochs=1, linear=True), 0)
    assert [h["network_share"] for h in history] == [0.5] * len(history)
    assert float(model.linear.share) == 0.5


@pytest.mark.parametrize(("rows", "cardinality", "weight"), [(80_000, 2000, 1.0), (20_000, 500, 1000.0)])
def test_heavy_rows_do_not_spoil_the_climb_of_c(tmp_path, monkeypatch, rows, cardinality, weight):
    rng = np.random.default_rng(0)
    ids, effects = rng.integers(0, cardinality, (2, rows)), rng.normal(0, 0.7, (2, cardinality))
    rate = sigmoid(effects[0, ids[0]] + effects[1, ids[1]] - 2)
    table = pa.table({"user": ids[0], "item": ids[1], "y": (rng.random(rows) < rate).astype(int), "w": [weight] * rows})
    config = {"name": "many", "label": "y", "weight": "w", "split": {"shares": [0.8, 0.1, 0.1], "seed": 0}}
    folder = prepare({**config, "fields": {"user": {}, "item": {}}}, lambda: table, tmp_path)
    train, valid = (Shards(folder, split) for split in ("train", "valid"))

    def fitted():
        weights = linear_weights(train, valid, 10**6, 0)
        ids_BL = valid.batch(slice(None)).ids_BL.numpy()
        logit_B = weights.bias + weights.ids["user"][ids_BL[:, 0]] + weights.ids["item"][ids_BL[:, 1]]
        return weights.settings["C"], logloss(sigmoid(logit_B), valid.label_B)

    strength, loss = fitted()
    monkeypatch.setattr("recsys.baselines.linear._ROUGH", 1e-8)
    assert (strength, loss) == pytest.approx(fitted(), abs=5e-5)


@pytest.mark.parametrize("seed", [24, 125])
def test_c_is_that_of_whole_fits_even_if_newtons_first_step_goes_too_far(tmp_path, seed):
    rng = np.random.default_rng(seed)
    ids, scale = rng.integers(0, 30, (6000, 3)), rng.choice([0.5, 1, 2, 4])
    effects = rng.normal(0, scale, (3, 30))
    logit = sum(effects[k][ids[:, k]] for k in range(3)) + rng.choice([0, -2, 2])
    drift = rng.choice([0, 1, 2])  # of validation
    logit[3000:] += drift * rng.normal(0, 1, 30)[ids[3000:, 0]] + rng.choice([0, -1, 1])
    click = (rng.random(6000) < sigmoid(logit)).astype(int)
    table = pa.table({"a": ids[:, 0], "b": ids[:, 1], "c": ids[:, 2], "y": click})
    table = pa.concat_tables([table, table.slice(0, 100)]).append_column(
        "part", pa.array(np.repeat(["train", "valid", "test"], [3000, 3000, 100]))
    )
    config = {"name": "far", "label": "y", "split": {"column": "part"}, "fields": {"a": {}, "b": {}, "c": {}}}
    folder = prepare(config, lambda: table, tmp_path)
    train, valid = (Shards(folder, split) for split in ("train", "valid"))
    got = linear_weights(train, valid, 10**6, 0).settings["C"]
    seen, losses = np.eye(30)[ids].reshape(6000, -1), []
    for strength in STRENGTHS:
        whole = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(seen[:3000], click[:3000])
        losses.append(logloss(whole.predict_proba(seen[3000:])[:, 1], click[3000:]))
    rises = next(i for i in range(1, len(losses)) if losses[i] > losses[i - 1])
    assert got == STRENGTHS[rises - 1]


def test_the_share_is_the_best_for_platts_labels_by_hand():
    rng = np.random.default_rng(3)
    label = (rng.random(300) < 0.3).astype(np.float32)
    weight = rng.integers(0, 4, 300).astype(np.float32)
    a, b = 2 * rng.normal(size=300) + 2 * label - 1, rng.normal(size=300) + label - 1
    rows = [i for i in range(300) for _ in range(int(weight[i]))]  # a row of weight 3 is three rows
    scale = len(rows) / np.count_nonzero(weight)
    ones = sum(label[i] for i in rows) / scale
    zeros = sum(1 - label[i] for i in rows) / scale

    def loss(s):
        total = 0.0
        for i in rows:
            p, y = 1 / (1 + np.exp(-(s * a[i] + (1 - s) * b[i]))), label[i]
            target = (ones + 1) / (ones + 2) if y else 1 / (zeros + 2)
            total -= target * np.log(p) + (1 - target) * np.log(1 - p)
        return total

    share = best_share(a, b, label, weight)
    assert 0.05 < share < 0.95 and loss(share) <= min(loss(s) for s in np.linspace(0, 1, 101)) + 1e-6


def test_few_rows_that_the_network_separates_do_not_make_it_certain():
    label = np.r_[np.ones(25, np.float32), np.zeros(43, np.float32)]
    network, regression = 48 * (2 * label - 1), 3 * (2 * label - 1)
    share = best_share(network, regression, label, None)
    assert 0 <= share < 0.1, "without Platt's labels the share is 1"


def test_a_field_called_as_the_weights_of_another_is_refused(schema):
    twin = replace(schema["item"], name="user linear")
    wider = replace(schema, fields=(*schema.sparse, twin, *schema.numeric))
    with pytest.raises(ConfigError, match=r"train.linear: the weights of field 'user' are called 'user linear'"):
        checkpoint.build(wider, spec())


def test_the_network_learns_as_it_does_alone(train, valid):
    config = TrainConfig(batch_size=64, max_epochs=1, precision="fp32")
    histories = []
    for linear in (False, True):
        torch.manual_seed(0)
        model = checkpoint.build(train.schema, {**spec(seed=0), "linear": linear})
        if linear:
            weights = linear_weights(train, valid, 10**6, 0)
            model.set_linear(weights.ids, weights.numbers_N, weights.bias)
        histories.append(fit(model, train, valid, config, 0))
    losses = [[h["train_loss"] for h in history] for history in histories]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert all(b["valid_logloss"] <= a["valid_logloss"] + 1e-9 for a, b in zip(*histories, strict=True))


def test_a_hopeless_network_leaves_the_regression(train, valid):
    weights = linear_weights(train, valid, 10**6, 0)
    model = checkpoint.build(train.schema, spec(seed=0))
    model.set_linear(weights.ids, weights.numbers_N, weights.bias)
    model.linear.share.fill_(0)
    regression = logits(model, valid)
    config = TrainConfig(batch_size=64, max_epochs=1, lr=0.01)
    fit(model, train, valid, config, 0, loss=lambda *rows: -model.loss(*rows))
    assert float(model.linear.share) < 0.1
    assert logloss(sigmoid(logits(model, valid)), valid.label_B) <= logloss(sigmoid(regression), valid.label_B)


def test_linear_tables_are_counted_compressed_and_saved(train, valid, tmp_path):
    model, *_ = started(train)
    fit(model, train, valid, TrainConfig(batch_size=64, max_epochs=1), 0)
    rows = TrainingRows(model, train, valid, 0)
    for name in linear_fields(train.schema):
        columns = train.schema.id_columns[name]
        ids = train.batch(slice(0, len(train))).ids_BL[:, columns.start : columns.stop]
        assert torch.equal(rows.reads[f"{name} linear"], torch.bincount(ids[ids >= 0], minlength=len(rows.reads[name])))
    small, _ = compressor(partial(svd, rank=2))(model, rows)
    smaller, reports = compressor(partial(rounding, bits=8))(small, rows)
    linear = {r.part: r for r in reports if r.part.endswith(" linear")}
    assert list(linear) == [f"{n} linear" for n in linear_fields(train.schema)]
    for part in linear.values():
        assert part.bytes_after < part.bytes_before / 2 or part.rows < 20
        assert part.weighted_error < 0.02
    checkpoint.save(tmp_path, smaller, spec())
    again, _ = checkpoint.load(tmp_path)
    np.testing.assert_array_equal(logits(again, valid), logits(smaller, valid))


def test_several_labels_have_no_one_regression(schema):
    labels = replace(schema, other_labels=("buy",))
    head = {"_target_": "recsys.heads.several.Several"}
    with pytest.raises(ConfigError, match=r"train.linear: expected one label, got 2: set train.linear=false"):
        checkpoint.build(labels, spec(head=head))

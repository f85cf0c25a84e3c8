"""What a report says of its model before it says anything of fields."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.evaluation.metrics import logloss
from recsys.frame.ctr import CTR
from recsys.models.dcn import DCN
from recsys.selection.figures import ProbeFindings, SearchNotes
from recsys.selection.halves import worth_on
from recsys.selection.price import default_price, gain_over_constant
from recsys.selection.reports.health import health, reason_for_doubt, with_probes
from recsys.selection.scores import FieldScores, decide
from recsys.training.config import TrainConfig
from recsys.training.fit import fit, logits
from tests.unit.test_leap import linear


def judged(model, train, valid):
    found = health(model, train, valid)
    return found.verdict, found.reason, reason_for_doubt(found)


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


def test_a_gap_in_auc_alone_is_sound(learned, tmp_path):
    """Crossed ids always overfit in training AUC; fields are judged on held-out rows, which agree here."""
    model, valid = learned
    easy = linear(tmp_path, {"a": 6.0, "b": 1.8}, rows=10_000)[1]
    found = health(model, easy, valid)
    assert found.train_auc - found.valid_auc > 0.1
    assert found.verdict == "sound" and found.agreement > 0.9 and reason_for_doubt(found) == ""


def test_a_model_whose_halves_find_other_fields_useful_is_inconclusive(tmp_path):
    """Sixty weak fields and few held-out rows: together they gain, but which of them do cannot be told."""
    model, few, _ = linear(tmp_path, {f"f{i:02}": 0.15 for i in range(60)}, rows=400)
    found = health(model, few, few)
    assert found.gain > 3 * found.gain_error and found.agreement < 0.5
    assert found.verdict == "inconclusive" and "two halves" in found.reason and "two halves" in reason_for_doubt(found)


def test_the_order_of_weak_fields_shows_in_the_agreement_of_ranks_alone(tmp_path):
    """One strong field rules the agreement; forty of which halves cannot tell the order lower that of ranks."""
    few = linear(tmp_path / "1", {"strong": 2.0} | {f"f{i:02}": 0.1 for i in range(40)}, rows=4000)[:2]
    many = linear(tmp_path / "2", {"a": 2.0, "b": 1.0, "c": 0.5}, rows=10_000)[:2]
    unsure, sure = (health(model, valid, valid) for model, valid in (few, many))
    assert unsure.agreement > 0.95 and unsure.rank_agreement < 0.7 and sure.rank_agreement == 1


def test_probes_that_are_kept_speak_against_a_sound_model(learned):
    found = health(*learned[:1], learned[1], learned[1])
    luck = ProbeFindings(10, 5, 0.6, 0.7)
    assert with_probes(found, None) == found == with_probes(found, replace(luck, false_discovery_rate=0.1))
    judged_again = with_probes(found, luck)
    assert judged_again.verdict == "inconclusive" and "60%" in judged_again.reason
    assert reason_for_doubt(judged_again) == ""


def test_what_fields_are_worth_along_the_gates_adds_up(tmp_path):
    """To the loss with all fields shuffled minus the loss; and what is not used is worth nothing."""
    model, valid, _ = linear(tmp_path, {"a": 1.0, "b": 0.5, "c": 0.0}, rows=20_000)
    worth_F = worth_on(model, valid, 40, 4000, 0)
    logit, y = logits(model, valid).astype(np.float64), valid.label_B
    x = valid.batch(slice(0, len(valid))).dense_BN.double().numpy()
    r = np.random.default_rng(0)
    weight = model.interaction.weight.detach().double().numpy()
    other = sum(w * r.permutation(x[:, i]) for i, w in enumerate(weight))
    loss = [np.mean(np.logaddexp(0, z) - y * z) for z in (other, logit)]
    assert worth_F.sum() == pytest.approx(loss[0] - loss[1], rel=0.1)
    assert worth_F[model.schema.names.index("c")] == 0


def no_relation(folder, seed):
    """A model trained on labels in another order of rows."""
    r = np.random.default_rng(seed)
    columns = {f"n{i}": r.normal(size=4000) for i in range(3)} | {f"c{i}": r.integers(0, 300, 4000) for i in range(3)}
    columns["label"] = r.permutation((r.random(4000) < 1 / (1 + np.exp(-columns["n0"]))).astype(np.int8))
    fields = {n: {"kind": "numeric" if n[0] == "n" else "categorical"} for n in columns if n != "label"}
    config = {"name": "n", "label": "label", "split": {"shares": [0.6, 0.3, 0.1]}, "fields": fields}
    folder = prepare(config, lambda: pa.table(columns), folder)
    train, valid = Shards(folder, "train"), Shards(folder, "valid")
    how = TrainConfig(batch_size=256, table_lr=0.05, max_epochs=2, warmup_steps=5, precision="fp32")
    model = CTR(train.schema, per_field(train.schema, dim=4), partial(DCN, hidden=(16,), layers=1))
    fit(model, train, valid, how, seed)
    return model, train, valid


@pytest.mark.parametrize(
    "seeds", [range(3), pytest.param(range(3, 20), marks=pytest.mark.slow)], ids=["three", "seventeen more"]
)
def test_labels_in_another_order_are_never_sound(tmp_path, seeds):
    for seed in seeds:
        assert health(*no_relation(tmp_path / str(seed), seed)).verdict == "no signal"


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
    scores = FieldScores({"a": 1.0, "b": 0.0}, {"a": True, "b": False}, {"a": {}, "b": {}}, SearchNotes("x"))
    made = decide(scores, protect=["a"], doubt="no signal: chance")
    assert [(v.field, v.verdict) for v in made] == [("a", "protected"), ("b", "uncertain")]
    assert made[1].reason == "no signal: chance"

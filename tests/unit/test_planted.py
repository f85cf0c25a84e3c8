"""Selectors on data whose truth is planted. Slow: each seed trains a model.

Rates over seeds, never one seed; a seed whose model is too weak to judge fields is inconclusive and is
not held against the selector, but at least three of five must be conclusive.
"""

from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import average_precision_score

from recsys.config.factory import make
from recsys.data.preparation.prepare import prepare
from recsys.data.sets import planted
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.evaluation.metrics import auc
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.models.dcn import DCN
from recsys.selection.methods.leap import leap
from recsys.selection.reports.health import health
from recsys.selection.search import Search
from recsys.selection.shuffle import shuffled_cost
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.fit import fit, logits

pytestmark = pytest.mark.slow

CONF = Path(__file__).parents[2] / "conf" / "selection"
USEFUL = [*planted.INFORMATIVE, *planted.SPARSE]
NAMES = [*USEFUL, *planted.NOISE]
HOW = TrainConfig(batch_size=1024, lr=1e-3, table_lr=0.02, max_epochs=2, warmup_steps=20, evals_per_epoch=2)


def build(schema: Schema) -> CTR:
    return CTR(schema, per_field(schema), partial(DCN, dropout=0.2), 0.2)


class Case(NamedTuple):
    """One seed's model and rows."""

    model: CTR
    train: Shards
    valid: Shards

    def run(self, select, seed, **settings):
        return select(Search(*self, build, HOW, seed, device=Device.choose("cpu", HOW.precision)), **settings)


@cache
def case(seed: int, null: bool = False) -> Case:
    config = {"name": "planted", "label": "click", "split": {"shares": [0.7, 0.15, 0.15], "seed": seed}}
    kinds = {n: "vector" if "vector" in n else "numeric" if "scalar" in n else "categorical" for n in NAMES}
    kinds |= {"duplicate": "numeric", "pair_a": "numeric", "pair_b": "numeric"}
    config["fields"] = {n: {"kind": k} for n, k in kinds.items()}
    folder = prepare(config, partial(planted.load, seed=seed, permute_label=null), Path(mkdtemp()))
    train, valid = Shards(folder, "train"), Shards(folder, "valid")
    torch.manual_seed(seed)
    model = build(train.schema)
    fit(model, train, valid, HOW, seed)
    return Case(model, train, valid)


@cache
def found(seed: int, adaptive: bool = True, price: float | None = None):
    return case(seed).run(leap, seed, adaptive=adaptive, price=price)


def precision(scores) -> float:
    return float(average_precision_score([n in USEFUL for n in NAMES], [scores.score[n] for n in NAMES]))


def kept(scores, group) -> int:
    return sum(scores.keep[n] for n in group)


def conclusive(seeds) -> list[int]:
    """Those whose model ranks held-out rows as well as it must."""
    return [s for s in seeds if health(*case(s)).valid_auc >= 0.74]


def test_planted_truth_is_found(record_property):
    """Average precision ≥ .98, all four sparse fields and at most one noise field, on four of five seeds."""
    seeds = conclusive(range(5))
    assert len(seeds) >= 3, "inconclusive: the models are too weak"
    scores = [found(s) for s in seeds]
    record_property("average_precision", [precision(f) for f in scores])
    informative = planted.INFORMATIVE
    recalled = [sum(n in set(f.ranking[: len(USEFUL)]) for n in informative) >= len(informative) - 1 for f in scores]
    good = [
        precision(f) >= 0.98 and r and kept(f, planted.SPARSE) == 4 and kept(f, planted.NOISE) <= 1
        for f, r in zip(scores, recalled, strict=True)
    ]
    assert sum(good) >= len(seeds) - 1, [(precision(f), r) for f, r in zip(scores, recalled, strict=True)]


@pytest.mark.parametrize("price", [1e-3, 3e-3])
def test_adaptive_weights_keep_every_sparse_field_and_no_noise(price):
    """At 3e-3 on all seeds but one: a model may have learned sparse fields so weakly that they are not worth that.

    A sparse field that goes must be worth less than its price, as shuffling it in the model says. On the five seeds,
    sparse fields are worth .8 to 5.1 times their price at 3e-3, and three times that at 1e-3. At 3e-3 three fields of
    seed 3 are worth less than their price, and no others.
    """
    seeds = conclusive(range(5))
    assert len(seeds) >= 3, "inconclusive: the models are too weak"
    whole = []
    for seed in seeds[:4]:
        scores = found(seed, True, price)
        assert kept(scores, planted.NOISE) <= 1
        lost = {n: [n] for n in planted.SPARSE if not scores.keep[n]}
        for name, cost in shuffled_cost(case(seed).model, case(seed).valid, lost, seed + 100).items():
            assert cost.delta_logloss - 2 * cost.delta_logloss_error < scores.details[name]["price"], (seed, name)
        whole.append(not lost)
    assert sum(whole) >= len(whole) - (price > 1e-3), whole


def test_one_price_for_all_fields_loses_the_sparse_ones():
    """The ablation: without √(d·c), at λ = 3e-3, at least two of the four go on three seeds of four."""
    left = [kept(found(seed, False, 3e-3), planted.SPARSE) for seed in range(4)]
    assert sum(count <= 2 for count in left) >= 3, left


def test_permuted_labels_keep_nothing_and_say_so():
    """At most one field of 35, on each of three seeds."""
    for seed in range(3):
        null = case(seed, null=True)
        assert health(*null).verdict == "no signal"
        assert kept(null.run(leap, seed), NAMES) <= 1


def test_retraining_on_what_is_kept_loses_nothing_and_beats_chance():
    """Test AUC, three seeds, paired: within .002 of all fields, above as many random ones."""
    wins = []
    for seed in range(3):
        model, train, _ = case(seed)
        keep = [n for n, k in found(seed).keep.items() if k]
        drawn = np.random.default_rng(seed).permutation(NAMES)[: len(keep)].tolist()
        test = Shards(train.folder, "test")
        full = auc(logits(model, test), test.label_B)
        scores = {}
        for what, names in (("kept", keep), ("random", drawn)):
            schema = train.schema.subset(names)
            torch.manual_seed(seed)
            own = build(schema)
            rows = [Shards(train.folder, split, schema) for split in ("train", "valid", "test")]
            fit(own, rows[0], rows[1], HOW, seed)
            scores[what] = auc(logits(own, rows[2]), test.label_B)
        wins.append(scores["kept"] >= full - 0.002 and scores["kept"] > scores["random"])
    assert all(wins)


# Least average precision of each peer, two seeds; .46 is chance. Lower where the method sees less: see docs/log.md.
LEAST = {
    "permutation": 0.97,
    "lasso": 0.90,
    "autofield": 0.90,  # .913, 1, 1, 1, .962 on seeds 0 to 4
    "lpfs": 0.82,
    "leap_joint": 0.88,
    "lightgbm_gain": 0.82,
    "shark": 0.74,
    "variational_dropout": 0.80,
    "shufflegate": 0.65,
    "optfs": 0.65,
    "sfs": 0.65,
}


@pytest.mark.parametrize("method", sorted(LEAST))
def test_peers_find_planted_truth_as_well_as_they_can(method, record_property):
    select = make(OmegaConf.to_container(OmegaConf.load(CONF / f"{method}.yaml")), "selection")
    values = [precision(case(s).run(select, s)) for s in range(2)]
    record_property("average_precision", values)
    assert min(values) >= LEAST[method], values


def test_random_is_no_better_than_chance():
    """The mean over 200 orders is the share of useful fields, a little above for so short a list."""
    select = make(OmegaConf.to_container(OmegaConf.load(CONF / "random.yaml")), "selection")
    values = [precision(case(0).run(select, s)) for s in range(200)]
    shuffled = [
        average_precision_score([n in USEFUL for n in NAMES], np.random.default_rng(s).random(35)) for s in range(2000)
    ]
    assert np.mean(values) == pytest.approx(np.mean(shuffled), abs=5 * np.std(shuffled) / 200**0.5)

"""Every option of conf/selection, found by itself."""

from dataclasses import replace
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
from recsys.errors import Cancelled, ConfigError
from recsys.events import Reporters
from recsys.frame.ctr import CTR
from recsys.models.dcn import DCN
from recsys.selection.figures import SearchNotes
from recsys.selection.scores import FieldScores, decide
from recsys.selection.search import Search
from recsys.training.config import TrainConfig
from recsys.training.fit import fit

OPTIONS = sorted((Path(__file__).parents[2] / "conf" / "selection").glob("*.yaml"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that learned one strong scalar and one strong category among noise."""
    r = np.random.default_rng(0)
    rows = 12_000
    columns = {"good": r.normal(size=rows), "bad": r.normal(size=rows)}
    columns |= {"good_cat": r.integers(0, 6, rows), "bad_cat": r.integers(0, 6, rows)}
    logit = 1.5 * columns["good"] + np.array([-1.5, -1, 0, 0, 1, 1.5])[columns["good_cat"]]
    columns["label"] = (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    fields = {n: {"kind": "categorical" if "cat" in n else "numeric"} for n in columns if n != "label"}
    config = {"name": "s", "label": "label", "split": {"shares": [0.6, 0.3, 0.1]}, "fields": fields}
    folder = prepare(config, lambda: pa.table(columns), tmp_path_factory.mktemp("s"))
    train, valid = Shards(folder, "train"), Shards(folder, "valid")
    torch.manual_seed(0)
    how = TrainConfig(batch_size=256, lr=5e-3, table_lr=0.05, max_epochs=3, warmup_steps=20, precision="fp32")

    def build(schema):
        return CTR(schema, per_field(schema, dim=4), partial(DCN, hidden=(16,), layers=1))

    model = build(train.schema)
    fit(model, train, valid, how, 0)
    return Search(model, train, valid, build, how, seed=0)


# 28 steps an epoch are few: gates that train with the model take more epochs and more frequent steps.
QUICK = {
    "epochs": 8,
    "every": 2,
    "batch_size": 512,
}
FEW_ROWS = {
    "lpfs": {"gain_share": 0.02},  # as for shufflegate
    "optfs": {"gain_share": 0.03},  # as for shufflegate
    "permutation": {"price": 1e-3},  # 3,600 rows cannot tell 1e-4 nats from nothing
    "shufflegate": {"gain_share": 0.02},  # its gates see training rows, where learned noise pays the default price
}
FREE = {"autofield"}  # keeping costs nothing: a field of noise stays near one half, on either side
BY_HEART = {
    "lpfs",
    "variational_dropout",
}  # a category of noise, whose ids a training of few rows learns by heart, ranks low but stays
NO_CUT = {"random", "sfs", "shark", "lightgbm_gain"}


def select(path: Path):
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    return make(
        {**config, **{k: v for k, v in QUICK.items() if k in config}, **FEW_ROWS.get(path.stem, {})}, "selection"
    )


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.stem)
def test_selector_puts_what_matters_first_and_changes_nothing(path, trained):
    model = trained.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scores = select(path)(trained)
    assert set(scores.score) == set(scores.details) == set(model.schema.names)
    if path.stem != "random":
        assert set(scores.ranking[:2]) == {"good", "good_cat"}
    if path.stem in NO_CUT:
        assert scores.keep is None
        with pytest.raises(ConfigError, match=f"selection={path.stem} .* set select.top_k, .* 1 to 4"):
            decide(scores)
    elif path.stem in FREE:
        assert scores.keep and scores.keep["good"] and scores.keep["good_cat"]
        assert max(scores.score["bad"], scores.score["bad_cat"]) < 0.55
    elif path.stem in BY_HEART:
        assert scores.keep and [scores.keep[n] for n in ("good", "good_cat", "bad")] == [True, True, False]
    else:
        assert scores.keep == {"good": True, "good_cat": True, "bad": False, "bad_cat": False}
    assert scores.notes.method == path.stem
    assert scores.notes.price is None or scores.notes.price > 0
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.stem)
def test_selector_is_deterministic_under_a_seed(path, trained):
    another = replace(trained, seed=3)
    assert select(path)(another).score == select(path)(another).score


class Stops(Reporters):
    """Stops what it watches after the second report."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        self.seen.append((done, total, unit))

    def cancelled(self) -> bool:
        return len(self.seen) == 2


@pytest.mark.parametrize("name", sorted({p.stem for p in OPTIONS} - {"random", "lasso", "lightgbm_gain"}))
def test_a_search_is_watched_and_stops_when_it_is_asked_to(name, trained):
    config = OmegaConf.to_container(OmegaConf.load(OPTIONS[0].parent / f"{name}.yaml"))
    several = {k: v for k, v in {"epochs": 1000, "batch_size": 500}.items() if k in config}
    stops = Stops()
    with pytest.raises(Cancelled):
        make({**config, **several}, "selection")(replace(trained, reporter=stops))
    (first, second), total = stops.seen, stops.seen[0][1]
    assert first[0] == 1 and second[:2] == (2, total) and total > 2 and len(first[2].split()) > 1


def test_one_field_is_nothing_to_choose_from(trained):
    one = trained.build(trained.model.schema.subset(["good"]))
    with pytest.raises(ConfigError, match="at least two fields"):
        replace(trained, model=one)


def scores(**score: float) -> FieldScores:
    return FieldScores(score, {n: s > 0.5 for n, s in score.items()}, {n: {} for n in score}, SearchNotes("x"))


def verdicts(*given, **named) -> dict[str, str]:
    return {v.field: v.verdict for v in decide(*given, **named)}


def test_policy_follows_the_method_or_takes_the_top_k_and_never_drops_a_protected_field():
    s = scores(a=0.9, b=0.1, c=0.6, d=0.2)
    assert verdicts(s) == {"a": "keep", "c": "keep", "d": "drop", "b": "drop"}
    assert verdicts(s, top_k=3) == {"a": "keep", "c": "keep", "d": "keep", "b": "drop"}
    assert verdicts(s, top_k=2, protect=["b"]) == {"a": "keep", "c": "drop", "d": "drop", "b": "protected"}
    assert verdicts(s, protect=["b"])["b"] == "protected"


def test_policy_refuses_what_cannot_be():
    s = scores(a=0.1, b=0.1)
    with pytest.raises(ConfigError, match="keeps no field"):
        decide(s)
    with pytest.raises(ConfigError, match="no field"):
        decide(s, protect=["z"])
    for k in (0, 3):
        with pytest.raises(ConfigError, match="expected 1 to 2"):
            decide(s, top_k=k)

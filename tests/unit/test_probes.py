"""Probes: copies of fields that know nothing, and what it means when one is kept."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines import select_features
from pipelines.config import Select
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.events import Reporters
from recsys.selection.figures import ProbeFindings, SearchNotes
from recsys.selection.probes import Probed, discovery_rate, kept_with_probes, probe_sources, without_probes
from recsys.selection.scores import FieldScores
from recsys.training.fit import fit
from tests.configs import run_config
from tests.unit.test_peers import HOW, build, given


def test_a_probe_has_its_sources_values_on_other_rows(train):
    sources = ["item", "tags", "price"]
    probed = Probed(train, sources, 0)
    assert [n for n in probed.schema.names if n not in train.schema.names] == [
        "probe:item",
        "probe:tags",
        "probe:price",
    ]
    real, both = train.batch(slice(0, len(train))), probed.batch(slice(0, len(train)))
    for name in sources:
        kind = "id_columns" if train.schema[name].is_sparse else "float_columns"
        array = "ids_BL" if train.schema[name].is_sparse else "dense_BN"
        own = getattr(real, array)[:, list(getattr(train.schema, kind)[name])].numpy()
        kept = getattr(both, array)[:, list(getattr(probed.schema, kind)[name])].numpy()
        copy = getattr(both, array)[:, list(getattr(probed.schema, kind)[f"probe:{name}"])].numpy()
        assert (kept == own).all()
        assert sorted(map(tuple, copy.tolist())) == sorted(map(tuple, own.tolist()))
        assert (copy != own).any(1).mean() > 0.3
    assert (both.label_B == real.label_B).all()
    assert both.ids.keys() == [f.name for f in probed.schema.sparse]


def test_a_probe_has_its_sources_values_as_often_as_they_weigh(prepared):
    train = Shards(prepared, "train")
    at = train.schema.id_columns["item"].start
    own = train.batch(slice(0, len(train))).ids_BL[:, at].numpy()
    common = np.bincount(own).argmax()
    train.weight_B = np.where(own == common, 9.0, 1.0).astype(np.float32)
    probed = Probed(train, ["item"], 0)
    copy = probed.batch(slice(0, len(train))).ids_BL[:, probed.schema.id_columns["probe:item"].start].numpy()
    share = np.average(own == common, weights=train.weight_B)
    assert (copy == common).mean() == pytest.approx(share, abs=5 / len(own)) and share > 2 * (own == common).mean()


def test_a_model_takes_probed_rows_in_any_order(train):
    probed = Probed(train, ["item", "price"], 0)
    model = build(probed.schema).eval()
    rows = np.random.default_rng(0).permutation(len(train))[:50]
    assert model(probed.batch(rows)).shape == (50, 1)
    assert sum(len(b) for b in probed.batches(700)) == len(train)
    assert [len(b) for b in probed.shuffled(700, 0)] == [700] * (len(train) // 700)


def test_probes_are_drawn_by_seed_and_no_more_than_there_are(train):
    assert probe_sources(train.schema, 3, 0) == probe_sources(train.schema, 3, 0)
    assert len({tuple(probe_sources(train.schema, 3, s)) for s in range(6)}) > 1
    for count in (-1, len(train.schema.fields) + 1):
        with pytest.raises(ConfigError, match=r"select\.probes"):
            probe_sources(train.schema, count, 0)


def test_kept_probes_imply_false_discoveries():
    keep = {f"f{i}": i < 10 for i in range(40)} | {f"probe:f{i}": i < 1 for i in range(8)}
    found = discovery_rate(keep, 8)
    assert found == ProbeFindings(8, 1, 0.5, 1.0)
    clean = discovery_rate({n: k and "probe" not in n for n, k in keep.items()}, 8)
    assert clean.false_discovery_rate == 0 and clean.at_most == 0.5


def test_the_rate_holds_where_all_fields_are_noise():
    """200 drawings in which every field has the same chance: all that is kept is false."""
    r = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        keep = {f"f{i}": bool(r.random() < 0.3) for i in range(40)} | {
            f"probe:{i}": bool(r.random() < 0.3) for i in range(40)
        }
        rates.append(discovery_rate(keep, 40).at_most)
    assert np.mean(rates) > 0.85


def test_policies_of_rank_count_probes_above_the_last_field_kept():
    score = {"a": 3.0, "b": 2.0, "c": 1.0, "probe:a": 2.5, "probe:b": 0.5}
    scores = FieldScores(score, None, {n: {} for n in score}, SearchNotes("x"))
    assert kept_with_probes(scores, 2) == {"a": True, "b": True, "c": False, "probe:a": True, "probe:b": False}
    assert list(without_probes(scores).score) == ["a", "b", "c"]


def test_a_search_among_probes_takes_as_many_steps_as_the_probed_model(train, valid, monkeypatch):
    """Its best look, not that of the model without probes, which the search is given."""
    histories, searches = [], []

    def kept_fit(*arguments, **named):
        histories.append(fit(*arguments, **named))
        return histories[-1]

    def selector(search):
        searches.append(search)
        names = search.model.schema.names
        return FieldScores(dict.fromkeys(names, 1.0), None, {n: {} for n in names}, SearchNotes("x"))

    monkeypatch.setattr(select_features, "fit", kept_fit)
    monkeypatch.setattr(select_features, "make", lambda *_: selector)
    stage = SimpleNamespace(config=run_config(select=Select(3, None, [], "keep", None, probes=2)), reporter=Reporters())
    how = replace(HOW, max_epochs=3)
    select_features._search(stage, given(build(train.schema), train, valid, how=how, steps=10_000))
    best = min(histories[0], key=lambda look: look["valid_logloss"])
    assert searches[0].steps == best["step"] and searches[0].how == how

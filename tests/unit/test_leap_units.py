"""What shares a gate, what has several, and what few active rows do to it."""

import re
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.errors import ConfigError
from recsys.frame.ctr import CTR
from recsys.selection.columns import units
from recsys.selection.gates import EDGE, Gates, Reservoir, reservoirs
from tests.unit.test_leap import Linear, linear, search

WIDE = 256


def wide(tmp_path, rows=8000):
    """A scalar, a category, a list and a vector of 256 of which four dimensions matter; an exact linear logit."""
    r = np.random.default_rng(1)
    vector, scalar = r.normal(size=(rows, WIDE)).astype(np.float32), r.normal(size=rows)
    cat, tags = r.integers(0, 4, rows), [r.integers(0, 5, n).tolist() for n in r.integers(1, 4, rows)]
    logit = 0.8 * scalar + vector[:, :4] @ np.array([0.9, -0.7, 0.8, 0.6])
    flat = pa.ListArray.from_arrays(np.arange(0, vector.size + 1, WIDE, dtype=np.int32), pa.array(vector.ravel()))
    label = (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    table = pa.table({"vector": flat, "scalar": scalar, "cat": cat, "tags": tags, "label": label})
    config = {"name": "w", "label": "label", "split": {"shares": [0.1, 0.8, 0.1]}}
    kinds = {"cat": "categorical", "tags": "multi", "vector": "vector", "scalar": "numeric"}
    config["fields"] = {n: {"kind": k} | ({"max_length": 3} if k == "multi" else {}) for n, k in kinds.items()}
    valid = Shards(prepare(config, lambda: table, tmp_path), "valid")
    model = CTR(valid.schema, per_field(valid.schema, dim=4), partial(Linear, weight=[0.0] * (4 + 4 + WIDE + 1)))
    with torch.no_grad():  # numbers are standardised; these already are
        at = {n: i for i, n in enumerate(valid.schema.names)}
        column = dict(zip(at, np.cumsum([0, *model.widths[:-1]]), strict=True))
        model.interaction.weight[column["scalar"]] = 0.8
        model.interaction.weight[column["vector"] : column["vector"] + 4] = torch.tensor([0.9, -0.7, 0.8, 0.6])
    return model, valid


def test_every_kind_of_field_has_its_gate_side_by_side(tmp_path):
    found = search(*wide(tmp_path), price=5e-3, batch_size=512)
    assert found.keep == {"cat": False, "tags": False, "vector": True, "scalar": True}
    assert found.notes.dimensions == {}


def test_a_split_vector_keeps_the_dimensions_that_matter_and_drops_the_others(tmp_path):
    found = search(*wide(tmp_path), price=5e-3, split_width=WIDE, batch_size=512)
    gates = found.notes.dimensions["vector"]
    assert list(found.notes.dimensions) == ["vector"] and len(gates) == WIDE
    assert [d for d, g in enumerate(gates) if g > 0.5] == [0, 1, 2, 3]
    assert found.details["vector"]["dimensions_kept"] == 4
    assert found.keep == {"cat": False, "tags": False, "vector": True, "scalar": True}


def test_units_are_fields_groups_and_dimensions(tmp_path):
    model, valid = wide(tmp_path, rows=2000)
    assert units(model, valid).names == ["cat", "tags", "vector", "scalar"]
    grouped = units(model, valid, {"pair": ["cat", "scalar"]})
    assert grouped.names == ["pair", "tags", "vector"] and grouped.members[0] == ["cat", "scalar"]
    assert grouped.width_U.tolist() == [5, 4, WIDE]
    assert grouped.of_column_W.tolist() == [0] * 4 + [1] * 4 + [2] * WIDE + [0]
    split = units(model, valid, split_width=WIDE)
    assert split.names[2:5] == ["vector[0]", "vector[1]", "vector[2]"] and len(split.names) == 3 + WIDE
    assert set(split.width_U[2:].tolist()) == {1.0}
    assert units(model, valid, split_width=WIDE + 1).names == units(model, valid).names


def test_change_and_active_shares_are_their_definitions(tmp_path):
    model, valid = wide(tmp_path, rows=2000)
    found = units(model, valid, {"both": ["cat", "tags"]})
    ids = valid.batch(slice(0, len(valid))).ids_BL.numpy()
    keys = [tuple(row) for row in ids]
    share = np.array([keys.count(k) for k in set(keys)]) / len(keys)
    assert found.change_U[0] == pytest.approx(1 - np.sum(share**2))
    assert found.active_U[0] == pytest.approx(1 - share.max())


def test_a_group_is_worth_what_its_fields_are_worth_together(tmp_path):
    """x and a copy of it, half the weight each: alone each is worth a quarter, together all."""
    model, valid, _ = linear(tmp_path, {"a": 0.9, "b": 0.0, "c": 0.0})
    at = model.schema.names.index
    model.interaction.weight.data[[at("a"), at("b")]] = 0.45
    valid._dense[:, at("b")] = valid._dense[:, at("a")]  # a copy-on-write map: the file stays
    batch = valid.batch(slice(0, len(valid)))
    y, x = batch.label_B.double(), 0.9 * batch.dense_BN[:, at("a")].double()
    other = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    alone, together = (float(bce(m, y) - bce(x, y)) for m in ((x + other) / 2, other))
    price = (alone * together) ** 0.5
    settings = {"price": price, "adaptive": False}
    grouped = search(model, valid, groups={"copies": ["a", "b"]}, **settings)
    assert grouped.keep == {"a": True, "b": True, "c": False}
    assert grouped.score["a"] == grouped.score["b"]
    assert sum(search(model, valid, **settings).keep.values()) < 2, "one of two copies can go"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"g": ["a", "z"]}, "no field ['z']"),
        ({"a": ["a", "b"]}, "name of a field"),
        ({"g": ["a"], "h": ["a", "b"]}, "['a'] are in h and g"),
    ],
)
def test_groups_that_cannot_be_are_refused(tmp_path, groups, message):
    model, valid, _ = linear(tmp_path, {"a": 1.0, "b": 0.3}, rows=4000)
    with pytest.raises(ConfigError, match=re.escape(message)):
        search(model, valid, groups=groups)


def rare(tmp_path, share=0.0008, rows=60_000):
    """A flag active in .08 % of rows, twice: one that matters and one of noise; and a scalar."""
    r = np.random.default_rng(2)
    columns = {n: (r.random(rows) < share).astype(float) for n in ("flag", "noise")} | {"x": r.normal(size=rows)}
    logit = 3.0 * columns["flag"] + 0.7 * columns["x"] - 1
    label = (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    config = {"name": "r", "label": "label", "split": {"shares": [0.1, 0.8, 0.1]}}
    config["fields"] = {n: {"kind": "numeric"} for n in columns}
    valid = Shards(prepare(config, lambda: pa.table({**columns, "label": label}), tmp_path), "valid")
    x_BN = valid.batch(slice(0, len(valid))).dense_BN
    spread = x_BN.max(0).values - x_BN.min(0).values  # of a flag: between its two values
    weight = {"flag": 3.0 / float(spread[valid.schema.names.index("flag")]), "noise": 0.0, "x": 0.7}
    return CTR(
        valid.schema, per_field(valid.schema), partial(Linear, weight=[weight[n] for n in valid.schema.names])
    ), valid


def test_only_fields_with_few_active_rows_have_a_reservoir(tmp_path):
    model, valid = rare(tmp_path)
    found = units(model, valid)
    stock = reservoirs(model, valid, found, batch_size=2048)
    assert [found.names[r.unit] for r in stock] == ["flag", "noise"]
    x_BN = valid.batch(slice(0, len(valid))).dense_BN
    for r in stock:
        column = x_BN[:, r.columns_D]
        assert r.active == pytest.approx(float((column != r.usual_D).float().mean()))
        assert (r.values_RD == column.max()).all() and r.usual_D == column.min()
    assert reservoirs(model, valid, found, batch_size=20_000) == []


def test_draws_from_a_reservoir_have_the_expectation_of_a_permutation():
    values = torch.tensor([[1.0], [3.0]])
    stock = Reservoir(0, torch.tensor([0]), 0.001, values, torch.tensor([-0.5]))
    x_BD, weight_B = stock.draw(1000, torch.Generator().manual_seed(0))
    drawn = [stock.draw(1000, torch.Generator().manual_seed(s)) for s in range(400)]
    active = torch.stack([(x != -0.5).squeeze(1) for x, _ in drawn]).float()
    assert active.sum(1).mean() == pytest.approx(5, abs=0.4), "five active rows a batch, where a permutation gives one"
    f = torch.stack([(w * x.squeeze(1)).mean() for x, w in drawn])
    expected = 0.001 * 2 + 0.999 * -0.5
    assert f.mean() == pytest.approx(expected, abs=4 * float(f.std()) / 20)
    assert weight_B[x_BD.squeeze(1) == -0.5].unique().numel() == 1


def test_a_reservoir_steadies_the_gradient_of_a_rare_field_and_keeps_its_mean(tmp_path):
    model, valid = rare(tmp_path)
    found = units(model, valid)
    i = found.names.index("flag")

    def gradients(stock):
        gates = Gates(found, torch.ones(3), 0, 1000, 0.5, stock)
        seen = []
        for epoch in range(12):
            for batch in valid.shuffled(2048, epoch):
                logit_B = model.logits_of(gates(model.embedding(batch)))[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logit_B, batch.label_B)
                seen.append(float(torch.autograd.grad(loss, gates.theta_U)[0][i]))
        return np.array(seen)

    permuted, drawn = gradients([]), gradients(reservoirs(model, valid, found, 2048))
    error = (permuted.var() / len(permuted) + drawn.var() / len(drawn)) ** 0.5
    assert drawn.mean() == pytest.approx(permuted.mean(), abs=4 * error)
    assert drawn.mean() < 0, "closing the gate costs"
    assert drawn.std() < 0.8 * permuted.std()


def test_a_small_validation_split_shortens_the_search_and_says_how_many_rows_it_needs(tmp_path):
    model, valid, _ = linear(tmp_path, {"a": 1.0, "b": 0.0}, rows=4000)
    found = search(model, valid, price=1e-2)
    assert found.notes.steps == 200
    assert "rows: 150 steps need 4096, so the gates had 100" in found.notes.warnings[0]
    assert found.keep == {"a": True, "b": False}
    assert search(model, valid, price=1e-2, batch_size=1024).notes.warnings == []


def test_gates_never_saturate_past_return(tmp_path):
    found = search(*linear(tmp_path, {"a": 2.0, "b": 0.0}, rows=8000)[:2], price=1e-2)
    for d in found.details.values():
        assert EDGE - 1e-6 <= d["gate"] <= 1 - EDGE + 1e-6


def test_leap_takes_any_model_as_its_head(tmp_path):
    """The gate needs nothing of the interaction but x → logit."""
    model, valid, _ = linear(tmp_path, {"a": 1.0, "b": 0.0}, rows=8000)

    class Odd(torch.nn.Module):
        def forward(self, x_BW):
            return torch.sin(x_BW[:, model.schema.names.index("a")]) * 1.3

    model.interaction = Odd()
    assert search(model, valid, price=1e-2).keep == {"a": True, "b": False}

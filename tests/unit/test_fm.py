from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.evaluation.metrics import logloss, sigmoid
from recsys.frame.ctr import CTR
from recsys.models.fm import FM, pairwise
from recsys.training.auto import facts, recipe
from recsys.training.config import TrainConfig
from recsys.training.fit import fit, logits


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**31))
def test_both_forms_agree(rows: int, fields: int, dim: int, seed: int) -> None:
    v_BFD = torch.randn(rows, fields, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pairs = sum(
        ((v_BFD[:, i] * v_BFD[:, j]).sum(1) for i in range(fields) for j in range(i)),
        start=torch.zeros(rows, dtype=torch.float64),
    )
    torch.testing.assert_close(pairwise(v_BFD).sum(1), pairs, rtol=1e-12, atol=1e-12)


def test_logit_is_bias_linear_and_pairs_with_projected_numbers() -> None:
    model = FM([4, 4, 1]).double()
    with torch.no_grad():
        model.bias.fill_(0.01)
    x_BW = torch.randn(7, 9, dtype=torch.float64)
    weight = model.stack.projections["2"].weight.detach()[:, 0]
    for x, got in zip(x_BW, model(x_BW), strict=True):
        rows = [x[:4], x[4:8], x[8] * weight]
        want = 0.3 + sum(8 / 3**0.5 * r.sum() / 4 for r in rows)
        v = [r - r.sum() / 4 for r in rows]
        want += sum((v[i] * v[j]).sum() / 2 for i in range(3) for j in range(i))
        assert float(got.detach()) == pytest.approx(float(want), abs=1e-12)


def test_missing_number_takes_no_part() -> None:
    """A number of 0 (the mean, or missing) leaves nothing but the other fields' logit at their scale."""
    model, fewer = FM([4, 4, 1]).double(), FM([4, 4]).double()
    fewer.first_scale = model.first_scale
    x_BW = torch.randn(5, 8, dtype=torch.float64)
    padded_BW = torch.cat([x_BW, torch.zeros(5, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(model(padded_BW), fewer(x_BW), rtol=1e-12, atol=1e-12)


def test_any_first_order_weight_goes_with_any_vector() -> None:
    """w_i moves along (1, …, 1) alone and v_i at right angles to it."""
    model = FM([8, 8]).double()
    x_BW, shift_BW = torch.randn(5, 16, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64).expand(5, 8)
    moved_BW = torch.cat([x_BW[:, :8] + shift_BW, x_BW[:, 8:]], 1)
    torch.testing.assert_close(model(moved_BW) - model(x_BW), 8 / 2**0.5 * shift_BW[:, :1], rtol=1e-12, atol=1e-12)


def planted(sizes: tuple[int, ...], pair: float, rows: int, seed: int = 0) -> pa.Table:
    """Clicks by strong effects of Zipf fields and, if `pair` > 0, of the first and last together."""
    r = np.random.default_rng(seed)
    logit, columns, vectors = np.full(rows, -1.0), {}, []
    for i, size in enumerate(sizes):
        share = np.arange(1, size + 1) ** -0.8
        columns[f"c{i}"] = r.choice(size, rows, p=share / share.sum())
        logit += 0.8 * r.normal(size=size)[columns[f"c{i}"]]
        vectors.append(r.normal(size=size)[columns[f"c{i}"]])
    logit += pair * vectors[0] * vectors[-1]
    columns["click"] = (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    return pa.table(columns)


def splits(table: pa.Table, folder: Path) -> dict[str, Shards]:
    fields = {name: {"min_count": 2} for name in table.column_names if name != "click"}
    split = {"shares": [0.7, 0.15, 0.15], "seed": 0}
    config = {"name": "p", "label": "click", "time": None, "group": None, "split": split, "fields": fields}
    made = prepare(config, lambda: table, folder)
    return {s: Shards(made, s) for s in ("train", "valid", "test")}


def logistic_regression(shards: dict[str, Shards]) -> float:
    """Test logloss of one-hot logistic regression, its C chosen on validation."""
    cardinality = [f.cardinality for f in shards["train"].schema.fields]

    def one_hot(s: Shards) -> sp.csr_matrix:
        ids_BL = s.batch(slice(0, len(s))).ids_BL.numpy() + np.cumsum([0, *cardinality[:-1]])
        at = np.arange(0, ids_BL.size + 1, ids_BL.shape[1])
        return sp.csr_matrix((np.ones(ids_BL.size), ids_BL.ravel(), at), (len(s), sum(cardinality)))

    x = {name: one_hot(s) for name, s in shards.items()}
    losses = []
    for c in (0.1, 0.3, 1.0):
        model = LogisticRegression(C=c, max_iter=1000).fit(x["train"], shards["train"].label_B)
        losses.append([logloss(model.predict_proba(x[n])[:, 1], shards[n].label_B) for n in ("valid", "test")])
    return min(losses)[1]


def factorization_machine(shards: dict[str, Shards], init: float = 0.05) -> float:
    """Test logloss of an FM with the settings that its data give; tables start in ±init."""
    schema, chosen = shards["train"].schema, recipe(facts(shards["train"]))["train"]
    config = TrainConfig(**{**chosen, "precision": "fp32"})
    model = CTR(schema, per_field(schema, 8, init), FM, config.embedding_dropout)
    fit(model, shards["train"], shards["valid"], config, seed=0)
    return logloss(sigmoid(logits(model, shards["test"])), shards["test"].label_B)


@pytest.mark.slow
def test_wide_fields_without_pairs_it_equals_the_logistic_regression_that_it_contains(tmp_path) -> None:
    shards = splits(planted((200, 1000, 3000, 12), 0.0, 40_000), tmp_path)
    assert factorization_machine(shards) < logistic_regression(shards) + 0.003


@pytest.mark.slow
def test_narrow_fields_with_a_pair_it_beats_logistic_regression(tmp_path) -> None:
    """If tables start wide: from ±.05 the products start near 0, and training ends before they have grown."""
    shards = splits(planted((30, 50, 12), 1.5, 20_000, seed=1), tmp_path)
    assert factorization_machine(shards, 0.5) < logistic_regression(shards) - 0.01

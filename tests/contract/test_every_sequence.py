"""Every model × embedding × pooling of a sequence, found by itself; in the fast tests each option once."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from recsys.errors import ConfigError
from recsys.evaluation.metrics import auc
from recsys.features.schema import Schema
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.loop import Training
from tests.sequences import LENGTH, event_batch, event_schema, rows_of

CONF = Path(__file__).parents[2] / "conf"
MODELS, EMBEDDINGS, SEQUENCES = (
    sorted(p.stem for p in (CONF / g).glob("*.yaml")) for g in ("model", "embedding", "sequence")
)
SCHEMA = event_schema()
SMALL = {"hashed": {"rows": 16}, "unified": {"rows": 64, "dim": 4}}


def spec(model: str, embedding: str, sequence: str) -> dict[str, Any]:
    groups = {"model": model, "embedding": embedding, "sequence": sequence}
    found = {g: OmegaConf.to_container(OmegaConf.load(CONF / g / f"{n}.yaml")) for g, n in groups.items()}
    found["embedding"].update({"init": 0.5, **SMALL.get(embedding, {})})
    return {**found, "embedding_dropout": 0.1}


GROUPS = (MODELS, EMBEDDINGS, SEQUENCES)
ONCE = {tuple(g[i % len(g)] for g in GROUPS) for i in range(max(map(len, GROUPS)))}  # each option, in few triples


@pytest.fixture(
    params=[pytest.param(p, marks=() if p in ONCE else pytest.mark.slow) for p in product(*GROUPS)], ids="-".join
)
def given(request: pytest.FixtureRequest) -> dict[str, Any]:
    return spec(*request.param)


def test_there_are_poolings() -> None:
    assert {"mean", "din", "sdim"} <= set(SEQUENCES)


def test_model_keeps_its_promises(given: dict[str, Any], tmp_path: Path, exported_is_eager) -> None:
    model, batch = checkpoint.build(SCHEMA, given), event_batch(SCHEMA)
    step(model, batch)
    model.eval()
    logit_BT, order = model(batch).detach(), torch.randperm(64)
    assert logit_BT.shape == (64, 1) and logit_BT.isfinite().all() and logit_BT.std() > 0
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(model(rows_of(batch, SCHEMA, order)).detach(), logit_BT[order], **close)
    torch.testing.assert_close(model(rows_of(batch, SCHEMA, slice(3, 4))).detach(), logit_BT[3:4], **close)
    exported_is_eager(model, batch)
    checkpoint.save(tmp_path, model, given)
    again, _ = checkpoint.load(tmp_path)
    torch.testing.assert_close(again(batch).detach(), logit_BT, rtol=0, atol=0)
    plain = model.over(model.embedding.scoring())
    (tmp_path / "plain").mkdir()
    checkpoint.save(tmp_path / "plain", plain, given)
    again, _ = checkpoint.load(tmp_path / "plain")
    torch.testing.assert_close(again(batch).detach(), logit_BT, **close)


def step(model, batch) -> None:
    """One step of training moves every table and every dense parameter, in place."""
    before = {n: v.detach().clone() for n, v in model.state_dict().items()}
    state = Training(model, TrainConfig(warmup_steps=0, table_l2=1e-3, precision="fp32"), 10)
    model.train()
    assert torch.tensor(state.learn(batch)).isfinite()
    fixed = {n for n in before if n.endswith("projection_DM")}
    same = {n for n, v in model.state_dict().items() if torch.equal(v, before[n])}
    assert same == fixed


@pytest.mark.parametrize(("embedding", "sequence"), list(product(EMBEDDINGS, SEQUENCES)))
def test_a_sequence_is_as_wide_as_its_candidate_and_nothing_where_empty(embedding: str, sequence: str) -> None:
    model, batch = checkpoint.build(SCHEMA, spec("fm", embedding, sequence)), event_batch(SCHEMA)
    widths = dict(zip(SCHEMA.names, model.widths, strict=True))
    assert widths["past"] == widths["product"] == model.embedding.widths["past"] / LENGTH
    batch.ids_BL[:, 1 : 1 + LENGTH] = -1
    empty = rows_of(batch, SCHEMA, slice(None))
    x_BW = model.features(empty)
    assert x_BW.shape == (64, sum(model.widths)) and x_BW.isfinite().all()
    parts = dict(zip(SCHEMA.names, x_BW.split(model.widths, 1), strict=True))
    assert parts["past"].eq(0).all() and parts["product"].ne(0).any()
    model.logits_of(x_BW).sum().backward()
    assert all(w.isfinite().all() for w in model.state_dict().values())


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_what_attends_refuses_to_lose_its_candidate(embedding: str) -> None:
    part = SCHEMA.subset(["past", "tags", "price"])
    for sequence in ("din", "sdim"):
        with pytest.raises(
            ConfigError, match=r"'past'.*candidate 'product'.*select\.protect=\[product\].*sequence=mean"
        ):
            checkpoint.build(part, spec("mlp", embedding, sequence))
    model = checkpoint.build(part, spec("mlp", embedding, "mean"))
    assert model(event_batch(part)).isfinite().all()


def test_attention_needs_a_table_to_share_and_any_sequence_a_pooling() -> None:
    alone = Schema.from_json({**SCHEMA.to_json(), "fields": [{**f, "table": ""} for f in SCHEMA.to_json()["fields"]]})
    with pytest.raises(ConfigError, match=r"data\.fields\.past\.table, or set sequence=mean"):
        checkpoint.build(alone, spec("mlp", "per_field", "din"))
    with pytest.raises(ConfigError, match="'past' is a sequence and the model has no pooling"):
        checkpoint.build(SCHEMA, {**spec("mlp", "per_field", "mean"), "sequence": None})


@pytest.mark.slow
def test_attention_learns_whether_the_candidate_was_met_before() -> None:
    """The label is mostly whether the product stands in the history, which a mean of 10 of 300 products blurs."""
    found = {}
    for sequence in SEQUENCES:
        torch.manual_seed(0)
        schema = event_schema(10, ids=300).subset(["past", "product"])
        model = checkpoint.build(schema, {**spec("mlp", "per_field", sequence), "embedding_dropout": 0.0})
        state = Training(model, TrainConfig(lr=3e-3, table_lr=0.1, warmup_steps=0, precision="fp32"), 1000)
        for seed in range(501):
            batch = event_batch(schema, 512, seed)
            met_B = torch.rand(512) < 0.5
            batch.ids_BL[met_B, 3] = batch.ids_BL[met_B, -1]
            met_B = (batch.ids_BL[:, :10] == batch.ids_BL[:, -1:]).any(1)
            batch.label_BT = (torch.rand(512) < 0.1 + 0.8 * met_B).float().unsqueeze(1)
            if seed < 500:
                model.train()
                state.learn(batch)
        found[sequence] = auc(model.eval()(batch)[:, 0].detach().numpy(), batch.label_B.numpy())
    assert found["din"] > found["mean"] + 0.02 and found["sdim"] > found["mean"] + 0.02, found

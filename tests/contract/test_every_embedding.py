"""Every scheme of conf/embedding, picked up by itself, keeps the same promises."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from recsys.data.batch import Batch, to_jagged
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.features.encoders import MISSING, UNSEEN
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.models.fm import FM

CONF = Path(__file__).parents[2] / "conf" / "embedding"


@pytest.fixture(params=sorted(p.stem for p in CONF.glob("*.yaml")))
def conf(request: pytest.FixtureRequest):
    return OmegaConf.load(CONF / f"{request.param}.yaml")


@pytest.fixture
def embedding(conf, schema: Schema) -> nn.Module:
    return instantiate(conf)(schema)


def permuted(batch: Batch, schema: Schema, order: torch.Tensor) -> Batch:
    ids_BL = batch.ids_BL[order]
    jagged = to_jagged(ids_BL, [f.name for f in schema.sparse], [f.max_length for f in schema.sparse])
    return Batch(jagged, ids_BL, batch.dense_BN[order], batch.label_B[order])


def test_there_are_schemes() -> None:
    assert {"per_field", "hashed", "unified"} <= {p.stem for p in CONF.glob("*.yaml")}


def test_widths_tell_the_output(embedding: nn.Module, schema: Schema, batch: Batch) -> None:
    x_BW = embedding(batch)
    assert list(embedding.widths) == schema.names
    assert x_BW.shape == (64, sum(embedding.widths.values())) and x_BW.dtype == torch.float32
    torch.testing.assert_close(x_BW[:, -batch.dense_BN.shape[1] :], batch.dense_BN, rtol=0, atol=0)


def test_one_step_moves_every_table_and_leaves_no_dense_gradient(embedding: nn.Module, batch: Batch) -> None:
    before = {n: p.detach().clone() for n, p in embedding.state_dict().items()}
    embedding.set_learning_rate(0.1)
    embedding(batch).square().sum().backward()
    after = embedding.state_dict()
    assert [n for n in before if torch.equal(before[n], after[n])] == []
    assert all(p.grad is None for p in embedding.parameters())


def test_rows_do_not_know_each_other(embedding: nn.Module, schema: Schema, batch: Batch) -> None:
    x_BW, order = embedding(batch).detach(), torch.randperm(64)
    torch.testing.assert_close(embedding(permuted(batch, schema, order)).detach(), x_BW[order], rtol=0, atol=0)


def test_batch_of_one_is_the_row_alone(embedding: nn.Module, schema: Schema, batch: Batch) -> None:
    x_BW = embedding(batch).detach()
    for b in range(5):
        one = embedding(permuted(batch, schema, torch.tensor([b]))).detach()
        torch.testing.assert_close(one, x_BW[b : b + 1], rtol=0, atol=0)


def test_saved_and_loaded_weights_answer_the_same(embedding, conf, schema, batch, tmp_path: Path) -> None:
    torch.save(embedding.state_dict(), tmp_path / "e.pt")
    other = instantiate(conf)(schema)
    assert not torch.equal(other(batch).detach(), embedding(batch).detach())
    other.load_state_dict(torch.load(tmp_path / "e.pt", weights_only=True))
    torch.testing.assert_close(other(batch).detach(), embedding(batch).detach(), rtol=0, atol=0)


def test_plain_tensors_answer_the_same(embedding: nn.Module, batch: Batch) -> None:
    plain = embedding.scoring()
    assert plain.widths == embedding.widths
    torch.testing.assert_close(plain(batch), embedding(batch).detach(), rtol=1e-6, atol=1e-8)


def test_plain_tensors_are_a_copy(embedding: nn.Module, batch: Batch) -> None:
    plain = embedding.scoring()
    before = plain(batch).clone()
    embedding.set_learning_rate(0.1)
    embedding(batch).square().sum().backward()
    torch.testing.assert_close(plain(batch), before, rtol=0, atol=0)


def test_unseen_and_missing_ids_have_rows_of_their_own_choice(embedding, schema: Schema, batch: Batch) -> None:
    """Field `item` has a vocabulary: missing, unseen and the first known value read three different rows."""
    start = sum(embedding.widths[n] for n in schema.names[: schema.names.index("item")])
    seen = []
    for id_ in (MISSING, UNSEEN, 2):
        ids_BL = batch.ids_BL[:1].clone()
        ids_BL[:, 1] = id_
        jagged = to_jagged(ids_BL, [f.name for f in schema.sparse], [f.max_length for f in schema.sparse])
        x_BW = embedding(Batch(jagged, ids_BL, batch.dense_BN[:1], batch.label_B[:1])).detach()
        seen.append(x_BW[0, start : start + embedding.widths["item"]])
    assert all(s.isfinite().all() and s.any() for s in seen)
    assert not any(torch.equal(seen[i], seen[j]) for i in range(3) for j in range(i))


def test_subset_of_the_schema_is_enough(conf, train: Shards) -> None:
    for names in (["tags", "score"], ["item"], ["user", "age", "tags"]):
        part = train.schema.subset(names)
        embedding = instantiate(conf)(part)
        batch = Shards(train.folder, "train", part).batch(slice(0, 20))
        assert embedding(batch).shape == (20, sum(embedding.widths.values()))
        torch.testing.assert_close(embedding.scoring()(batch), embedding(batch).detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dim", [6, 1, 0, -4])
def test_width_that_fbgemm_cannot_take_is_refused(conf, schema: Schema, dim: int) -> None:
    with pytest.raises(ConfigError, match=rf"embedding\.dim must be a multiple of 4.*got {dim}: set embedding\.dim="):
        instantiate(conf, dim=dim)(schema)


def test_exported_graph_of_plain_tensors_answers_as_eager(
    conf, schema: Schema, batch: Batch, exported_is_eager
) -> None:
    exported_is_eager(CTR(schema, instantiate(conf)(schema), FM), batch)

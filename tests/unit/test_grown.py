"""A grown model: what stays is equal bit for bit, what is new is a fresh table's."""

from dataclasses import replace

import pytest
import torch

from recsys.data.shards import Shards
from recsys.embeddings.unified import unified
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.grown import check_growable, grown
from recsys.training.loop import Training, seed_everything

SPEC: checkpoint.Spec = {
    "model": {"_target_": "recsys.models.mlp.MLP", "_partial_": True, "hidden": [8]},
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "_partial_": True, "dim": 4, "init": 0.01},
    "embedding_dropout": 0.0,
    "seed": 1,
}
QUICK = TrainConfig(batch_size=128, max_epochs=1, lr=3e-3, table_lr=0.5, warmup_steps=0, precision="fp32")


@pytest.fixture(scope="module")
def trained(train: Shards):
    seed_everything(1)
    model = checkpoint.build(train.schema, SPEC)
    for _ in Training(model, QUICK, len(train) // 128).steps(train, 0):
        pass
    return model.eval()


def more_ids(schema: Schema, name: str, more: int) -> Schema:
    """A field, and those that share its table, with more ids."""
    owner = schema[name].table or name
    return replace(
        schema,
        fields=tuple(
            replace(f, cardinality=f.cardinality + more) if (f.table or f.name) == owner and f.is_sparse else f
            for f in schema.fields
        ),
    )


def test_kept_rows_stay_and_others_begin_anew(trained, train: Shards) -> None:
    name = train.schema.sparse[0].name
    table = train.schema[name].table or name
    ids, fresh = train.schema[name].cardinality, [2, 3]
    bigger = grown(trained, SPEC, more_ids(train.schema, name, 5), {table: [*fresh, ids, ids + 4]}, seed=7)
    before = {h.table: h for h in trained.trainable().held()}
    for rows in bigger.trainable().held():
        old = before[rows.table]
        kept = [r for r in range(old.total) if rows.table != table or r not in fresh]
        assert torch.equal(rows.weight_RD[kept], old.weight_RD[kept]) and torch.equal(rows.state[kept], old.state[kept])
        new = [r for r in range(rows.total) if r not in kept]
        assert len(new) == (7 if rows.table == table else 0)
        assert rows.weight_RD[new].abs().max() <= 0.01 if new else True
        assert not rows.state[new].any()
        if new:
            assert len(rows.weight_RD[new].unique()) > len(new)  # drawn, and not zeros
    dense = {n: x for n, x in trained.state_dict().items() if not n.startswith("embedding.")}
    assert dense and all(torch.equal(x, bigger.state_dict()[n]) for n, x in dense.items())


def test_rows_without_fresh_ids_score_the_same(trained, train: Shards) -> None:
    name = train.schema.sparse[0].name
    bigger = grown(trained, SPEC, more_ids(train.schema, name, 5), {}, seed=7).eval()
    batch = train.batch(slice(0, 500))
    with torch.no_grad():
        assert torch.equal(bigger(batch), trained(batch))


def test_models_whose_ids_share_rows_are_refused(train: Shards) -> None:
    model = checkpoint.build(train.schema, SPEC)
    check_growable(model)
    with pytest.raises(ConfigError, match="expected a table row for each id"):
        check_growable(model.over(unified(train.schema, 4, rows=64)))

"""Compressors of models, the adaptor for methods of tables, and healing."""

from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from recsys.compression.contract import TrainingRows, compressor
from recsys.compression.fwsvd import fwsvd
from recsys.compression.heal import heal
from recsys.compression.rounding import rounding
from recsys.compression.share import share
from recsys.compression.svd import svd
from recsys.config.factory import make
from recsys.config.options import CONF
from recsys.embeddings.per_field import per_field
from recsys.evaluation.metrics import logloss, sigmoid
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.training.config import TrainConfig
from recsys.training.fit import fit, logits


@pytest.fixture(scope="module")
def rows(train, valid) -> TrainingRows:
    torch.manual_seed(0)
    model = CTR(train.schema, per_field(train.schema, dim=8, init=0.3), partial(MLP, hidden=(16,), dropout=0.0))
    fit(model, train, valid, TrainConfig(batch_size=64, max_epochs=3, lr=3e-3, table_lr=0.1), 0)
    return TrainingRows(model, train, valid, 0)


def valid_logloss(model, rows):
    return logloss(sigmoid(logits(model, rows.valid)), rows.valid.label_B, rows.valid.weight_B)


@pytest.mark.parametrize(
    "method", [partial(svd, rank=2), partial(fwsvd, rank=2), partial(share, min_reads=2), partial(rounding, bits=4)]
)
def test_the_adaptor_hands_over_tables_reads_and_optimiser_state(method, rows):
    smaller, reports = compressor(method)(rows.trained, rows)
    want, notes = method(rows.trained.embedding.scoring().tables, rows.reads, rows.squared_gradients)
    tables = smaller.embedding.scoring().tables
    assert list(tables) == list(want) == [r.part for r in reports]
    assert all(torch.equal(tables[n].dense(), want[n].dense()) for n in want)
    assert {r.part: r.note for r in reports if r.note} == {n: note for n, note in notes.items() if note}


def brutal(rows) -> CTR:
    smaller, _ = compressor(partial(svd, rank=1))(rows.trained, rows)
    return compressor(partial(rounding, bits=4))(smaller, rows)[0]


def test_healing_improves_validation_under_frozen_codes_and_reports_against_the_trained_model(rows):
    small, trained = brutal(rows), {n: p.detach().clone() for n, p in rows.trained.named_parameters()}
    before = {n: t.state() for n, t in small.embedding.scoring().tables.items()}
    start = valid_logloss(small, rows)
    healed, reports = heal(small, rows, lr=3e-3, batch_size=64)
    assert valid_logloss(healed, rows) < start - 1e-4
    assert valid_logloss(small, rows) == start, "the model that was given stays as it is"
    after = healed.embedding.scoring().tables
    for name, state in before.items():
        assert torch.equal(after[name].codes, state["codes"])
        assert not any(torch.equal(after[name].state()[n], state[n]) for n in after[name].small)
    by_part = {r.part: r for r in reports}
    assert all(r.note.startswith(f"healed: validation logloss {start:.5f} before, ") for r in reports)
    plain = rows.trained.embedding.scoring().tables
    for name, table in after.items():
        error = (plain[name].dense() - table.dense()).norm() / plain[name].dense().norm()
        assert by_part[name].error == pytest.approx(float(error), rel=1e-4)
    for name, weight in healed.interaction.named_parameters(prefix="interaction"):
        if weight.ndim == 2:
            error = (weight.detach() - trained[name]).norm() / trained[name].norm()
            assert by_part[name].error == pytest.approx(float(error), rel=1e-4)
            assert by_part[name].kind == "layer"


@pytest.mark.parametrize("lr", [100.0, 1e-12])
def test_healing_that_does_not_help_keeps_the_start(rows, lr):
    small = brutal(rows)
    healed, reports = heal(small, rows, lr=lr, batch_size=64)
    if lr > 1:
        assert healed is small
        assert reports[0].note.startswith("not healed")
    assert valid_logloss(healed, rows) <= valid_logloss(small, rows)


def test_the_packaged_option_heals_a_model_that_exports(rows, batch, exported_is_eager):
    settings = OmegaConf.to_container(OmegaConf.load(CONF / "heal" / "one_epoch.yaml"), resolve=True)
    exported_is_eager(compressor(make({**settings, "batch_size": 256}, "heal"))(brutal(rows), rows)[0], batch)

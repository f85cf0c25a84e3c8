"""Every option of conf/compression and conf/quantization, found by itself."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from recsys.compression.report import compare
from recsys.config.factory import make
from recsys.export.graphs import ScoringGraph, trace, without_torch_notices, write_onnx, write_weights
from recsys.features.schema import Field, Schema
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.serving.runtimes import load_onnx
from recsys.tables.contract import TableForm
from recsys.tables.forms import Table
from recsys.tables.lookup import Lookup
from recsys.tables.plain import PlainEmbedding
from recsys.tables.saved import restored, saved

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted([*(CONF / "compression").glob("*.yaml"), *(CONF / "quantization").glob("*.yaml")])


def tables() -> dict[str, Table]:
    r = torch.Generator().manual_seed(0)
    return {"a": Table(torch.randn(400, 8, generator=r)), "b.c": Table(torch.randn(90, 8, generator=r))}


def counts(rows: int) -> torch.Tensor:
    return torch.arange(rows) % 5  # a fifth of the rows is never read, a fifth once


def compressed(path: Path, before: dict[str, Table]) -> tuple[dict[str, TableForm], dict[str, str]]:
    reads = {n: counts(t.rows) for n, t in before.items()}
    fisher = {n: torch.rand(t.rows) + 0.1 for n, t in before.items()}
    settings = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    return make(settings, path.parent.name)(before, reads, fisher)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.stem)
def test_it_gives_smaller_tables_of_the_same_shape_and_a_true_report(path):
    before = tables()
    reads = {n: counts(t.rows) for n, t in before.items()}
    after, notes = compressed(path, before)
    assert list(after) == list(before)
    assert set(notes) <= set(before)
    for report, (name, old) in zip(compare(before, after, reads, notes), before.items(), strict=True):
        new, p_V = after[name], reads[name] / reads[name].sum()
        assert (report.part, new.rows, new.dim) == (name, old.rows, old.dim)
        assert report.bytes_before == old.nbytes > report.bytes_after == new.nbytes
        lost_V, norm_V = (old.dense() - new.dense()).norm(dim=1) ** 2, old.dense().norm(dim=1) ** 2
        assert report.error == pytest.approx(float((lost_V.sum() / norm_V.sum()).sqrt()), abs=1e-6)
        weighted = ((p_V * lost_V).sum() / (p_V * norm_V).sum()).sqrt()
        assert report.weighted_error == pytest.approx(float(weighted), abs=1e-6)
        assert 0 < report.error < 1
        row = torch.randint(0, old.rows, (5, 3))
        torch.testing.assert_close(new.read(row), new.dense()[row])
        assert torch.equal(restored(saved(new)).dense(), new.dense())
        assert set(new.small) <= set(new.state())
    torch.testing.assert_close(before["a"].codes, tables()["a"].codes)  # the input is left alone


def test_onnx_answers_as_the_dense_tables_that_each_form_stands_for(tmp_path):
    """One model reads what every option makes of a table: one export serves them all."""
    forms = {p.stem: compressed(p, tables())[0]["a"] for p in OPTIONS}
    fields = [Field(n, "categorical", (n,), ("int",), t.rows) for n, t in forms.items()]
    fields.append(Field("list", "multi", ("list",), ("int",), 400, 3))
    schema = Schema((*fields, Field("x", "numeric", ("x",), ("float",))), "y")
    lookups = [*(Lookup(n, n) for n in forms), Lookup("list", OPTIONS[0].stem)]
    model = CTR(schema, PlainEmbedding(schema, forms, lookups), partial(MLP, hidden=(8,), dropout=0.0)).eval()
    dense = {n: Table(t.dense()) for n, t in forms.items()}
    graph = ScoringGraph(model)
    with without_torch_notices():
        state = write_weights(graph, tmp_path)
        write_onnx(trace(graph, schema, packed=True), tmp_path, state)
    answer = load_onnx(tmp_path)
    rng = np.random.default_rng(0)
    for rows in (1, 33):
        ids_BL = np.stack([rng.integers(0, t.rows, rows) for t in forms.values()], 1)
        ids_BL = np.concatenate([ids_BL, rng.integers(-1, 400, (rows, 3))], 1)
        dense_BN = rng.normal(size=(rows, 1)).astype(np.float32)
        with torch.no_grad():
            x = PlainEmbedding(schema, dense, lookups).lookup(torch.from_numpy(ids_BL), torch.from_numpy(dense_BN))
            want = model.logits_of(x)
        got = answer(ids_BL, dense_BN).reshape(rows, -1)
        np.testing.assert_allclose(got, want.numpy().reshape(rows, -1), atol=1e-5)

"""Sequences, weighted and plain lists over a shared table answer the same in every runtime."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.compression.rounding import rounding
from recsys.compression.svd import svd
from recsys.embeddings.hashed import hashed
from recsys.export.graphs import (
    ScoringGraph,
    compiler,
    trace,
    without_torch_notices,
    write_onnx,
    write_pt2,
    write_weights,
)
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.sequences.din import DIN
from recsys.sequences.mean import Mean
from recsys.sequences.sdim import SDIM
from recsys.serving.runtimes import Graph, load_onnx, load_pt2
from recsys.tables.plain import PlainEmbedding
from tests.sequences import event_batch, event_schema, rows_of

SCHEMA = event_schema(length=20)
POOLINGS = {"mean": Mean, "din": DIN, "sdim": SDIM}


def subject(sequence: str, form: str) -> CTR:
    """A model with weights large enough for differences to show."""
    torch.manual_seed(7)
    embedding = hashed(SCHEMA, 8, rows=30, init=0.5)
    model = CTR(SCHEMA, embedding, partial(MLP, hidden=(16,)), sequence=POOLINGS[sequence])
    plain = embedding.scoring()
    tables = plain.tables
    if "low rank" in form:
        tables, _ = svd(tables, {}, {}, rank=3)
    if "int8" in form:
        tables, _ = rounding(tables, {n: torch.ones(t.rows) for n, t in tables.items()}, {}, 8)
    return model.over(PlainEmbedding(SCHEMA, tables, plain.lookups)).eval()


def check(run: Graph, model: CTR, atol: float = 1e-5) -> None:
    batch = event_batch(SCHEMA, 512)
    with torch.no_grad():
        want_BT = model(batch).numpy()
    assert want_BT.std() > 0.02
    for size in (1, 7, 512):
        part = rows_of(batch, SCHEMA, slice(0, size))
        got_BT = run(part.ids_BL.numpy(), part.dense_BN.numpy())
        np.testing.assert_allclose(got_BT, want_BT[:size], atol=atol)


SLOW = [pytest.param(form, marks=pytest.mark.slow) for form in ("dense", "int8", "low rank")]
SLOW_POOLINGS = [pytest.param(name, marks=pytest.mark.slow) for name in ("mean", "sdim")]


@pytest.mark.parametrize("form", [*SLOW, "low rank int8"])
@pytest.mark.parametrize("sequence", [*SLOW_POOLINGS, "din"])
def test_onnx_is_the_model(sequence: str, form: str, tmp_path: Path) -> None:
    model = subject(sequence, form)
    graph = ScoringGraph(model)
    with without_torch_notices():
        write_onnx(trace(graph, SCHEMA, packed=True), tmp_path, write_weights(graph, tmp_path))
    check(load_onnx(tmp_path), model)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler: no graph.pt2")
@pytest.mark.parametrize("form", ["dense", "low rank int8"])
@pytest.mark.parametrize("sequence", list(POOLINGS))
def test_pt2_is_the_model(sequence: str, form: str, tmp_path: Path) -> None:
    model = subject(sequence, form)
    graph = ScoringGraph(model)
    with without_torch_notices():
        write_weights(graph, tmp_path)
        write_pt2(trace(graph, SCHEMA, packed=False), tmp_path)
    check(load_pt2(tmp_path), model)

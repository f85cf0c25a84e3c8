"""Piecewise numbers on their way through a model: narrowed to an embedding's width, one field in one gate."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from recsys.data.preparation.prepare import prepare
from recsys.embeddings.per_field import per_field
from recsys.export import bundle as export
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.frame.layers import NarrowNumbers
from recsys.models.dcn import DCN
from recsys.serving.bundle import Bundle
from tests.conftest import CONFIG


def test_narrowed_fields_are_linear_and_the_others_stay() -> None:
    layer, x_BW = NarrowNumbers([2, 1, 3, 5], [2, 3], 2), torch.randn(7, 11)
    with torch.no_grad():
        y_BV, w, v = layer(x_BW).numpy(), layer.linear["2"], layer.linear["3"]
        x = x_BW.numpy()
        assert layer.widths == [2, 1, 2, 2]
        np.testing.assert_array_equal(y_BV[:, :3], x[:, :3])
        for b in range(7):
            np.testing.assert_allclose(y_BV[b, 3:5], w.weight.numpy() @ x[b, 3:6] + w.bias.numpy(), rtol=1e-4)
            np.testing.assert_allclose(y_BV[b, 5:], v.weight.numpy() @ x[b, 6:] + v.bias.numpy(), rtol=1e-4)


@pytest.mark.parametrize(("dim", "narrowed"), [(4, True), (12, False)])
def test_a_number_becomes_no_wider_than_an_embedding(schema: Schema, dim: int, narrowed: bool) -> None:
    """Gates act on all columns of a number, and the interaction reads as many as an embedding has."""
    fields = tuple(replace(f, max_length=9) if f.name == "score" else f for f in schema.fields)
    schema = replace(schema, fields=fields)
    model = CTR(schema, per_field(schema, dim=dim), partial(DCN, hidden=(4,)))
    assert model.widths == [dim] * len(schema.sparse) + [1, 9]
    assert isinstance(model.interaction, torch.nn.Sequential) == narrowed
    cross = next(m for m in model.modules() if isinstance(m, DCN)).cross.layers[0]
    assert cross.in_features == dim * len(schema.sparse) + 1 + (dim if narrowed else 9)


def test_a_bundle_reads_numbers_in_pieces_as_the_model_does(table, tmp_path, monkeypatch) -> None:
    """Export replays raw rows through ONNX and the stored encoders; a missing number is told from any other."""
    monkeypatch.setattr(export, "compiler", lambda: None)
    config = {**CONFIG, "fields": {"item": {}, "score": {"kind": "numeric", "encoding": "piecewise"}}}
    folder = prepare(config, lambda: table, tmp_path)
    schema = Schema.load(folder / "schema.json")
    assert [f.max_length for f in schema.numeric] == [17]
    model = CTR(schema, per_field(schema, dim=4, init=0.5), partial(DCN, hidden=(4,)))
    export.export_bundle(model, folder, tmp_path / "bundle", calibrator=None, card={}, golden="rows")
    bundle = Bundle.load(tmp_path / "bundle")
    low, high, absent = bundle.logits([{"item": 7, "score": s} for s in (-1.0, 9.0, None)])
    assert len({low, high, absent}) == 3

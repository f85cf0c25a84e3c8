"""Small models and their bundles, made once a session: a .pt2 takes the compiler half a minute."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from recsys.compression.rounding import rounded
from recsys.embeddings.hashed import hashed
from recsys.embeddings.per_field import per_field
from recsys.embeddings.unified import unified
from recsys.export import bundle as export
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.models.dcn import DCN
from recsys.tables.forms import Table, id_map
from recsys.tables.lookup import Lookup
from recsys.tables.plain import PlainEmbedding

SCHEMES: dict[str, Callable[..., Any]] = {
    "per_field": partial(per_field, dim=8, init=0.5),
    "hashed": partial(hashed, dim=8, rows=16, init=0.5),
    "unified": partial(unified, dim=4, rows=64, num_tables=2, chunks=2, init=0.5),
}
CALIBRATOR = {"x": [0.0, 0.3, 0.6, 1.0], "y": [0.01, 0.2, 0.7, 0.9]}


def model(schema: Schema, scheme: str) -> CTR:
    """A small DCN with weights large enough for differences to show."""
    torch.manual_seed(7)
    return CTR(schema, SCHEMES[scheme](schema), partial(DCN, hidden=(16,), dropout=0.3), embedding_dropout=0.3)


LARGE = 2_000_000  # rows of the salted table: large enough for weights to outweigh all else in a bundle


def every_form(schema: Schema) -> CTR:
    """Tables of 32, 16, 8 and 4 bits, dense and low-rank, with a shared row and without, under a salt and lists too."""
    torch.manual_seed(7)
    tables, lookups = {}, []
    for i, f in enumerate(schema.sparse):
        rows = LARGE if f.name == "item" else f.cardinality
        rank = 3 if i % 2 else 8
        table = Table(torch.randn(rows, rank), basis=torch.randn(rank, 8) if i % 2 else None)
        if i % 3 != 1:
            kept_V = torch.rand(rows) < 0.6
            codes = torch.cat([torch.randn(1, rank), table.codes[kept_V]])
            table = replace(table, codes=codes, words=id_map(kept_V), ids=rows)
        tables[f.name] = rounded(table, (4, 8, 16, 32)[i % 4], torch.ones(len(table.codes)))
        lookups.append(Lookup(f.name, f.name, "salt" if f.name == "item" else None))
    return CTR(schema, PlainEmbedding(schema, tables, lookups), partial(DCN, hidden=(16,)))


@pytest.fixture(scope="session")
def subject(schema: Schema) -> CTR:
    """The model that `bundle` holds."""
    return every_form(schema)


@pytest.fixture(scope="session")
def bundle(subject: CTR, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle with both graphs (ONNX alone where there is no C++ compiler), one for all test processes."""
    shared = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    place = tmp_path_factory.getbasetemp().parent / shared if shared else tmp_path_factory.mktemp("bundles")
    out = place / "both"
    with FileLock(f"{place}.lock"):
        if not out.exists():
            card = {"name": "small", "metrics": {"auc": 0.7, "gauc": float("nan")}}
            export.export_bundle(subject, prepared, out, calibrator=CALIBRATOR, card=card, golden="rows")
    return out


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export as a machine without a C++ compiler does: fast, ONNX alone."""
    monkeypatch.setattr(export, "compiler", lambda: None)

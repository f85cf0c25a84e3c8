"""Every option of conf/compression and conf/quantization, found by itself."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from recsys.factory import make
from recsys.tables import Table

CONF = Path(__file__).parents[2] / "conf"


def tables() -> dict[str, Table]:
    r = torch.Generator().manual_seed(0)
    return {"a": Table(torch.randn(400, 8, generator=r)), "b.c": Table(torch.randn(90, 8, generator=r))}


def load(path: Path):
    return make(OmegaConf.to_container(OmegaConf.load(path), resolve=True), path.stem)


@pytest.mark.parametrize("path", sorted((CONF / "compression").glob("*.yaml")), ids=lambda p: p.stem)
def test_compression_gives_smaller_tables_of_the_same_shape_and_a_true_report(path):
    before = tables()
    fisher = {n: torch.rand(t.rows) + 0.1 for n, t in before.items()}
    after, reports = load(path)(before, fisher)
    check(before, after, reports)
    torch.testing.assert_close(before["a"].codes, tables()["a"].codes)  # the input is left alone


@pytest.mark.parametrize("path", sorted((CONF / "quantization").glob("*.yaml")), ids=lambda p: p.stem)
def test_quantization_gives_smaller_tables_of_the_same_shape_and_a_true_report(path):
    before = tables()
    check(before, *load(path)(before))


def check(before, after, reports):
    assert list(after) == list(before) == [r.table for r in reports]
    for report in reports:
        old, new = before[report.table], after[report.table]
        assert (new.rows, new.dim) == (old.rows, old.dim)
        assert report.bytes_before == old.nbytes > report.bytes_after == new.nbytes
        error = (old.dense() - new.dense()).norm() / old.dense().norm()
        assert report.error == pytest.approx(float(error), abs=1e-6)
        assert 0 < report.error < 1

"""Every option of conf/compression and conf/quantization, found by itself."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from recsys.compression.report import compare
from recsys.config.factory import make
from recsys.tables.forms import Table

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted([*(CONF / "compression").glob("*.yaml"), *(CONF / "quantization").glob("*.yaml")])


def tables() -> dict[str, Table]:
    r = torch.Generator().manual_seed(0)
    return {"a": Table(torch.randn(400, 8, generator=r)), "b.c": Table(torch.randn(90, 8, generator=r))}


def counts(rows: int) -> torch.Tensor:
    return torch.arange(rows) % 5  # a fifth of the rows is never read, a fifth once


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.stem)
def test_it_gives_smaller_tables_of_the_same_shape_and_a_true_report(path):
    before = tables()
    reads = {n: counts(t.rows) for n, t in before.items()}
    fisher = {n: torch.rand(t.rows) + 0.1 for n, t in before.items()}
    settings = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    after, notes = make(settings, path.stem)(before, reads, fisher)
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
    torch.testing.assert_close(before["a"].codes, tables()["a"].codes)  # the input is left alone

"""Product quantisation against brute force, and through the user's door."""

import json

import numpy as np
import pytest
import torch

from recsys.compression import pq as pq_module
from recsys.compression.pq import Codebook, pq
from recsys.compression.report import relative_error
from recsys.compression.rounding import rounding
from recsys.errors import ConfigError
from recsys.results import read_result
from recsys.serving.bundle import Bundle
from recsys.tables.forms import Table
from tests.pipeline.small import SMALL, recsys


def table(rows: int = 300, dim: int = 8) -> Table:
    return Table(torch.randn(rows, dim, generator=torch.Generator().manual_seed(0)))


def once(rows: int) -> dict[str, torch.Tensor]:
    return {"t": torch.ones(rows)}


def quantised(w: Table, reads: torch.Tensor | None = None, **settings) -> Codebook:
    made, notes = pq({"t": w}, once(w.rows) if reads is None else {"t": reads}, {}, **settings)
    assert not notes
    return made["t"]


def test_each_part_of_a_row_is_its_nearest_centroid():
    w = table()
    codebook = quantised(w, parts=2, centroids=16)
    dense = codebook.dense()
    for v in range(w.rows):
        for p in range(2):
            piece = w.codes[v, 4 * p : 4 * p + 4]
            distances = [float((piece - c).norm()) for c in codebook.centroids[p]]
            assert distances[codebook.codes[v, p]] == pytest.approx(min(distances), abs=1e-6)
            assert torch.equal(dense[v, 4 * p : 4 * p + 4], codebook.centroids[p, codebook.codes[v, p].long()])
    assert codebook.nbytes == 300 * 2 + 4 * 16 * 8


def test_centroids_are_the_weighted_means_of_their_rows():
    w, reads = table(), torch.arange(300) % 7
    codebook = quantised(w, reads, parts=4, centroids=8)
    for p in range(4):
        for k in range(8):
            mine = codebook.codes[:, p] == k
            weight = reads[mine].double() + 0.01
            mean = (weight[:, None] * w.codes[mine, 2 * p : 2 * p + 2]).sum(0) / weight.sum()
            torch.testing.assert_close(codebook.centroids[p, k].double(), mean, atol=0.03, rtol=0)


def test_more_centroids_err_less_and_as_many_as_distinct_rows_not_at_all():
    w = table(2000)
    errors = [relative_error(w.dense(), quantised(w, centroids=k).dense()) for k in (2, 8, 32, 128, 256)]
    assert errors == sorted(errors, reverse=True)
    few = Table(torch.randn(5, 8)[torch.arange(300) % 5])
    assert relative_error(few.dense(), quantised(few, centroids=64).dense()) < 1e-6


def test_rows_that_are_read_more_err_less():
    w, heavy = table(), torch.ones(300)
    heavy[:20] = 1000
    lost = [(w.dense() - quantised(w, reads, centroids=4).dense())[:20].norm() for reads in (torch.ones(300), heavy)]
    assert lost[1] < lost[0]


def test_of_a_large_table_the_rows_that_are_read_most_are_seen_and_a_draw_stands_for_the_rest(monkeypatch):
    """Hot rows are large and few: an even draw of a thirtieth of all rows misses them."""
    monkeypatch.setattr(pq_module, "_SAMPLE", 100)
    reads = (3000 / torch.arange(1, 3001)).long()
    w = Table(torch.randn(3000, 8, generator=torch.Generator().manual_seed(0)) * (0.02 + 0.3 * reads[:, None] ** 0.5))
    sampled = relative_error(w.dense(), quantised(w, reads, parts=2, centroids=32).dense(), reads)
    monkeypatch.undo()
    assert sampled < 1.3 * relative_error(w.dense(), quantised(w, reads, parts=2, centroids=32).dense(), reads)
    monkeypatch.setattr(pq_module, "_SAMPLE", 100)
    weight_V = np.where(np.arange(3000) == 7, 500.0, 1.0)
    seen, weight = pq_module._sample(weight_V, 0)
    assert 7 in seen and len(set(seen)) == 100 and weight.sum() == pytest.approx(weight_V.sum())
    assert weight[seen == 7] == 500, "a row that is seen for itself stands for itself"


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"divisor of the width 8 of table 't', got 3: set compression.parts=2"):
        pq({"t": table()}, once(300), {}, parts=3)
    tiny, notes = pq({"t": table(7)}, once(7), {})
    assert isinstance(tiny["t"], Table) and "7 rows are too few" in notes["t"]
    with pytest.raises(ConfigError, match="got 't', which is a Codebook: leave the group out, ~quantization"):
        rounding({"t": quantised(table())}, once(300), {}, 8)


@pytest.mark.slow
def test_a_run_with_codebooks_heals_exports_and_is_served(finished, place):
    """From the command to the bundle: quantisation after it is refused in one line."""
    again = [*SMALL, f"from_run={finished.id}", "stages=[compress,evaluate,export]", "compression=pq"]
    refused = recsys(place, "run", *again, "quantization=int8")
    assert refused.returncode == 2
    assert "which is a Codebook: leave the group out, ~quantization" in refused.stderr.splitlines()[-1]
    done = recsys(place, "run", *again, "~quantization", "heal=one_epoch")
    assert done.returncode == 0, done.stderr
    stages = read_result(place / done.stdout.splitlines()[-1]).stages
    parts = json.loads((place / stages["compress"].folder / "compression.json").read_text())
    assert {p["storage"]["form"] for p in parts if p["kind"] == "table"} >= {"codebook"}
    assert stages["compress"].metrics["times_smaller"] > 2
    figures = json.loads((place / stages["evaluate"].folder / "metrics.json").read_text())
    assert figures["compress"]["logloss"] < figures["constant"]["logloss"]
    bundle = Bundle.load(place / stages["export"].bundle)
    row = {"user": "u1", "item": 3, "city": "city 1", "tags": ["a"], "noise": 4, "price": 2.0}
    assert np.isfinite(bundle.score([row])).all()

"""Low rank and eight bits against the definitions."""

import pytest
import torch

from recsys.compression.fwsvd import fisher_weights, fwsvd
from recsys.compression.int8 import int8
from recsys.compression.low_rank import break_even, factorise
from recsys.compression.svd import svd
from recsys.errors import ConfigError
from recsys.tables import Table


def table(rows: int = 60, dim: int = 8, seed: int = 0) -> torch.Tensor:
    r = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=r, dtype=torch.float64)
    return torch.randn(rows, dim, generator=r, dtype=torch.float64) @ mixing


def by_svd(w: torch.Tensor, rank: int, weight: torch.Tensor | None = None) -> torch.Tensor:
    """A·B of the paper: Î⁻¹ U_r S_r V_rᵀ."""
    i = torch.ones(len(w), dtype=w.dtype) if weight is None else weight
    u, s, v = torch.linalg.svd(i[:, None] * w, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] / i[:, None]


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_factors_are_the_truncated_svd(rank):
    w = table()
    a, b = factorise(w, rank)
    torch.testing.assert_close((a @ b).double(), by_svd(w, rank), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(b @ b.T, torch.eye(rank), atol=1e-5, rtol=0)


def test_fisher_weighted_factors_are_the_papers():
    w, weight = table(), torch.rand(60, dtype=torch.float64) + 0.01
    a, b = factorise(w, 3, weight)
    torch.testing.assert_close((a @ b).double(), by_svd(w, 3, weight), atol=2e-5, rtol=1e-5)


def test_uniform_fisher_gives_plain_svd():
    w = Table(table().float())
    plain, _ = svd({"t": w}, {}, rank=3)
    weighted, _ = fwsvd({"t": w}, {"t": torch.full((60,), 0.37)}, rank=3)
    torch.testing.assert_close(plain["t"].dense(), weighted["t"].dense(), atol=1e-5, rtol=1e-5)


def test_fwsvd_weighs_rows_by_the_root_of_their_own_tables_fisher_information():
    """Against the paper's Î = diag(√F) and LAPACK; F reaches over four decades, so that a missing root shows."""
    tables = {n: Table(table(seed=i).float()) for i, n in enumerate("ab")}
    r = torch.Generator().manual_seed(5)
    fisher = {n: 10 ** (4 * torch.rand(60, generator=r, dtype=torch.float64)) for n in "ba"}
    made, _ = fwsvd(tables, fisher, rank=3)
    for name, w in tables.items():
        want = by_svd(w.dense().double(), 3, fisher[name].sqrt())
        torch.testing.assert_close(made[name].dense().double(), want, atol=2e-3, rtol=1e-3)
        wrong = by_svd(w.dense().double(), 3, fisher[name])
        assert (wrong - want).abs().max() > 0.1, "the test needs weights that show"


@pytest.mark.parametrize("seed", range(5))
def test_weighting_trades_plain_error_for_weighted_error(seed):
    w = Table(table(seed=seed).float())
    fisher = torch.rand(60, generator=torch.Generator().manual_seed(seed)) ** 4
    plain, weighted = svd({"t": w}, {}, 3)[0]["t"], fwsvd({"t": w}, {"t": fisher}, 3)[0]["t"]
    error_plain, error_weighted = w.dense() - plain.dense(), w.dense() - weighted.dense()
    i = fisher_weights(fisher)[:, None]
    assert (i * error_weighted).norm() < (i * error_plain).norm()
    assert error_weighted.norm() > error_plain.norm()


def test_a_row_without_gradient_still_counts():
    assert (fisher_weights(torch.tensor([0.0, 1.0, 3.0])) > 0).all()


def test_a_rank_past_break_even_is_refused_and_the_limit_named():
    assert break_even(100, 16) == pytest.approx(100 * 16 / 116)
    with pytest.raises(ConfigError, match=r"past break-even.*below 13\.79"):
        svd({"t": Table(torch.randn(100, 16))}, {}, rank=16)
    tables = {"big": Table(torch.randn(1000, 16)), "small": Table(torch.randn(4, 16))}
    with pytest.raises(ConfigError, match=r"'small' \(4x16\).*below 3\.20"):
        svd(tables, {}, rank=8, ranks={"small": 4})
    with pytest.raises(ConfigError, match="no table"):
        svd(tables, {}, rank=8, ranks={"absent": 4})
    with pytest.raises(ConfigError, match="at least 1"):
        svd(tables, {}, rank=0)


def test_a_table_too_small_to_gain_is_kept_whole_and_says_so():
    tables = {"big": Table(torch.randn(1000, 16)), "small": Table(torch.randn(4, 16))}
    made, reports = svd(tables, {}, rank=8)
    torch.testing.assert_close(made["small"].dense(), tables["small"].dense())
    assert "kept whole" in next(r.note for r in reports if r.table == "small")
    assert made["big"].nbytes == 4 * (1000 * 8 + 8 * 16) < tables["big"].nbytes


def test_fwsvd_without_the_optimisers_state_is_refused():
    with pytest.raises(ConfigError, match="fwsvd needs the optimiser's state of"):
        fwsvd({"t": Table(torch.randn(50, 8))}, {}, rank=2)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_eight_bit_rows_err_by_at_most_half_a_step(scale):
    w = scale * torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    made, (report,) = int8({"t": Table(w)})
    step = (w.amax(1) - w.amin(1)) / 255
    half = torch.finfo(torch.float16)
    rounding = w.abs().amax(1) * half.eps * 2 + half.smallest_normal / 1024 * 255
    assert ((made["t"].dense() - w).abs().amax(1) <= step / 2 + rounding).all()
    assert made["t"].nbytes == report.bytes_after == 200 * (12 + 4)


def test_a_constant_row_survives_eight_bits():
    made, _ = int8({"t": Table(torch.full((3, 4), 0.5))})
    torch.testing.assert_close(made["t"].dense(), torch.full((3, 4), 0.5))


def test_eight_bits_of_a_low_rank_table_quantise_its_rows_only():
    w = Table(table(500, 16).float())
    low, _ = svd({"t": w}, {}, rank=8)
    both, (report,) = int8(low)
    assert both["t"].nbytes == 500 * (8 + 4) + 8 * 16 * 4
    assert report.error < 0.02

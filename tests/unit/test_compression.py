"""Low rank, fewer bits and shared rows against the definitions."""

import pytest
import torch

from pipelines import compress
from pipelines.stage import Stage
from recsys.compression.fewest_bits import fewest_bits
from recsys.compression.fwsvd import fisher_weights, fwsvd
from recsys.compression.low_rank import break_even, factorise
from recsys.compression.report import relative_error
from recsys.compression.rounding import held_reads, rounding
from recsys.compression.share import share
from recsys.compression.svd import svd
from recsys.errors import ConfigError
from recsys.results import write_prepared
from recsys.tables.forms import Table, held_rows, id_map, pack, places, unpack
from recsys.training import checkpoint
from tests.configs import run_config


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
    plain, _ = svd({"t": w}, {}, {}, rank=3)
    weighted, _ = fwsvd({"t": w}, {}, {"t": torch.full((60,), 0.37)}, rank=3)
    torch.testing.assert_close(plain["t"].dense(), weighted["t"].dense(), atol=1e-5, rtol=1e-5)


def test_fwsvd_weighs_rows_by_the_root_of_their_own_tables_fisher_information():
    """Against the paper's Î = diag(√F) and LAPACK; F reaches over four decades, so that a missing root shows."""
    tables = {n: Table(table(seed=i).float()) for i, n in enumerate("ab")}
    r = torch.Generator().manual_seed(5)
    fisher = {n: 10 ** (4 * torch.rand(60, generator=r, dtype=torch.float64)) for n in "ba"}
    made, _ = fwsvd(tables, {}, fisher, rank=3)
    for name, w in tables.items():
        want = by_svd(w.dense().double(), 3, fisher[name].sqrt())
        torch.testing.assert_close(made[name].dense().double(), want, atol=2e-3, rtol=1e-3)
        wrong = by_svd(w.dense().double(), 3, fisher[name])
        assert (wrong - want).abs().max() > 0.1, "the test needs weights that show"


@pytest.mark.parametrize("seed", range(5))
def test_weighting_trades_plain_error_for_weighted_error(seed):
    w = Table(table(seed=seed).float())
    fisher = torch.rand(60, generator=torch.Generator().manual_seed(seed)) ** 4
    plain, weighted = svd({"t": w}, {}, {}, 3)[0]["t"], fwsvd({"t": w}, {}, {"t": fisher}, 3)[0]["t"]
    error_plain, error_weighted = w.dense() - plain.dense(), w.dense() - weighted.dense()
    i = fisher_weights(fisher)[:, None]
    assert (i * error_weighted).norm() < (i * error_plain).norm()
    assert error_weighted.norm() > error_plain.norm()


def test_a_row_without_gradient_still_counts():
    assert (fisher_weights(torch.tensor([0.0, 1.0, 3.0])) > 0).all()


def test_a_rank_past_break_even_is_refused_and_the_limit_named():
    assert break_even(100, 16) == pytest.approx(100 * 16 / 116)
    with pytest.raises(ConfigError, match=r"past break-even.*below 13\.79"):
        svd({"t": Table(torch.randn(100, 16))}, {}, {}, rank=16)
    tables = {"big": Table(torch.randn(1000, 16)), "small": Table(torch.randn(4, 16))}
    with pytest.raises(ConfigError, match=r"'small' \(4x16\).*below 3\.20"):
        svd(tables, {}, {}, rank=8, ranks={"small": 4})
    with pytest.raises(ConfigError, match="no table"):
        svd(tables, {}, {}, rank=8, ranks={"absent": 4})
    with pytest.raises(ConfigError, match="at least 1"):
        svd(tables, {}, {}, rank=0)


def test_a_table_too_small_to_gain_is_kept_whole_and_says_so():
    tables = {"big": Table(torch.randn(1000, 16)), "small": Table(torch.randn(4, 16))}
    made, notes = svd(tables, {}, {}, rank=8)
    torch.testing.assert_close(made["small"].dense(), tables["small"].dense())
    assert "kept whole" in notes["small"]
    assert made["big"].nbytes == 4 * (1000 * 8 + 8 * 16) < tables["big"].nbytes


def test_fwsvd_without_the_optimisers_state_is_refused():
    with pytest.raises(ConfigError, match="fwsvd needs the squared gradients of \\['t'\\]"):
        fwsvd({"t": Table(torch.randn(50, 8))}, {}, {}, rank=2)


def once(rows: int) -> dict[str, torch.Tensor]:
    return {"t": torch.ones(rows, dtype=torch.long)}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_rows_err_by_at_most_half_a_step_unless_clipped(scale, bits):
    w = scale * torch.randn(200, 11, generator=torch.Generator().manual_seed(0))
    made, _ = rounding({"t": Table(w)}, once(200), {}, bits)
    t = made["t"]
    reach = t.scale * (2**bits - 1) / 2
    inside = w.abs() <= reach
    assert (reach >= w.abs().amax(0) / 2 * (1 - 1e-6)).all()  # never clipped below half
    assert ((t.dense() - w).abs() <= t.scale * (0.5 + 1e-4))[inside].all()
    torch.testing.assert_close(t.dense()[~inside], (reach * w.sign())[~inside])
    assert t.bits == bits
    assert t.nbytes == 200 * -(-11 * bits // 8) + 2 * 11 * 4


def test_sixteen_bits_are_half_precision():
    w = torch.randn(50, 8)
    made, _ = rounding({"t": Table(w)}, once(50), {}, 16)
    assert torch.equal(made["t"].dense(), w.half().float())
    assert made["t"].nbytes == 50 * 8 * 2


def test_frequent_rows_decide_what_is_clipped():
    w = torch.full((100, 2), 0.55)
    w[0] = 1.0
    rare, _ = rounding({"t": Table(w)}, {"t": torch.tensor([1] + [100] * 99)}, {}, 4)
    frequent, _ = rounding({"t": Table(w)}, {"t": torch.tensor([10**6] + [1] * 99)}, {}, 4)
    error_rare, error_frequent = ((t["t"].dense() - w).abs()[:, 0] for t in (rare, frequent))
    assert error_frequent[0] < error_rare[0]
    assert error_frequent[1] > error_rare[1]


@pytest.mark.parametrize("bits", [32, 2, 0])
def test_other_bits_are_refused(bits):
    with pytest.raises(ConfigError, match="expected 16, 8 or 4"):
        rounding({"t": Table(torch.randn(3, 4))}, once(3), {}, bits)


def test_bits_of_a_low_rank_table_round_its_rows_only():
    w = Table(table(500, 16).float())
    low, _ = svd({"t": w}, once(500), {}, rank=8)
    both, _ = rounding(low, once(500), {}, 8)
    assert both["t"].nbytes == 500 * 8 + 2 * 8 * 4 + 8 * 16 * 4
    assert relative_error(low["t"].dense(), both["t"].dense()) < 0.02
    again, notes = rounding(both, once(500), {}, 4)
    assert again["t"] is both["t"]
    assert "8 bits a number already" in notes["t"]


@pytest.mark.parametrize("width", [2, 3, 8, 11])
def test_packed_codes_are_two_a_byte(width):
    codes = torch.randint(0, 16, (40, width), dtype=torch.uint8)
    packed = pack(codes)
    assert packed.shape == (40, -(-width // 2))
    assert torch.equal(unpack(packed, width), codes.float())


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 1000])
@pytest.mark.parametrize("share_kept", [0.0, 0.3, 1.0])
def test_the_map_counts_the_kept_rows_before_an_id(rows, share_kept):
    kept_V = torch.rand(rows, generator=torch.Generator().manual_seed(rows)) < share_kept
    want, seen = [], 0
    for kept in kept_V.tolist():
        seen += kept
        want.append(seen if kept else 0)
    words = id_map(kept_V)
    assert held_rows(words, places())[:rows].tolist() == want
    assert words.numel() * words.element_size() == 4 * -(-rows // 8)


def test_a_map_of_many_rows_counts_past_24_bits():
    kept_V = torch.ones(2**23 + 9, dtype=torch.bool)
    words = id_map(kept_V)
    assert words.dtype == torch.int64
    assert held_rows(words, places())[[0, 2**23 + 8]].tolist() == [1, 2**23 + 9]


def test_rows_hardly_read_share_the_mean_of_those_that_were_trained():
    w, reads = torch.randn(200, 8), torch.arange(200) % 4
    made, notes = share({"t": Table(w)}, {"t": reads}, {}, min_reads=2)
    got = made["t"].dense()
    assert torch.equal(got[reads >= 2], w[reads >= 2])
    torch.testing.assert_close(got[reads < 2], w[reads == 1].mean(0).expand(100, 8))
    assert made["t"].nbytes == 4 * 25 + 4 * 8 * (1 + 100)
    made, _ = share({"t": Table(w)}, {"t": reads}, {}, min_reads=1)
    torch.testing.assert_close(made["t"].dense()[reads == 0], w[reads > 0].mean(0).expand(50, 8))
    assert not notes


def test_a_table_whose_map_would_not_pay_stays_whole_and_says_so():
    w, reads = Table(torch.randn(800, 8)), torch.ones(800)
    reads[:50] = 0
    made, notes = share({"t": w}, {"t": reads}, {}, min_reads=1)
    assert made["t"] is w
    assert "kept whole: 50 rows" in notes["t"]
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        share({"t": w}, {"t": reads}, {}, min_reads=0)


def test_each_table_takes_the_fewest_bits_that_are_close_enough():
    even, heavy = torch.rand(300, 8) - 0.5, torch.randn(300, 8) ** 5
    reads = {"even": torch.ones(300), "heavy": torch.ones(300)}
    for error in (0.3, 0.05, 0.001, 1e-6):
        made, _ = fewest_bits({"even": Table(even), "heavy": Table(heavy)}, reads, {}, error)
        for name, w in (("even", even), ("heavy", heavy)):
            assert relative_error(w, made[name].dense()) <= error
            if made[name].bits > 4:
                fewer, _ = rounding({"t": Table(w)}, once(300), {}, made[name].bits // 2)
                assert relative_error(w, fewer["t"].dense()) > error
    made, _ = fewest_bits({"even": Table(even)}, reads, {}, 0.3)
    assert made["even"].bits == 4
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        fewest_bits({"even": Table(even)}, reads, {}, 0.0)


def test_the_error_that_bits_may_make_is_of_rows_as_they_are_read():
    """Small rows that are read, in four bits of a step that cuts large ones that nobody reads."""
    w, reads = torch.rand(300, 8) - 0.5, (torch.arange(300) >= 150).long()
    w[:150] *= 5
    made, _ = fewest_bits({"t": Table(w)}, {"t": reads}, {}, 0.25)
    got = made["t"].dense()
    assert made["t"].bits == 4 and relative_error(w[150:], got[150:]) <= 0.25 < relative_error(w, got)


def test_reads_of_a_shared_row_are_those_of_all_ids_that_read_it():
    """The weight of each held row's rounding error, against a loop over ids."""
    kept_V = torch.tensor([True, False, True, True, False, False, True, False, False, True])
    reads_V = torch.tensor([5, 1, 7, 2, 0, 1, 9, 0, 3, 4])
    table = Table(torch.randn(1 + int(kept_V.sum()), 4), words=id_map(kept_V), ids=len(kept_V))
    want, held = [0.0] * len(table.codes), 0
    for kept, reads in zip(kept_V.tolist(), reads_V.tolist(), strict=True):
        held += kept
        want[held if kept else 0] += reads
    assert held_reads(table, reads_V).tolist() == want


def test_reads_before_the_tables_were_last_drawn_do_not_count(prepared, schema, tmp_path, monkeypatch):
    """An untrained model: training rows read its rows, yet no step has moved one."""
    spec = {"model": {"_target_": "recsys.models.fm.FM"}, "embedding_dropout": 0.0,
            "embedding": {"_target_": "recsys.embeddings.per_field.per_field"}}  # fmt: skip
    for name in ("prepare", "train", "compress"):
        (tmp_path / name).mkdir()
    write_prepared(tmp_path / "prepare", prepared)
    model, seen = checkpoint.build(schema, spec), []
    for state in model.embedding.optimizer_state().values():
        assert not state.any()
    checkpoint.save(tmp_path / "train", model, spec)
    monkeypatch.setattr(
        compress, "make", lambda *_: lambda tables, reads, fisher: (seen.append(reads), (tables, {}))[1]
    )
    done = {n: tmp_path / n for n in ("prepare", "train")}
    config = run_config(compression={"x": 1}, quantization=None, heal=None)
    compress.run(Stage(config, tmp_path / "compress", done))
    assert seen[0] and not any(r.any() for r in seen[0].values())

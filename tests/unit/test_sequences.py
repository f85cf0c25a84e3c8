import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from recsys.errors import ConfigError
from recsys.sequences.din import DIN
from recsys.sequences.mean import Mean
from recsys.sequences.sdim import SDIM


def drawn(rows: int = 12, length: int = 9, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Candidates, behaviours (near the candidate, far and opposite) and which of them are there: none, some, all."""
    query_BD = torch.randn(rows, dim, dtype=torch.float64)
    near_BL1 = torch.linspace(-1.5, 1.5, length, dtype=torch.float64)[None, :, None]
    keys_BLD = near_BL1 * query_BD[:, None] + torch.randn(rows, length, dim, dtype=torch.float64)
    there_BL = torch.arange(length)[None] < torch.randint(0, length + 1, (rows, 1))
    there_BL[0], there_BL[1] = False, True
    return query_BD, keys_BLD, there_BL


def test_mean_is_the_mean_of_those_there():
    _, keys_BLD, there_BL = drawn()
    pooled_BD = Mean(8)(None, keys_BLD, there_BL)
    assert pooled_BD[0].eq(0).all()
    for b in range(1, 12):
        if there_BL[b].any():
            torch.testing.assert_close(pooled_BD[b], keys_BLD[b][there_BL[b]].mean(0))


@pytest.mark.parametrize("hidden", [[36], [5], [12, 7]])
def test_din_is_the_papers_sum_row_by_row(hidden):
    query_BD, keys_BLD, there_BL = drawn()
    din = DIN(8, hidden).double()
    linear = [m for m in din.modules() if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linear] == [32, *hidden] and linear[-1].out_features == 1
    assert all(a.out_features == b.in_features for a, b in pairwise(linear))
    pooled_BD = din(query_BD, keys_BLD, there_BL)
    for b in range(12):
        want = torch.zeros(8, dtype=torch.float64)
        for k in keys_BLD[b][there_BL[b]]:
            q = query_BD[b]
            x = torch.cat([q, k, q - k, q * k])
            for layer in linear[:-1]:
                x = (layer.weight @ x + layer.bias).clamp(min=0)
            want += (linear[-1].weight @ x + linear[-1].bias) * k
        torch.testing.assert_close(pooled_BD[b], want, rtol=1e-12, atol=1e-12)


def test_din_has_no_softmax_twice_the_history_is_twice_the_interest():
    query_BD, keys_BLD, there_BL = drawn()
    din = DIN(8).double()
    twice = din(query_BD, keys_BLD.repeat(1, 2, 1), there_BL.repeat(1, 2))
    torch.testing.assert_close(twice, 2 * din(query_BD, keys_BLD, there_BL))


def slow_signature(sdim: SDIM, x: torch.Tensor, g: int) -> tuple[bool, ...]:
    """The signs of one group's projections."""
    return tuple(float(x.double() @ sdim.projection_DM[:, g * sdim.bits + j]) > 0 for j in range(sdim.bits))


@pytest.mark.parametrize(("hashes", "bits"), [(48, 3), (6, 1), (10, 5)])
def test_sdim_is_the_papers_mean_over_signatures(hashes, bits):
    query_BD, keys_BLD, there_BL = drawn()
    sdim = SDIM(8, hashes, bits).double()
    pooled_BD = sdim(query_BD, keys_BLD, there_BL)
    met = 0
    for b in range(12):
        want = torch.zeros(8, dtype=torch.float64)
        for g in range(hashes // bits):
            mine = slow_signature(sdim, query_BD[b], g)
            total = torch.zeros(8, dtype=torch.float64)
            for k in keys_BLD[b][there_BL[b]]:
                if slow_signature(sdim, k, g) == mine:
                    total += k
                    met += 1
            if total.any():
                want += total / total.norm()
        torch.testing.assert_close(pooled_BD[b], want / (hashes // bits), rtol=1e-12, atol=1e-12)
    assert 0 < met < int(there_BL.sum()) * hashes // bits


@pytest.mark.parametrize("bits", [1, 3, 5])
@pytest.mark.parametrize("degrees", [10, 60, 120])
def test_two_vectors_share_a_signature_as_often_as_their_angle_says(bits, degrees):
    theta, groups = math.radians(degrees), 20_000
    sdim = SDIM(4, groups * bits, bits)
    x, y = torch.tensor([1.0, 0, 0, 0]), torch.tensor([math.cos(theta), math.sin(theta), 0, 0])
    share = float((sdim.signatures(x) == sdim.signatures(y)).double().mean())
    p = (1 - theta / math.pi) ** bits
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / groups)


def test_interest_approaches_attention_by_angle_as_hashes_grow():
    """For one behaviour the expectation is (1 − θ/π)^T·k/‖k‖, exactly; its error falls as 1/√G."""
    query_BD, keys_BLD, _ = drawn(rows=300, length=1)
    there_BL = torch.ones(300, 1, dtype=torch.bool)
    k_BD = keys_BLD[:, 0]
    theta_B = torch.acos(nn.functional.cosine_similarity(query_BD, k_BD))
    want_BD = (1 - theta_B / math.pi).pow(3)[:, None] * nn.functional.normalize(k_BD, dim=1)
    errors = []
    for hashes in (48, 48 * 16, 48 * 256):
        got_BD = SDIM(8, hashes, 3).double()(query_BD, keys_BLD, there_BL)
        errors.append(float((got_BD - want_BD).norm(dim=1).pow(2).mean().sqrt()))
    for few, many in pairwise(errors):
        assert 2.5 < few / many < 6, f"16 times the hashes must leave about a quarter of the error: {errors}"


def test_long_interest_points_where_attention_by_angle_does():
    """Over many behaviours the normalised buckets still point along Σ_l (1 − θ_l/π)^T·k_l."""
    query_BD, keys_BLD, _ = drawn(rows=60, length=50)
    there_BL = torch.ones(60, 50, dtype=torch.bool)
    theta_BL = torch.acos(nn.functional.cosine_similarity(query_BD[:, None], keys_BLD, dim=2))
    attention_BD = ((1 - theta_BL / math.pi).pow(3)[..., None] * keys_BLD).sum(1)
    found = [
        float(nn.functional.cosine_similarity(SDIM(8, m).double()(query_BD, keys_BLD, there_BL), attention_BD).mean())
        for m in (3, 48, 3072)
    ]
    assert found[0] < found[1] < found[2] and found[2] > 0.97, found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_table_of_a_user_answers_every_candidate_as_the_one_step_form(dtype):
    _, keys_BLD, there_BL = (t.to(dtype) if t.is_floating_point() else t for t in drawn())
    sdim = SDIM(8).to(dtype)
    table_BRD = sdim.encode(keys_BLD, there_BL)
    assert table_BRD.shape == (12, 16 * 8, 8)
    for b in range(12):
        query_CD = torch.cat([keys_BLD[b, :3], torch.randn(20, 8, dtype=dtype)])
        keys_CLD, there_CL = keys_BLD[b].expand(23, -1, -1), there_BL[b].expand(23, -1)
        want_CD = sdim(query_CD, keys_CLD, there_CL)
        torch.testing.assert_close(sdim.read(table_BRD[b], query_CD), want_CD)


def test_gradient_reaches_the_behaviours_there_and_only_them():
    query_BD, keys_BLD, there_BL = drawn()
    for pooling in (Mean(8).double(), DIN(8).double(), SDIM(8).double()):
        keys_BLD.grad = None
        keys_BLD.requires_grad_()
        pooling(query_BD, keys_BLD, there_BL).square().sum().backward()
        assert keys_BLD.grad.isfinite().all() and keys_BLD.grad[~there_BL].eq(0).all()
        counts_BL = there_BL
        if isinstance(pooling, SDIM):  # a behaviour that shares no signature is not part of the interest
            same_BLG = pooling.signatures(keys_BLD) == pooling.signatures(query_BD).unsqueeze(1)
            counts_BL = there_BL & same_BLG.any(2)
        assert counts_BL.any() and torch.equal(keys_BLD.grad.ne(0).any(2), counts_BL), type(pooling)


def test_gradient_of_sdim_is_that_of_its_formula_between_jumps():
    query_BD, keys_BLD, there_BL = drawn(rows=4, length=5)
    sdim = SDIM(8).double()
    assert torch.autograd.gradcheck(lambda k: sdim(query_BD, k, there_BL), keys_BLD.requires_grad_())


def test_sdim_projections_are_the_seeds_and_travel_with_the_model():
    torch.testing.assert_close(SDIM(8, seed=3).projection_DM, SDIM(8, seed=3).projection_DM, rtol=0, atol=0)
    other = SDIM(8, seed=4)
    assert not torch.equal(other.projection_DM, SDIM(8, seed=3).projection_DM)
    other.load_state_dict(SDIM(8, seed=3).state_dict())
    torch.testing.assert_close(other.projection_DM, SDIM(8, seed=3).projection_DM, rtol=0, atol=0)


@pytest.mark.parametrize(("hashes", "bits"), [(47, 3), (0, 3), (48, 0), (34, 17)])
def test_sdim_refuses_hashes_that_do_not_make_signatures(hashes, bits):
    with pytest.raises(ConfigError, match=rf"got hashes={hashes} and bits={bits}: set sequence\.hashes"):
        SDIM(8, hashes, bits)


def test_din_refuses_an_attention_without_a_hidden_layer():
    for hidden in ([], [36, 0]):
        with pytest.raises(ConfigError, match=r"sequence\.hidden: expected widths of at least 1"):
            DIN(8, hidden)

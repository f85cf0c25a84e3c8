import pytest
import torch

from recsys.frame.dropout import Dropout


def ones(rows: int = 400, width: int = 500) -> torch.Tensor:
    return torch.ones(rows, width, requires_grad=True)


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5, 0.9])
def test_a_share_p_becomes_0_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    x_BW = ones()
    y_BW = Dropout(p)(x_BW)
    zero_BW, deviation = y_BW == 0, (p * (1 - p) / y_BW.numel()) ** 0.5
    assert float(zero_BW.float().mean()) == pytest.approx(p, abs=1 / 512 + 4 * deviation)
    assert float(y_BW.detach().mean()) == pytest.approx(1, abs=4 * deviation / (1 - p))
    (kept,) = y_BW[~zero_BW].unique().tolist()
    assert kept == pytest.approx(256 / round(256 * (1 - p)), rel=1e-6)  # the share that is kept, not 1 − p
    for axis in (0, 1):  # no row or column is special
        shares = zero_BW.float().mean(axis)
        assert float((shares - p).abs().max()) < 0.15
    (grad_BW,) = torch.autograd.grad(y_BW.sum(), x_BW)
    torch.testing.assert_close(grad_BW, y_BW.detach(), rtol=0, atol=0)


def test_torchs_seed_decides_and_each_call_draws_anew() -> None:
    dropout = Dropout(0.4)
    torch.manual_seed(3)
    first, second = dropout(ones()), dropout(ones())
    state = torch.get_rng_state()
    third = dropout(ones())
    torch.manual_seed(3)
    assert torch.equal(dropout(ones()), first) and torch.equal(dropout(ones()), second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(ones()), third)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.4, 1.0])
def test_evaluation_changes_nothing_and_odd_shares_hold(p: float) -> None:
    x_BW = ones()
    assert torch.equal(Dropout(p).eval()(x_BW), x_BW)
    share = float((Dropout(p)(x_BW) == 0).float().mean())
    assert share == pytest.approx(p, abs=0.01)
    assert Dropout(p)(x_BW.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("p", [0.001, 0.4])
def test_columns_behind_those_asked_for_stay(p: float) -> None:
    x_BW = ones()
    y_BW = Dropout(p)(x_BW, 480)
    assert torch.equal(y_BW[:, 480:], x_BW[:, 480:])
    assert float((y_BW[:, :480] == 0).float().mean()) == pytest.approx(p, abs=0.01)

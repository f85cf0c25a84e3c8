import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models.fm import FM, pairwise


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**31))
def test_both_forms_agree(rows: int, fields: int, dim: int, seed: int) -> None:
    v_BFD = torch.randn(rows, fields, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pairs = sum(
        ((v_BFD[:, i] * v_BFD[:, j]).sum(1) for i in range(fields) for j in range(i)),
        start=torch.zeros(rows, dtype=torch.float64),
    )
    torch.testing.assert_close(pairwise(v_BFD), pairs, rtol=1e-12, atol=1e-12)


def test_logit_is_bias_linear_and_pairs_with_projected_numbers() -> None:
    model = FM([4, 4, 1]).double()
    with torch.no_grad():
        model.bias.fill_(0.3)
    x_BW = torch.randn(7, 9, dtype=torch.float64)
    weight = model.stack.projections["2"].weight.detach()[:, 0]
    for x, got in zip(x_BW, model(x_BW), strict=True):
        rows = [x[:4], x[4:8], x[8] * weight]
        want = 0.3 + sum(r[0] for r in rows)
        want += sum(rows[i][1:] @ rows[j][1:] for i in range(3) for j in range(i))
        assert float(got.detach()) == pytest.approx(float(want), abs=1e-12)


def test_missing_number_takes_no_part() -> None:
    """A number of 0 (the mean, or missing) leaves the logit of the other fields."""
    model, fewer = FM([4, 4, 1]), FM([4, 4])
    x_BW = torch.randn(5, 8)
    torch.testing.assert_close(model(torch.cat([x_BW, torch.zeros(5, 1)], 1)), fewer(x_BW))

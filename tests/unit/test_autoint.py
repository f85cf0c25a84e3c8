"""AutoInt against loops over rows, heads and fields."""

import pytest
import torch

from recsys.models.autoint import Attention, AutoInt


def slow(layer: Attention, x_FD: torch.Tensor, width: int) -> torch.Tensor:
    """Equations 5 to 8 of the paper for one row."""
    rows = []
    for i in range(len(x_FD)):
        heads = []
        for h in range(layer.heads):
            part = slice(h * width, (h + 1) * width)
            q, k, v = (t.weight[part] for t in (layer.query, layer.key, layer.value))
            score = [((q @ x_FD[i]) @ (k @ x_FD[j])).exp() for j in range(len(x_FD))]
            heads.append(sum(s / sum(score) * (v @ x_FD[j]) for j, s in enumerate(score)))
        rows.append((torch.cat(heads) + layer.rest.weight @ x_FD[i]).clamp(min=0))
    return torch.stack(rows)


@pytest.mark.parametrize(("layers", "hidden"), [(1, ()), (2, ()), (2, (6,)), (0, ())])
def test_logit_is_the_papers(layers: int, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = AutoInt([4, 4, 1, 2], layers, heads=2, head_width=3, hidden=hidden).double()
    x_BW = torch.randn(5, 11, dtype=torch.float64)
    x_BFD = model.stack(x_BW)
    for x, row_FD, got in zip(x_BW, x_BFD, model(x_BW)[:, 0], strict=True):
        for layer in model.layers:
            row_FD = slow(layer, row_FD, 3)
        flat = [row_FD.flatten()]
        if hidden:
            flat.append((model.deep[0].weight @ x + model.deep[0].bias).clamp(min=0))
        want = model.logit.weight[0] @ torch.cat(flat) + model.logit.bias[0]
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_its_maps_sum_to_one_and_are_those_it_uses() -> None:
    torch.manual_seed(0)
    model = AutoInt([4, 4, 4], 2, heads=2, head_width=3, hidden=())
    maps = model.attention(torch.randn(6, 12))
    assert [tuple(m.shape) for m in maps] == [(6, 2, 3, 3)] * 2
    for map_BHFF in maps:
        torch.testing.assert_close(map_BHFF.sum(3), torch.ones(6, 2, 3))
    with torch.no_grad():
        model.layers[0].query.weight.zero_()
    torch.testing.assert_close(model.attention(torch.randn(6, 12))[0], torch.full((6, 2, 3, 3), 1 / 3))

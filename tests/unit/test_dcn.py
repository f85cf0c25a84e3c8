import pytest
import torch
from torch import nn
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from recsys.errors import ConfigError
from recsys.models.cross import Cross
from recsys.models.dcn import DCN

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def crossed(width: int, layers: int, rank: int | None = None) -> Cross:
    """A cross net in float64 whose biases are not all 0."""
    net = Cross(width, layers, rank).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def x(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, dtype=torch.float64)


def test_layers_against_a_loop_over_entries() -> None:
    net, x0 = crossed(5, 3), x(4, 5)
    for row, got in zip(x0, net(x0), strict=True):
        at = row.clone()
        for layer in net.layers:
            at = torch.stack([row[i] * (layer.weight[i] @ at + layer.bias[i]) + at[i] for i in range(5)])
        torch.testing.assert_close(got, at, **TIGHT)


def test_low_rank_at_full_rank_equals_the_full_net() -> None:
    """W = U Vᵀ at r = d: any W factors so, here through its singular vectors."""
    full = crossed(6, 2)
    low = crossed(6, 2, rank=2)
    for layer, pair in zip(full.layers, low.layers, strict=True):
        u, s, vt = torch.linalg.svd(layer.weight.detach())
        pair[0] = nn.Linear(6, 6, bias=False, dtype=torch.float64)
        pair[1] = nn.Linear(6, 6, dtype=torch.float64)
        pair[0].weight.data, pair[1].weight.data, pair[1].bias.data = vt, u * s, layer.bias.data
    x0 = x(8, 6)
    torch.testing.assert_close(low(x0), full(x0), **TIGHT)


def test_low_rank_equals_the_full_net_of_the_product() -> None:
    low, full = crossed(8, 2, rank=3), crossed(8, 2)
    for pair, layer in zip(low.layers, full.layers, strict=True):
        layer.weight.data, layer.bias.data = pair[1].weight.data @ pair[0].weight.data, pair[1].bias.data
    x0 = x(8, 8)
    torch.testing.assert_close(low(x0), full(x0), **TIGHT)


def test_v1_is_v2_with_equal_rows_and_the_bias_outside_the_product() -> None:
    net, x0 = crossed(6, 3), x(8, 6)
    w, b = x(3, 6), x(3, 6)
    v1 = x0
    for l in range(3):  # noqa: E741
        v1 = x0 * (v1 @ w[l])[:, None] + b[l] + v1
    v2 = x0
    for l, layer in enumerate(net.layers):  # noqa: E741
        layer.weight.data, layer.bias.data = w[l].expand(6, 6).clone(), torch.zeros(6, dtype=torch.float64)
        v2 = x0 * layer(v2) + v2 + b[l]
    torch.testing.assert_close(v2, v1, **TIGHT)
    one = crossed(6, 1)
    one.layers[0].weight.data, one.layers[0].bias.data = w[0].expand(6, 6).clone(), torch.zeros(6, dtype=torch.float64)
    torch.testing.assert_close(one(x0) + b[0], x0 * (x0 @ w[0])[:, None] + b[0] + x0, **TIGHT)


def test_full_and_low_rank_equal_torchrecs() -> None:
    full, theirs = crossed(6, 3), CrossNet(6, 3).double()
    low, their_low = crossed(6, 3, rank=2), LowRankCrossNet(6, 3, low_rank=2).double()
    for i in range(3):
        theirs.kernels[i].data, theirs.bias[i].data = full.layers[i].weight.data, full.layers[i].bias.data[:, None]
        v, u = low.layers[i]
        their_low.V_kernels[i].data, their_low.W_kernels[i].data = v.weight.data, u.weight.data
        their_low.bias[i].data = u.bias.data
    x0 = x(9, 6)
    torch.testing.assert_close(full(x0), theirs(x0), **TIGHT)
    torch.testing.assert_close(low(x0), their_low(x0), **TIGHT)


def test_no_cross_layer_is_the_identity() -> None:
    x0 = x(3, 4)
    torch.testing.assert_close(Cross(4, 0)(x0), x0, rtol=0, atol=0)


@pytest.mark.parametrize("width", [8, 9])
def test_rank_must_pay(width: int) -> None:
    full = sum(p.numel() for p in Cross(width, 1).parameters())
    for rank in range(1, width + 2):
        low = 2 * width * rank + width
        if low < full:
            assert sum(p.numel() for p in Cross(width, 1, rank).parameters()) == low
        else:
            with pytest.raises(ConfigError, match=r"model\.rank must be below .*lower it or set"):
                Cross(width, 1, rank)
    with pytest.raises(ConfigError):
        Cross(width, 1, 0)


@pytest.mark.parametrize("structure", ["stacked", "parallel", "crossnet"])
def test_structures_wire_what_they_say(structure: str) -> None:
    model = DCN([4, 3, 1], layers=2, structure=structure, hidden=[5, 6]).double()
    x0 = x(7, 8)
    cross = model.cross(x0)
    seen = {
        "stacked": lambda: model.deep(cross),
        "parallel": lambda: torch.cat([cross, model.deep(x0)], 1),
        "crossnet": lambda: cross,
    }[structure]()
    torch.testing.assert_close(model(x0)[:, 0], (seen @ model.logit.weight.T + model.logit.bias)[:, 0], **TIGHT)
    assert model(x0[:1]).shape == (1, 1)


def test_unknown_structure_is_refused() -> None:
    with pytest.raises(ConfigError, match="stacked, parallel or crossnet, got 'both'"):
        DCN([4], structure="both")

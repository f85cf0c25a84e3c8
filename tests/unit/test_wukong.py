import pytest
import torch

from recsys.models.wukong import Wukong, WukongLayer, compressed_fm

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_optimised_fm_equals_plain_times_y() -> None:
    x_BND, y_NK = x(5, 7, 4), x(7, 3)
    torch.testing.assert_close(compressed_fm(x_BND, y_NK), (x_BND @ x_BND.transpose(1, 2)) @ y_NK, **TIGHT)


def test_identity_y_gives_plain_fm() -> None:
    x_BND = x(3, 5, 4)
    gram = torch.stack([torch.stack([torch.stack([a @ b for b in row]) for a in row]) for row in x_BND])
    torch.testing.assert_close(compressed_fm(x_BND, torch.eye(5, dtype=torch.float64)), gram, **TIGHT)


@pytest.mark.parametrize(("n_in", "n_fm", "n_linear"), [(5, 2, 3), (9, 2, 3), (3, 4, 4), (6, 1, 5)])
def test_shape_chain(n_in: int, n_fm: int, n_linear: int) -> None:
    layer = WukongLayer(n_in, 4, n_fm, n_linear, rank=3, hidden=[8], dropout=0.0).double()
    assert layer(x(2, n_in, 4)).shape == (2, n_fm + n_linear, 4)
    assert isinstance(layer.residual, torch.nn.Identity) == (n_in == n_fm + n_linear)


def test_stack_of_layers_keeps_its_shapes() -> None:
    model = Wukong([4, 8, 1, 4], dim=8, layers=3, n_fm=2, n_linear=3, rank=3, hidden=[8], head=[]).double()
    x_BND = model.stack(x(6, 17))
    shapes = [tuple(x_BND.shape)]
    for layer in model.layers:
        x_BND = layer(x_BND)
        shapes.append(tuple(x_BND.shape))
    assert shapes == [(6, 4, 8), (6, 5, 8), (6, 5, 8), (6, 5, 8)]
    assert model(x(6, 17)).shape == (6,) and model(x(1, 17)).shape == (1,)


def test_linear_compression_is_linear_over_rows_and_has_no_bias() -> None:
    layer = WukongLayer(5, 4, 2, 3, 3, [8], 0.0).double()

    def lcb(rows: torch.Tensor) -> torch.Tensor:
        return layer.over_rows(layer.linear, rows)

    a, b = x(2, 5, 4), x(2, 5, 4)
    torch.testing.assert_close(lcb(2 * a - 3 * b), 2 * lcb(a) - 3 * lcb(b), **TIGHT)
    torch.testing.assert_close(lcb(a), torch.einsum("ln,bnd->bld", layer.linear.weight, a), **TIGHT)
    assert lcb(torch.zeros_like(a)).abs().max() == 0


def norm(v: torch.Tensor) -> torch.Tensor:
    return (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("n_in", [5, 7])
def test_layer_against_the_formula(n_in: int) -> None:
    layer = WukongLayer(n_in, 4, 2, 3, 3, [8], 0.0).double()
    x_BND = x(2, n_in, 4)
    fm = norm(((x_BND @ x_BND.mT) @ layer.y_NK).reshape(2, -1))
    hidden = torch.relu(fm @ layer.fm_mlp[0].weight.T + layer.fm_mlp[0].bias)
    fmb = (hidden @ layer.fm_out.weight.T + layer.fm_out.bias).reshape(2, 2, 4)
    lcb = layer.linear.weight @ x_BND
    residual = x_BND if n_in == 5 else layer.residual.weight @ x_BND
    torch.testing.assert_close(layer(x_BND), norm(torch.cat([fmb, lcb], 1) + residual), **TIGHT)


def test_fm_blocks_output_is_linear_not_rectified() -> None:
    layer = WukongLayer(5, 4, 2, 3, 3, [8], 0.0).double()
    layer.norm = torch.nn.Identity()
    layer.linear.weight.data.zero_()
    x_BND = x(50, 5, 4)
    assert (layer(x_BND) - x_BND)[:, :2].min() < 0

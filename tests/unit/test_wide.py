"""Layers over widened inputs beside plain ones, and their backward passes beside finite differences."""

import pytest
import torch
from torch import nn

from recsys.frame.wide import linear_over, stacked, trains, widened
from recsys.models.cross import Cross, crossed
from recsys.models.dcn import DCN
from recsys.models.deepfm import DeepFM
from recsys.models.mlp import MLP

STRUCTURES = ["stacked", "parallel", "crossnet"]


def drawn(module: nn.Module) -> nn.Module:
    """The module with weights and biases of a usual size, none 0."""
    r = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=r, dtype=p.dtype) * 0.3
    return module


def x(rows: int, width: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


@pytest.mark.parametrize("width", [7, 8, 31, 32])
def test_widened_has_ones_then_zeros_up_to_64_bytes(width: int) -> None:
    x_BW = x(3, width, torch.float32)
    x_BV = widened(x_BW)
    assert x_BV.shape[1] % 16 == 0 and width < x_BV.shape[1] <= width + 16
    torch.testing.assert_close(x_BV[:, :width], x_BW, rtol=0, atol=0)
    assert (x_BV[:, width] == 1).all() and not x_BV[:, width + 1 :].any()
    with torch.autocast("cpu", torch.bfloat16):
        half_BV = widened(x_BW)
    assert half_BV.dtype == torch.bfloat16 and half_BV.shape[1] == -(-(width + 1) // 32) * 32
    half_BV.sum().backward()
    assert x_BW.grad is not None and x_BW.grad.dtype == torch.float32 and (x_BW.grad == 1).all()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_gradients_of_the_cross_network_are_finite_differences(layers: int) -> None:
    net = drawn(Cross(5, layers).double())
    parameters = [p for layer in net.layers for p in (layer.weight, layer.bias)]

    def forward(x_BW: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        weights = [nn.Linear(5, 5).double() for _ in range(layers)]
        for layer, weight, bias in zip(weights, given[::2], given[1::2], strict=True):
            del layer.weight, layer.bias
            layer.weight, layer.bias = weight, bias
        return crossed(widened(x_BW), weights)[:, :5]

    assert torch.autograd.gradcheck(forward, (x(4, 5), *parameters))


def test_gradients_of_a_linear_layer_are_finite_differences() -> None:
    linear = drawn(nn.Linear(5, 3).double())
    assert torch.autograd.gradcheck(
        lambda x_BW, w, b: linear_over(widened(x_BW), w, b), (x(4, 5), *linear.parameters())
    )


def both(model: nn.Module, x_BW: torch.Tensor, autocast: bool = False) -> tuple[dict, dict]:
    """Output and gradients, through the widened input and through plain layers."""
    seen = []
    for plain in (False, True):
        model.zero_grad()
        x_BW.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.MonkeyPatch.context() as patch:
            if plain:
                for room in ("frame.wide", "models.dcn"):
                    patch.setattr(f"recsys.{room}.trains", lambda x_BW: False)
            y_BO = model(x_BW)
        y_BO.float().square().sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        seen.append({"y": y_BO.detach().float(), "x": x_BW.grad.clone(), **grads})
    return seen[0], seen[1]


MODELS = {f"dcn {s}": lambda s=s: DCN([40, 7, 1], 3, structure=s, hidden=[24, 8], outputs=2) for s in STRUCTURES}
MODELS |= {"mlp": lambda: MLP([40, 7, 1], [24, 8]), "deepfm": lambda: DeepFM([8] * 6, [24, 8])}
MODELS |= {"no mlp": lambda: DCN([40, 7, 1], 2, hidden=[]), "low rank": lambda: DCN([40, 7, 1], 2, rank=4)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_and_its_gradients_are_those_of_plain_layers(name: str) -> None:
    model, x_BW = drawn(MODELS[name]()), x(50, 48, torch.float32)
    ours, plain = both(model, x_BW)
    assert ours.keys() == plain.keys()
    for key, want in plain.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-4, atol=1e-5 * float(want.abs().max()), msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_the_error_is_that_of_plain_layers_in_bfloat16(name: str) -> None:
    model, x_BW = drawn(MODELS[name]()), x(50, 48, torch.float32)
    _, exact = both(model, x_BW)
    ours, plain = both(model, x_BW, autocast=True)
    for key, want in exact.items():
        ours_error, plain_error = ((seen[key] - want).norm() / want.norm() for seen in (ours, plain))
        assert ours_error < max(1.5 * plain_error, 0.02), (key, ours_error, plain_error)


def test_weights_that_do_not_learn_get_no_gradient() -> None:
    model, x_BW = drawn(DCN([40, 7, 1], 2)).requires_grad_(False), x(5, 48, torch.float32)
    model(x_BW).sum().backward()
    assert x_BW.grad is not None and all(p.grad is None for p in model.parameters())


def test_a_layer_that_compression_replaced_is_called_itself() -> None:
    stack = nn.Sequential(nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 4)), nn.ReLU())
    x_BW = x(3, 6, torch.float32)
    torch.testing.assert_close(stacked(x_BW, stack), stack(x_BW), rtol=0, atol=0)


def test_nothing_changes_where_no_gradient_is_wanted() -> None:
    with torch.no_grad():
        assert not trains(torch.ones(2, 2))

"""Linear layers over inputs whose width suits the processor's matrix units, with the bias as one column more.

B rows, W the width of all fields side by side, V the width with a column of ones and zeros behind it, O outputs.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["is_linear", "linear_over", "padded", "stack_over", "stacked", "trains", "widened"]

_BYTES = 64  # of a cache line; a row of AMX's tiles is as long


def trains(x_BW: Tensor) -> bool:
    """Whether an operation on x_BW is part of a training step: gradients are wanted, and no graph is recorded."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and x_BW.ndim == 2


def padded(weight_OW: Tensor, bias_O: Tensor | None, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """[weight, bias] with zeros behind and below → rows × columns."""
    whole = weight_OW.new_zeros(rows, columns, dtype=dtype)
    outputs, width = weight_OW.shape
    whole[:outputs, :width] = weight_OW
    if bias_O is not None:
        whole[:outputs, width] = bias_O
    return whole


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BW: Tensor, dtype: torch.dtype) -> Tensor:
        rows, width = x_BW.shape
        step = _BYTES // dtype.itemsize
        x_BV = x_BW.new_empty(rows, (width // step + 1) * step, dtype=dtype)
        x_BV[:, :width] = x_BW
        x_BV[:, width] = 1
        x_BV[:, width + 1 :] = 0
        ctx.width, ctx.dtype = width, x_BW.dtype
        return x_BV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # type: ignore[override]  # torch's decorator hides names
        (grad_BV,) = grads
        return grad_BV[:, : ctx.width].to(ctx.dtype), None


def widened(x_BW: Tensor) -> Tensor:
    """x_BW, a column of ones, and zeros up to a multiple of 64 bytes → x_BV, in autocast's precision if that is on."""
    kind = x_BW.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_BW.dtype
    return _Widened.apply(x_BW, dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BV: Tensor, weight_OW: Tensor, bias_O: Tensor) -> Tensor:
        whole_OV = padded(weight_OW, bias_O, len(weight_OW), x_BV.shape[1], x_BV.dtype)
        ctx.save_for_backward(x_BV, whole_OV)
        ctx.width, ctx.dtype = weight_OW.shape[1], weight_OW.dtype
        return x_BV @ whole_OV.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # as above
        (grad_BO,) = grads
        x_BV, whole_OV = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad_OV = grad_BO.t() @ x_BV if of_weight or of_bias else None
        return (
            grad_BO @ whole_OV if of_x else None,
            None if grad_OV is None else grad_OV[:, : ctx.width].to(ctx.dtype),
            None if grad_OV is None else grad_OV[:, ctx.width].to(ctx.dtype),
        )


def linear_over(x_BV: Tensor, weight_OW: Tensor, bias_O: Tensor) -> Tensor:
    """W x + b over an output of `widened` → y_BO in its precision."""
    return _Linear.apply(x_BV, weight_OW, bias_O)


def is_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer with a bias, and not what compression put in its place."""
    return type(layer) is nn.Linear and "bias" in dict(layer.named_parameters())


def stack_over(x_BV: Tensor, stack: nn.Sequential) -> Tensor:
    """A stack that begins with a linear layer, over an output of `widened`."""
    first, *others = stack
    assert is_linear(first)
    y_BO = linear_over(x_BV, first.weight, first.bias)
    for layer in others:
        y_BO = layer(y_BO)
    return y_BO


def stacked(x_BW: Tensor, stack: nn.Sequential) -> Tensor:
    """`stack(x_BW)`, through `stack_over` while it trains."""
    if trains(x_BW) and len(stack) and is_linear(stack[0]):
        return stack_over(widened(x_BW), stack)
    return stack(x_BW)

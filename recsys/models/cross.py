"""The cross network of DCN-v2, with a backward pass of its own.

B rows, W the width of all fields side by side, V the width of `widened`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.errors import ConfigError
from recsys.frame.wide import padded

__all__ = ["Cross", "crossed"]


class _Crossed(torch.autograd.Function):
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l; with g of x_{l+1} and p = g ⊙ x_0:

    ∂W_l = pᵀ x_l, ∂b_l = pᵀ 1, ∂x_l = g + p W_l, ∂x_0 = Σ_l g ⊙ (W_l x_l + b_l) + ∂x_l at l = 0.

    b_l is the column of W_l that meets the ones of `widened`. Autograd computes the same in three times as many
    passes over memory, which is what limits a step.
    """

    @staticmethod
    def forward(ctx: Any, x0_BV: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        ctx.width, width = len(biases[0]), x0_BV.shape[1]
        wholes = [padded(w, b, width, width, x0_BV.dtype) for w, b in zip(weights, biases, strict=True)]
        x_BV, inputs, products = x0_BV, list[Tensor](), list[Tensor]()
        for whole_VV in wholes:
            inputs.append(x_BV)
            products.append(x_BV @ whole_VV.t())
            x_BV = torch.addcmul(x_BV, x0_BV, products[-1])
        ctx.save_for_backward(*inputs, *products, *wholes)
        ctx.dtype = weights[0].dtype
        return x_BV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads_of: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # torch's decorator
        (grad_BV,) = grads_of
        count = len(ctx.saved_tensors) // 3
        inputs, products, wholes = (ctx.saved_tensors[i * count : (i + 1) * count] for i in range(3))
        grads: list[Tensor | None] = [None] * (2 * count)
        ours = False  # whether grad_BV was made here, so that it may be changed
        of_x0 = grad_BV * products[-1]
        for l in reversed(range(count)):  # noqa: E741
            through_BV = grad_BV * inputs[0]
            if any(ctx.needs_input_grad[1 + 2 * l : 3 + 2 * l]):
                grad_WV = (through_BV.t() @ inputs[l])[: ctx.width]
                grads[2 * l : 2 * l + 2] = [g.to(ctx.dtype) for g in (grad_WV[:, : ctx.width], grad_WV[:, ctx.width])]
            if l < count - 1:
                of_x0.addcmul_(grad_BV, products[l])
            grad_BV = grad_BV.addmm_(through_BV, wholes[l]) if ours else torch.addmm(grad_BV, through_BV, wholes[l])
            ours = True
        return of_x0.add_(grad_BV), *grads


def crossed(x0_BV: Tensor, layers: Iterable[nn.Linear]) -> Tensor:
    """Cross layers over an output of `widened` → x_BV; its column of ones stays."""
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    return _Crossed.apply(x0_BV, *parameters) if parameters else x0_BV


class Cross(nn.Module):
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, with W_l = U_l V_lᵀ where a rank is given.

    Args:
        width: d, of x_0.
        layers: L ≥ 0.
        rank: r, or None for full W: a layer has 2dr + d or d² + d parameters.

    Raises:
        ConfigError: If the rank is not below break-even, d/2.

    Source: Wang et al., DCN V2, 2021, equations 1 and 2. (torchrec's CrossNet computes the same
    with a matrix-vector product a row; this is one matrix product a batch.)
    """

    def __init__(self, width: int, layers: int, rank: int | None = None):
        super().__init__()
        if rank is not None and not 0 < rank < width / 2:
            raise ConfigError(
                f"model.rank must be below {width / 2:g}, half the {width} inputs, got {rank}: "
                "past it low rank is larger than full; lower it or set model.rank=null"
            )
        self.width = width
        self.layers = nn.ModuleList(
            nn.Linear(width, width)
            if rank is None
            else nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
            for _ in range(layers)
        )

    def forward(self, x0_BW: Tensor) -> Tensor:
        """→ x_BW."""
        x_BW = x0_BW
        for layer in self.layers:
            x_BW = x0_BW * layer(x_BW) + x_BW
        return x_BW

"""Deep & Cross Network v2."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.config.ranges import Depth, Layer, Share
from recsys.errors import ConfigError
from recsys.frame.layers import mlp
from recsys.frame.wide import is_linear, linear_over, stack_over, trains, widened
from recsys.models.cross import Cross, crossed

__all__ = ["DCN"]


class DCN(nn.Module):
    """Cross network and MLP, stacked (cross → MLP), parallel (side by side) or cross only.

    Args:
        widths: Width of each field.
        layers: Cross layers.
        rank: Of the cross layers; None for full.
        structure: `stacked`, `parallel` or `crossnet`.
        hidden: Widths of the MLP.
        dropout: After each hidden layer.
        outputs: O, numbers that it gives a row: what the head wants. CTR tells it.

    Raises:
        ConfigError: If the structure is unknown or the rank does not pay.

    Source: Wang et al., DCN V2, 2021, section 3.
    """

    def __init__(
        self,
        widths: Sequence[int],
        layers: Depth = 2,
        rank: Layer | None = None,
        structure: Literal["stacked", "parallel", "crossnet"] = "parallel",
        hidden: Sequence[Layer] = (256, 128),
        dropout: Share = 0.0,
        outputs: int = 1,
    ):
        super().__init__()
        if structure not in ("stacked", "parallel", "crossnet"):
            raise ConfigError(f"model.structure: expected stacked, parallel or crossnet, got {structure!r}: choose one")
        width = sum(widths)
        hidden = list(hidden) if structure != "crossnet" else []
        self.structure = structure
        self.cross = Cross(width, layers, rank)
        self.deep = mlp(width, hidden, dropout)
        deep = hidden[-1] if hidden else width
        self.logit = nn.Linear({"stacked": deep, "parallel": width + deep, "crossnet": width}[structure], outputs)

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ y_BO."""
        if trains(x_BW) and self._is_linear():
            return self._over(widened(x_BW))
        crossed_BW = self.cross(x_BW)
        if self.structure == "parallel":
            return self.logit(torch.cat([crossed_BW, self.deep(x_BW)], 1))
        return self.logit(self.deep(crossed_BW))

    def _is_linear(self) -> bool:
        """Whether every layer is as it was built, with an MLP unless the structure has none."""
        first = [self.deep[0]] if len(self.deep) else []
        whole = self.structure == "crossnet" or bool(first)
        return whole and all(is_linear(layer) for layer in (*self.cross.layers, *first, self.logit))

    def _over(self, x_BV: Tensor) -> Tensor:
        """The same over an output of `widened`, in fewer passes over memory."""
        crossed_BV = crossed(x_BV, filter(is_linear, self.cross.layers))
        weight, bias = self.logit.weight, self.logit.bias
        if self.structure == "crossnet":
            return linear_over(crossed_BV, weight, bias)
        if self.structure == "stacked":
            return self.logit(stack_over(crossed_BV, self.deep))
        width = self.cross.width
        of_cross = linear_over(crossed_BV, weight[:, :width], bias)
        return of_cross + nn.functional.linear(stack_over(x_BV, self.deep), weight[:, width:])

"""Deep & Cross Network v2."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.config.ranges import Depth, Layer, Share
from recsys.errors import ConfigError
from recsys.frame.layers import mlp

__all__ = ["DCN", "Cross"]


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
        crossed = self.cross(x_BW)
        if self.structure == "parallel":
            crossed = torch.cat([crossed, self.deep(x_BW)], 1)
        elif self.structure == "stacked":
            crossed = self.deep(crossed)
        return self.logit(crossed)

"""Factorization machine."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.models.ctr import Stack
from recsys.ranges import Layer

__all__ = ["FM", "pairwise"]


def pairwise(v_BFD: Tensor) -> Tensor:
    """Σ_{i<j} ⟨v_i, v_j⟩ = ½ Σ_d [(Σ_i v_id)² − Σ_i v_id²] → B, in O(F·D)."""
    return 0.5 * (v_BFD.sum(1).square() - v_BFD.square().sum(1)).sum(1)


class FM(nn.Module):
    """logit = w0 + Σ_i w_i + Σ_{i<j} ⟨v_i, v_j⟩.

    Column 0 of a field's row is w_i and the rest is v_i, since FBGEMM has no 1-wide table.

    Args:
        widths: Width of each field; those other than `dim` are projected.
        dim: D; by default the widest field's.

    Source: Rendle, Factorization Machines, 2010, equations 1 and 5.
    """

    def __init__(self, widths: Sequence[int], dim: Layer | None = None):
        super().__init__()
        self.stack = Stack(widths, dim or max(widths))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ logit_B."""
        x_BFD = self.stack(x_BW)
        return self.bias + x_BFD[:, :, 0].sum(1) + pairwise(x_BFD[:, :, 1:])

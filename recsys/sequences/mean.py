"""The mean of the behaviours. B rows, L behaviours, D embedding dim."""

from torch import Tensor, nn

__all__ = ["Mean"]


class Mean(nn.Module):
    """Σ_l k_l / count of behaviours; 0 where there is none. It needs no candidate.

    Args:
        dim: D.
    """

    attends = False

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, query_BD: Tensor | None, keys_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """→ pooled_BD."""
        there_BL1 = there_BL.unsqueeze(-1).to(keys_BLD.dtype)
        return (keys_BLD * there_BL1).sum(1) / there_BL1.sum(1).clamp(min=1)

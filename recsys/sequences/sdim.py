"""Sampling-based deep interest: behaviours whose hash signature is the candidate's. For long histories.

B rows, L behaviours, D embedding dim, M hashes, T of them a signature, G = M / T signatures.
"""

import torch
from torch import Tensor, nn

from recsys.config.ranges import Few, Seed, SignBits
from recsys.errors import ConfigError

__all__ = ["SDIM"]


class SDIM(nn.Module):
    """mean_g ‖·‖₂-normalised Σ_l k_l·[signature_g(k_l) = signature_g(q)].

    A signature is T signs of random projections, so that two vectors at an angle θ share one with
    probability (1 − θ/π)^T: a behaviour counts the more the closer it is to the candidate, as under
    attention, but nothing is computed for a pair. So what depends on the behaviours alone is made
    once for a user (`encode`), and a candidate then reads it (`read`) at a cost that does not grow
    with L. There is nothing to learn here; the gradient reaches the behaviours' embeddings (not the
    candidate's, through a sign).

    Args:
        dim: D of candidate and behaviours.
        hashes: M, a multiple of `bits`.
        bits: T, in [1, 16]; a user's table has G·2^T rows.
        seed: Fixes the projections.

    Raises:
        ConfigError: If M is no multiple of T, or T out of range.

    Source: Cao et al., Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR
    Prediction, CIKM 2022, section 4.
    """

    attends = True
    projection_DM: Tensor

    def __init__(self, dim: int, hashes: Few = 48, bits: SignBits = 3, seed: Seed = 0):
        super().__init__()
        if not 1 <= bits <= 16 or hashes < 1 or hashes % bits:
            raise ConfigError(
                "sequence: hashes must be a multiple of bits, and bits in [1, 16], "
                f"got hashes={hashes} and bits={bits}: set sequence.hashes=48 sequence.bits=3"
            )
        self.groups, self.bits = hashes // bits, bits
        # float64: a sign must not hang on how a runtime rounds, nor on where in a batch a row stands
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("projection_DM", torch.randn(dim, hashes, dtype=torch.float64, generator=generator))

    def signatures(self, x: Tensor) -> Tensor:
        """…D → …G whole numbers in [0, 2^T), as floats: sums of powers, since not every runtime shifts bits."""
        signs = (x.detach().double() @ self.projection_DM.double() > 0).float()
        power_T = 2.0 ** torch.arange(self.bits, device=x.device)
        return signs.unflatten(-1, (self.groups, self.bits)) @ power_T

    def forward(self, query_BD: Tensor, keys_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """→ pooled_BD; 0 where there is no behaviour."""
        same_BLG = self.signatures(keys_BLD) == self.signatures(query_BD).unsqueeze(1)
        same_BLG = same_BLG & there_BL.unsqueeze(-1)
        sums_BGD = torch.bmm(same_BLG.transpose(1, 2).to(keys_BLD.dtype), keys_BLD)
        return nn.functional.normalize(sums_BGD, dim=-1).mean(1)

    def encode(self, keys_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """What any candidate will read of these behaviours: once for a user → table_BRD, R = G·2^T."""
        size = 2**self.bits
        start_G = size * torch.arange(self.groups, device=keys_BLD.device)
        row_BLG = self.signatures(keys_BLD).long() + start_G  # int64: float32 is not exact past 2²⁴
        kept_BLD = keys_BLD * there_BL.unsqueeze(-1).to(keys_BLD.dtype)
        rows, _, dim = keys_BLD.shape
        table_BRD = keys_BLD.new_zeros(rows, self.groups * size, dim)
        for row_BL in row_BLG.unbind(-1):
            table_BRD = table_BRD.scatter_add(1, row_BL.unsqueeze(-1).expand(-1, -1, dim), kept_BLD)
        return nn.functional.normalize(table_BRD, dim=-1)

    def read(self, table_RD: Tensor, query_CD: Tensor) -> Tensor:
        """C candidates of one user → pooled_CD: what `forward` gives, without the behaviours."""
        start_G = 2**self.bits * torch.arange(self.groups, device=query_CD.device)
        return table_RD[self.signatures(query_CD).long() + start_G].mean(1)

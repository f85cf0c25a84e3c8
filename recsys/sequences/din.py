"""Deep interest network: attention of the candidate to each behaviour. B rows, L behaviours, H hidden."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from recsys.config.ranges import Layer
from recsys.errors import ConfigError

__all__ = ["DIN"]


class DIN(nn.Module):
    """Σ_l a(q, k_l)·k_l with a = MLP([q, k, q − k, q ⊙ k]), one number a behaviour, without a softmax.

    The sum keeps how strong an interest is: many alike behaviours weigh more than one. The first
    layer is linear in k for a given q, so [q, k, q − k, q ⊙ k] is never written out: its product
    with W is q·(W_q + W_−) + k·(W_k − W_− + diag(q)·W_⊙).

    Args:
        dim: D of candidate and behaviours.
        hidden: Widths of the MLP's hidden layers, at least one.

    Raises:
        ConfigError: If there is no hidden layer: the weight could not depend on how q and k go together.

    Source: Zhou et al., Deep Interest Network, KDD 2018, section 4.3, equation 3. The paper puts q, k
    and their outer product into a(·) and PReLU or Dice between its layers; ours are the inputs of its
    public code, and ReLU.
    """

    attends = True

    def __init__(self, dim: int, hidden: Sequence[Layer] = (36,)):
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ConfigError(f"sequence.hidden: expected widths of at least 1, got {list(hidden)}: set [36]")
        self.first = nn.Linear(4 * dim, hidden[0])
        layers: list[nn.Module] = [nn.ReLU()]
        for before, after in pairwise(hidden):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, query_BD: Tensor, keys_BLD: Tensor, there_BL: Tensor) -> Tensor:
        """→ pooled_BD; 0 where there is no behaviour."""
        query_DH, key_DH, difference_DH, product_DH = self.first.weight.t().chunk(4)
        ours_BH = query_BD @ (query_DH + difference_DH) + self.first.bias
        theirs_BDH = (key_DH - difference_DH) + query_BD.unsqueeze(-1) * product_DH
        hidden_BLH = torch.baddbmm(ours_BH.unsqueeze(1), keys_BLD, theirs_BDH)
        weight_BL = self.rest(hidden_BLH).squeeze(-1) * there_BL.to(keys_BLD.dtype)
        return torch.bmm(weight_BL.unsqueeze(1), keys_BLD).squeeze(1)

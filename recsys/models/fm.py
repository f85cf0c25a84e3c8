"""Factorization machine."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.ranges import Layer
from recsys.frame.layers import Stack

__all__ = ["FM", "pairwise"]


_FIRST = 8.0  # chosen on the validation splits of re-buy (30 fields) and of planted clicks (4 fields)
_BIAS = 30.0  # with Adam's usual rate of .001 to .002, log odds of −1.2 are 20 to 40 steps away


def pairwise(v_BFD: Tensor) -> Tensor:
    """Σ_{i<j} v_i ⊙ v_j = ½ [(Σ_i v_i)² − Σ_i v_i²] → pairs_BD, in O(F·D); its sum over D is Σ_{i<j} ⟨v_i, v_j⟩."""
    return 0.5 * (v_BFD.sum(1).square() - v_BFD.square().sum(1))


class FM(nn.Module):
    """logit = w0 + Σ_i w_i + Σ_{i<j} ⟨v_i, v_j⟩ / √D, with w_i = (8/√F)·mean_d(x_id) and v_i = x_i − mean_d(x_id).

    A row x_i of D numbers holds both: w_i is its part along (1, …, 1) and v_i the part at right angles to
    it, thereby any w_i goes with any v_i of D − 1 dimensions.

    The scales make the logistic regression that an FM contains train first; pairs then add what they can:

    - Tables learn by a row-wise Adagrad, where all numbers of a row share one step size, and embedding
      dropout zeroes single numbers. A w_i in one column of its own is slowed by the gradients of v_i, and
      dropout takes it away whole. As a mean over D columns it is neither, and its rate is the same for any D.
    - All F weights of a row of data move at once: 1/√F keeps the logit's steps alike for few and many fields.
    - ⟨v_i, v_j⟩ / √D of new tables has the same spread for any D.
    - w0 is 30 times a parameter. Adam moves a parameter by its rate at a step, thereby w0 itself would take
      more than an epoch to reach the log odds of a usual click rate, and ids would learn them instead, each
      at the pace of its own rows.

    A pair's gradient is 0 at v = 0: from tables of ±.05 training of few, narrow fields ends before a pair has grown.
    `embedding.init=0.5` finds it (docs/log.md).

    Args:
        widths: Width of each of the F fields; those other than `dim` are projected.
        dim: D; by default the widest field's. At D = 1 there are no pairs.
        outputs: O, numbers that it gives a row: what the head wants. CTR tells it. One is the logit; several
            are linear in Σ_i w_i and in each dimension of Σ_{i<j} v_i ⊙ v_j / √D.

    Source: Rendle, Factorization Machines, 2010, equations 1 and 5. Sharing a row between w_i and v_i,
    and the scales, are ours.
    """

    def __init__(self, widths: Sequence[int], dim: Layer | None = None, outputs: int = 1):
        super().__init__()
        dim = dim or max(widths)
        self.stack = Stack(widths, dim)
        self.bias = nn.Parameter(torch.zeros(() if outputs == 1 else outputs))
        self.mix = None if outputs == 1 else nn.Linear(1 + dim, outputs, bias=False)
        self.pair_scale = dim**-0.5
        self.first_scale = _FIRST / len(widths) ** 0.5

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ y_BO."""
        x_BFD = self.stack(x_BW)
        mean_BF1 = x_BFD.mean(2, keepdim=True)
        first_B = self.first_scale * mean_BF1.sum((1, 2))
        pairs_BD = pairwise(x_BFD - mean_BF1)
        if self.mix is None:
            return (_BIAS * self.bias + first_B + self.pair_scale * pairs_BD.sum(1)).unsqueeze(1)
        return _BIAS * self.bias + self.mix(torch.cat([first_B.unsqueeze(1), self.pair_scale * pairs_BD], 1))

"""Means and losses over the rows of a batch, sample weights counted. B rows.

If several processes share a batch, each returns a part of the mean: the mean of all parts is that of the joined batch.
Each part is R·Σ_mine w·v / Σ_all w, of R processes. So is the gradient: it is averaged over the processes.
"""

from torch import Tensor, nn

from recsys.data.ranks import Ranks

__all__ = ["cross_entropy", "mean_part", "row_mean"]


def mean_part(sum_T: Tensor, weight_T: Tensor) -> Tensor:
    """Σ w·v and Σ w over the rows of this process → its part of Σ w·v / Σ w over the rows of all; 0 if none counts."""
    ranks = Ranks.current()
    return ranks.world * sum_T / ranks.sum(weight_T.detach()).clamp(min=1e-12)


def row_mean(value_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Σ w·v / Σ w, the plain mean without weights; 0 if no row of the batch counts."""
    if weight_B is None:
        alone = Ranks.current().world == 1
        return value_B.mean() if alone else mean_part(value_B.sum(), value_B.new_tensor(len(value_B)))
    return mean_part((weight_B * value_B).sum(), weight_B.sum())


def cross_entropy(logit_B: Tensor, label_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """`row_mean` of the binary cross-entropy of each row, in nats."""
    if weight_B is None and Ranks.current().world == 1:
        return nn.functional.binary_cross_entropy_with_logits(logit_B.float(), label_B)
    return row_mean(
        nn.functional.binary_cross_entropy_with_logits(logit_B.float(), label_B, reduction="none"), weight_B
    )

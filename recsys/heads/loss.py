"""Means and losses over the rows of a batch, sample weights counted. B rows."""

from torch import Tensor, nn

__all__ = ["cross_entropy", "row_mean"]


def row_mean(value_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Σ w·v / Σ w, the plain mean without weights; 0 if no row of the batch counts."""
    return value_B.mean() if weight_B is None else (weight_B * value_B).sum() / weight_B.sum().clamp(min=1e-12)


def cross_entropy(logit_B: Tensor, label_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """`row_mean` of the binary cross-entropy of each row, in nats."""
    if weight_B is None:
        return nn.functional.binary_cross_entropy_with_logits(logit_B.float(), label_B)
    return row_mean(
        nn.functional.binary_cross_entropy_with_logits(logit_B.float(), label_B, reduction="none"), weight_B
    )

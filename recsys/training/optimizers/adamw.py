"""AdamW on every dense parameter."""

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW

from recsys.config.ranges import Epsilon, Share

__all__ = ["adamw"]


def adamw(
    dense: Sequence[nn.Parameter],
    rate: float,
    decay: float,
    betas: tuple[Share, Share] = (0.9, 0.999),
    eps: Epsilon = 1e-8,
) -> list[AdamW]:
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← (1 − rate·decay)·w − rate·m̂ / (√v̂ + eps).

    Args:
        dense: Parameters to train.
        rate: Learning rate of the first step; the training loop sets it anew at every step.
        decay: Weight decay of matrices; biases and scales do not decay.
        betas: β₁ and β₂.
        eps: Avoids a division by 0.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    groups = [
        {"params": [p for p in dense if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.is_cpu for p in dense) or None  # one pass over each parameter; on a GPU torch chooses
    return [AdamW(groups, lr=rate, betas=betas, eps=eps, fused=fused)]

"""Muon on hidden matrices, AdamW on the rest."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Muon, Optimizer

from recsys.config.ranges import Few, Share
from recsys.training.optimizers.adamw import adamw

__all__ = ["muon"]


def muon(
    dense: Sequence[nn.Parameter],
    rate: float,
    decay: float,
    momentum: Share = 0.95,
    nesterov: bool = True,
    iterations: Few = 5,
) -> list[Optimizer]:
    """M ← μ·M + (1 − μ)·G; W ← (1 − rate·decay)·W − rate·.2·√max(rows, columns)·O, with O ≈ U·Vᵀ if M = U·S·Vᵀ.

    All directions of a matrix move equally far, even those of small gradients. The factor makes a step as
    long as a usual step of AdamW, so that both share rate and decay. A hidden matrix has two dimensions of
    at least 2; the last layer's row for a single logit is not one.

    Args:
        dense: Parameters to train.
        rate: Learning rate of the first step; the training loop sets it anew at every step.
        decay: Weight decay of matrices; biases and scales do not decay.
        momentum: μ.
        nesterov: Whether O is made of μ·M + (1 − μ)·G instead of M.
        iterations: Newton-Schulz iterations for U·Vᵀ.

    Source: Jordan et al., Muon, 2024; the factor: Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2.
    """
    hidden = [p for p in dense if p.ndim == 2 and min(p.shape) > 1]
    chosen = {id(p) for p in hidden}
    rest: list[Optimizer] = [*adamw([p for p in dense if id(p) not in chosen], rate, decay)]
    if not hidden:
        return rest
    matrices = Muon(hidden, rate, decay, momentum, nesterov, ns_steps=iterations, adjust_lr_fn="match_rms_adamw")
    return [matrices, *rest]

"""Several labels over one shared bottom. B rows, T labels, O numbers of the interaction."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.ranges import Layer, Positive
from recsys.errors import ConfigError
from recsys.heads.loss import mean_part

__all__ = ["Several"]


class Several(nn.Module):
    """logit_t = tower_t(ReLU(y)), y of the interaction; loss = Σ_t a_t·l_t / Σ_t a_t.

    l_t is the mean of −y·ln p − (1 − y)·ln(1 − p) over the rows in which label t was observed, weighted as rows are.

    Args:
        labels: Names of the labels, two or more, the main one first.
        bottom: O, numbers that all towers share.
        tower: Widths of each tower's hidden layers; none makes it a linear layer.
        weights: a_t, one a label, above 0; by default all are 1.

    Raises:
        ConfigError: If there is one label, or another count of weights.

    Source: Caruana, Multitask Learning, 1997 (one bottom that all tasks share).
    """

    weight_T: Tensor

    def __init__(
        self,
        labels: Sequence[str],
        bottom: Layer = 64,
        tower: Sequence[Layer] = (32,),
        weights: Sequence[Positive] | None = None,
    ):
        super().__init__()
        if len(labels) < 2:
            raise ConfigError(f"head=several takes two or more labels, got {labels[0]}: set data.labels, or head=click")
        if weights is not None and len(weights) != len(labels):
            raise ConfigError(
                f"head.weights: expected one a label ({', '.join(labels)}), got {list(weights)}: give {len(labels)}"
            )
        self.outputs = bottom
        self.towers = nn.ModuleList(_tower(bottom, tower) for _ in labels)
        self.register_buffer(
            "weight_T", torch.tensor(weights or [1.0] * len(labels), dtype=torch.float32), persistent=False
        )

    def forward(self, y_BO: Tensor) -> Tensor:
        """→ logit_BT."""
        shared_BO = torch.relu(y_BO)
        return torch.cat([tower(shared_BO) for tower in self.towers], 1)

    def loss(self, logit_BT: Tensor, label_BT: Tensor, weight_B: Tensor | None) -> Tensor:
        """The weighted mean over labels of each one's mean over rows, in nats."""
        counts_BT = label_BT.isfinite().float()
        if weight_B is not None:
            counts_BT = counts_BT * weight_B.unsqueeze(1)
        loss_BT = nn.functional.binary_cross_entropy_with_logits(
            logit_BT.float(), label_BT.nan_to_num(0.0), reduction="none"
        )
        loss_T = mean_part((counts_BT * loss_BT).sum(0), counts_BT.sum(0))
        return (self.weight_T * loss_T).sum() / self.weight_T.sum()


def _tower(width: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for h in hidden:
        layers += [nn.Linear(width, h), nn.ReLU()]
        width = h
    return nn.Sequential(*layers, nn.Linear(width, 1))

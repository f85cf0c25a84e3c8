"""One label: the interaction's number is its logit. B rows, T = 1 label."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.heads.loss import cross_entropy

__all__ = ["Click"]


class Click(nn.Module):
    """logit = the interaction's own; loss = mean of −y·ln p − (1 − y)·ln(1 − p), weighted as rows are.

    Args:
        labels: Names of the labels; one.

    Raises:
        ConfigError: If there are several.
    """

    outputs = 1

    def __init__(self, labels: Sequence[str]):
        super().__init__()
        if len(labels) != 1:
            raise ConfigError(
                f"head=click takes one label, got {', '.join(labels)}: set head=several, or data.labels to one of them"
            )

    def forward(self, y_BO: Tensor) -> Tensor:
        """→ logit_BT."""
        return y_BO

    def loss(self, logit_BT: Tensor, label_BT: Tensor, weight_B: Tensor | None) -> Tensor:
        """The mean over rows, in nats."""
        return cross_entropy(logit_BT[:, 0], label_BT[:, 0], weight_B)

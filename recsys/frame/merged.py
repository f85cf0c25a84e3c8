"""Several trained models merged into one: the mean of their logits.

B rows, L id columns, N dense columns, T labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.frame.ctr import CTR

__all__ = ["Merged", "Scorer"]


class Merged(nn.Module):
    """logit_BT = mean over members of their logit_BT.

    The loss is convex in the logit, so the mean's logloss is at most the mean of the members' loglosses.

    Args:
        members: Models over the same schema.

    Source: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, 2017;
    they take the mean of probabilities.
    """

    def __init__(self, members: Sequence[CTR]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.schema = members[0].schema

    @property
    def _models(self) -> list[CTR]:
        return [m for m in self.members if isinstance(m, CTR)]

    def forward(self, batch: Batch) -> Tensor:
        """→ logit_BT."""
        return torch.stack([model(batch) for model in self._models]).mean(0)

    def score(self, ids_BL: Tensor, dense_BN: Tensor) -> Tensor:
        """As `CTR.score`."""
        return torch.stack([model.score(ids_BL, dense_BN) for model in self._models]).mean(0)

    def loss(self, logit_BT: Tensor, batch: Batch) -> Tensor:
        """The loss of the first member's head."""
        return self._models[0].loss(logit_BT, batch)

    def scoring(self) -> "Merged":
        """As `CTR.scoring`."""
        return Merged([model.scoring() for model in self._models])

    def nbytes(self) -> tuple[int, int]:
        """`CTR.nbytes` summed over the members."""
        sizes = [model.nbytes() for model in self._models]
        return sum(tables for tables, _ in sizes), sum(whole for _, whole in sizes)


Scorer = CTR | Merged
"""A model that returns logits; it need not be trainable or compressible."""

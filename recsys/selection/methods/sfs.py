"""SFS: single-shot feature selection by the gradient of a mask. B rows, F fields, W the joined width."""

from itertools import islice

import torch
from torch import nn

from recsys.config.ranges import Count
from recsys.events import watched
from recsys.selection.counted import counted
from recsys.selection.figures import SearchNotes
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, gate_loss

__all__ = ["sfs"]


class _Mask(nn.Module):
    """x̃_i = m_i·x_i at m = 1."""

    def __init__(self, column_W: torch.Tensor, fields: int):
        super().__init__()
        self.column_W, self.mask_F = column_W, nn.Parameter(torch.ones(fields, device=column_W.device))

    def forward(self, x_BW: torch.Tensor) -> torch.Tensor:
        return x_BW * self.mask_F[self.column_W]


def sfs(search: Search, *, batch_size: Count = 1024, batches: Count = 200) -> FieldScores:
    """score_i = mean over validation batches of |∂L/∂m_i| at m = 1, with x̃_i = m_i·x_i and L by sample weights.

    Args:
        search: Its validation rows are used; its seed fixes which of them share a batch. Near the optimum of its model
            the gradient is small for every field, so that the order of strong fields is unreliable.
        batch_size: Rows of a batch; |mean over the batch| depends on it.
        batches: Most batches; there is at most one pass over the rows.

    Source: Wang et al., Single-shot Feature Selection for Multi-task Recommendations, 2023,
    equations 5 and 6, for one task.
    """
    model, valid = search.model.eval(), counted(search.valid)
    column_W, device = search.column_W, search.device.in_float32()
    total_F, count = (
        torch.zeros(len(model.widths), device=column_W.device),
        min(batches, max(1, len(valid) // batch_size)),
    )
    rows = islice(valid.shuffled(batch_size, [search.seed, 11]), count)
    for batch in watched(rows, search.reporter, count, "batches through the mask"):
        mask = _Mask(column_W, len(model.widths))
        loss = gate_loss(model, mask, device.batch(batch), device)
        total_F += torch.autograd.grad(loss, mask.mask_F)[0].abs()
    names = model.schema.names
    score = dict(zip(names, (total_F / count).tolist(), strict=True))
    notes = SearchNotes("sfs", steps=count)
    return FieldScores(score, None, {n: {"mask_gradient": s} for n, s in score.items()}, notes)

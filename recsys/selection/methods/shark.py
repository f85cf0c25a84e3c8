"""SHARK's F-Permutation: a first-order estimate of permutation. B rows, F fields, W the joined width."""

import torch
from torch import Tensor

from recsys.config.ranges import Count
from recsys.data.batch import Batch
from recsys.data.split import Split
from recsys.events import watched
from recsys.frame.ctr import CTR
from recsys.selection.counted import counted
from recsys.selection.figures import SearchNotes
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search
from recsys.training.device import Device

__all__ = ["shark"]


@torch.no_grad()
def _mean_embedding(model: CTR, valid: Split, device: Device) -> Tensor:
    total_W, weight = torch.zeros(sum(model.widths), dtype=torch.float64, device=device.torch_device), 0.0
    for batch in map(device.batch, valid.batches(8192)):
        weight_B = _weights(batch)
        total_W += weight_B @ model.features(batch).double()
        weight += float(weight_B.sum())
    return (total_W / weight).float()


def _weights(batch: Batch) -> Tensor:
    return torch.ones_like(batch.label_B).double() if batch.weight_B is None else batch.weight_B.double()


def shark(search: Search, *, batch_size: Count = 8192) -> FieldScores:
    """score_i = mean over rows of |⟨∂ℓ/∂x_i, E[x_i] − x_i⟩|, with ℓ a row's logloss; means are by sample weights.

    The loss is summed over the batch, so that one backward pass gives every row's own gradient.

    Args:
        search: Its validation rows are used; its seed is not, since every row is read once.
        batch_size: Rows of a batch; only the speed depends on it.

    Source: Zhang et al., SHARK, 2023, equation 3: Taylor's first term of replacing a field by its mean.
    """
    model, valid = search.model.eval(), counted(search.valid)
    column_W, mean_W = search.column_W, _mean_embedding(model, valid, search.device)
    total_F, weight = torch.zeros(len(model.widths), dtype=torch.float64, device=column_W.device), 0.0
    batches, count = map(search.device.batch, valid.batches(batch_size)), -(-len(valid) // batch_size)
    for batch in watched(batches, search.reporter, count, "batches differentiated"):
        with torch.no_grad():
            x_BW = model.features(batch)
        x_BW.requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model.logits_of(x_BW)[:, 0], batch.label_B, reduction="sum"
        )
        (gradient_BW,) = torch.autograd.grad(loss, x_BW)
        with torch.no_grad():
            change_BW = gradient_BW * (mean_W - x_BW)
            change_BF = change_BW.new_zeros(len(batch), len(model.widths)).index_add_(1, column_W, change_BW)
            weight_B = _weights(batch)
            total_F += weight_B @ change_BF.abs().double()
            weight += float(weight_B.sum())
    names = model.schema.names
    score = dict(zip(names, (total_F / weight).tolist(), strict=True))
    notes = SearchNotes("shark")
    return FieldScores(score, None, {n: {"first_order_loss": s} for n, s in score.items()}, notes)

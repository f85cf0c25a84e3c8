"""OptFS: a mask for each value of each field. F fields, V values of all fields, W the joined width."""

import torch
from torch import Tensor, nn

from recsys.config.ranges import Few, GainShare, Positive, Tau
from recsys.data.batch import Batch
from recsys.data.split import Split
from recsys.features.schema import Schema
from recsys.selection.figures import SearchNotes
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, train_gated
from recsys.training.device import Device

__all__ = ["ValueMasks", "optfs"]


class ValueMasks(nn.Module):
    """g_v = σ(τ·c_v) / σ(c₀), one for each id of a looked-up field and one for each other field.

    The mask of a list is the mean over its ids, since the model gets the list as one vector.

    Args:
        schema: The fields.
        start: c₀ > 0, the initial c; thereby every mask starts at 1.
    """

    def __init__(self, schema: Schema, start: float):
        super().__init__()
        self.schema, self.tau = schema, 1.0
        sizes = [f.cardinality if f.is_sparse else 1 for f in schema.fields]
        self.sizes, self.start = sizes, torch.tensor(sizes).cumsum(0) - torch.tensor(sizes)
        self.c_V = nn.Parameter(torch.full((sum(sizes),), start))
        self.scale = 1 / float(torch.sigmoid(torch.tensor(start)))

    def values(self) -> Tensor:
        """g of every value → [V]."""
        return torch.sigmoid(self.tau * self.c_V) * self.scale

    def forward(self, batch: Batch) -> Tensor:
        """The mask of each row's value → [B, F]."""
        g_V = self.values()
        masks: list[Tensor] = []
        columns = self.schema.id_columns
        for i, f in enumerate(self.schema.fields):
            first = int(self.start[i])
            if not f.is_sparse:
                masks.append(g_V[first].expand(len(batch)))
                continue
            ids_BC = batch.ids_BL[:, columns[f.name].start : columns[f.name].stop]
            present_BC = ids_BC >= 0
            picked_BC = g_V[first + ids_BC.clamp(min=0)] * present_BC
            masks.append(picked_BC.sum(1) / present_BC.sum(1).clamp(min=1))
        return torch.stack(masks, 1)


def optfs(
    search: Search,
    *,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    epochs: Few | None = None,
    last_tau: Tau = 200.0,
) -> FieldScores:
    """Train a fresh model with a mask for each value and an L1 penalty, sharpened until masks are 0 or 1.

    score_i = share of validation rows whose value of field i has an open mask (c > 0), plus a
    thousandth of the mean mask, which breaks ties; a field is kept if that share is over ½.

    Args:
        search: A fresh model and its masks learn from its training rows; the frequency of each value comes from its
            validation rows. Its seed fixes the fresh model and the order of rows.
        price: λ of λ·Σ_fields (mean of the mask over the batch's rows), in nats a row; None takes
            `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        epochs: Passes over the training rows; None takes as many steps as the given model took (`train_gated`).
        last_tau: Temperature at the end, ≥ 1; it grows from 1 by a constant factor a step.

    Source: Lyu et al., OptFS, 2023, equations 6 to 9. The paper's L1 sums over all values; ours
    weights a value by its frequency, so that λ is in nats a row. The paper makes numbers categories; here
    a numeric field has one mask. c₀ = ½ and the last τ = 200 are those of the authors' code, which raises
    τ once an epoch (20 epochs; here once a step). Stage retrain does the retraining.
    """
    price = price_or_default(search, price, gain_share)
    fresh = search.fresh_model()
    masks, column_W = ValueMasks(search.model.schema, 0.5).to(search.device.torch_device), search.column_W

    def mix(x_BW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        mask_BF = masks(batch)
        return x_BW * mask_BF[:, column_W], price * _row_mean(mask_BF, batch.weight_B).sum()

    for step in train_gated(fresh, mix, search, epochs, masks, reach=2.0):
        masks.tau = last_tau ** (step.number / step.total)
    names = search.model.schema.names
    open_F, mean_F = _shares(masks, search.valid, search.device)
    score = {n: o + 1e-3 * m for n, o, m in zip(names, open_F, mean_F, strict=True)}
    details = {n: {"values_kept": o, "mask": m} for n, o, m in zip(names, open_F, mean_F, strict=True)}
    notes = SearchNotes("optfs", price)
    return FieldScores(score, {n: d["values_kept"] > 0.5 for n, d in details.items()}, details, notes)


def _row_mean(mask_BF: Tensor, weight_B: Tensor | None) -> Tensor:
    """Mean over rows by their sample weights → [F]; 0 if all weights are 0."""
    if weight_B is None:
        return mask_BF.mean(0)
    return weight_B @ mask_BF / weight_B.sum().clamp(min=1e-12)


@torch.no_grad()
def _shares(masks: ValueMasks, valid: Split, device: Device) -> tuple[list[float], list[float]]:
    """For each field, the share of rows with an open mask, and the mean of c's soft mask σ(c)."""
    soft, hard = masks.c_V.sigmoid(), (masks.c_V > 0).float()
    totals: list[Tensor] = []
    for number_V in (hard, soft):
        masks.c_V.copy_(torch.logit(number_V.clamp(1e-6, 1 - 1e-6)))
        masks.tau, masks.scale = 1.0, 1.0
        total_F, rows = torch.zeros(len(masks.sizes), device=device.torch_device), 0.0
        for b in map(device.batch, valid.batches(8192)):
            weight_B = torch.ones_like(b.label_B) if b.weight_B is None else b.weight_B
            total_F, rows = total_F + weight_B @ masks(b), rows + float(weight_B.sum())
        totals.append(total_F / rows)
    return totals[0].tolist(), totals[1].tolist()

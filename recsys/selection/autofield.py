"""AutoField: a soft choice between keeping and dropping each field. F fields, W the joined width."""

import time

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.models.ctr import CTR
from recsys.selection.columns import field_of_column
from recsys.selection.recipe import Recipe, batches_forever, gate_loss, train_gated
from recsys.selection.scores import FieldScores, check_fields

__all__ = ["AutoFieldGate", "autofield"]


class AutoFieldGate(nn.Module):
    """x̃_i = p_i·norm(x_i), with p_i the first of Gumbel-softmax((log α_i + noise) / τ).

    Batch normalisation without a slope of its own puts all fields on one scale; without it a field
    of noise is kept for its mean, which acts as a bias.

    Args:
        column_W: The field of each column of x_BW.
        seed: Fixes the noise.
    """

    def __init__(self, column_W: Tensor, seed: int):
        super().__init__()
        self.column_W, self.tau = column_W, 1.0
        self.alpha_F2 = nn.Parameter(torch.zeros(int(column_W[-1]) + 1, 2))  # log α: keep, drop
        self.norm = nn.BatchNorm1d(len(column_W), affine=False)
        self.generator = torch.Generator().manual_seed(seed)

    def keep(self) -> Tensor:
        """α_keep / (α_keep + α_drop) → [F]."""
        return self.alpha_F2.softmax(1)[:, 0]

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ x̃_BW, with new noise for each field and batch."""
        uniform_F2 = torch.rand(self.alpha_F2.shape, generator=self.generator).clamp(1e-9, 1 - 1e-7)
        noise_F2 = -torch.log(-torch.log(uniform_F2))
        p_F2 = ((self.alpha_F2.log_softmax(1) + noise_F2) / self.tau).softmax(1)
        return self.norm(x_BW) * p_F2[:, 0][self.column_W]


def autofield(
    model: CTR,
    train: Shards,
    valid: Shards,
    recipe: Recipe,
    seed: int,
    epochs: int = 2,
    every: int = 10,
    gate_lr: float = 0.05,
    last_tau: float = 0.01,
) -> FieldScores:
    """Train a fresh model on training rows, and every few steps its choices on a validation batch.

    A field is kept if α_keep > α_drop. Dropping costs nothing, so a field that neither helps nor
    harms stays near ½: the ranking says more than the cut.

    Args:
        model: Tells the fields; not changed.
        train: Rows of the fresh model.
        valid: Rows of the choices.
        recipe: How the fresh model is built and trained.
        seed: Fixes model, noise and rows.
        epochs: Over the training rows.
        every: Steps of the model between two of the choices.
        gate_lr: Adam's rate for log α.
        last_tau: Temperature at the end, in (0, 1]; it falls from 1 in a line.

    Raises:
        ConfigError: If a setting is out of range or there are fewer than two fields.

    Source: Wang et al., AutoField, 2022, equations 3 to 9, with the first-order update of section
    3.4. The paper lets τ fall by a constant a step; so do we, down to `last_tau` at the last step.
    """
    started = time.perf_counter()
    check_fields(model.schema)
    if every < 1 or not 0 < last_tau <= 1 or gate_lr <= 0:
        wanted = "selection: expected every ≥ 1, gate_lr > 0 and last_tau in (0, 1]"
        raise ConfigError(f"{wanted}, got {every}, {gate_lr} and {last_tau}: change them")
    torch.manual_seed(seed)
    own = recipe.build(model.schema)
    gate = AutoFieldGate(field_of_column(own.widths), seed)
    adam = torch.optim.Adam(gate.parameters(), lr=gate_lr)
    held_out = batches_forever(valid, recipe.how.batch_size, seed)

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        return own.head(gate(own.features(batch))), torch.zeros(())

    for step in train_gated(own, forward, train, recipe.how, seed, epochs):
        if step.number % every == 0:
            own.eval()
            loss = gate_loss(own, gate, next(held_out), recipe.how.precision)
            (gate.alpha_F2.grad,) = torch.autograd.grad(loss, [gate.alpha_F2])
            adam.step()
        gate.tau = 1 - (1 - last_tau) * step.number / step.total
    score = dict(zip(model.schema.names, gate.keep().tolist(), strict=True))
    about = {"method": "autofield", "seconds": time.perf_counter() - started}
    return FieldScores(score, {n: p > 0.5 for n, p in score.items()}, {n: {"keep": p} for n, p in score.items()}, about)

"""AutoField: a soft choice between keeping and dropping each field. F fields, W the joined width."""

import torch
from torch import Tensor, nn

from recsys.config.ranges import Few, LearningRate, Unit
from recsys.data.batch import Batch
from recsys.selection.figures import SearchNotes
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, batches_forever, gate_loss, train_gated

__all__ = ["AutoFieldGate", "autofield", "steps_between"]

_LAST_TAU = 0.01
_LEAST_CHOICES = 200  # least steps of the choices, if the run has as many steps
_RAREST = 10  # most steps of the model for each step of the choices, as in ERASE


class AutoFieldGate(nn.Module):
    """x̃_i = p_i·x_i, with p_i the first of softmax((log α_i + Gumbel noise) / τ), τ = max(.01, 1 − n·tau_step).

    Args:
        column_W: The field of each column of x_BW.
        seed: Fixes the noise.
        tau_step: Decrease of τ in each call; n is the number of calls, this one included.
    """

    def __init__(self, column_W: Tensor, seed: int, tau_step: float):
        super().__init__()
        self.column_W, self.tau_step, self.calls = column_W, tau_step, 0
        self.alpha_F2 = nn.Parameter(torch.zeros(int(column_W[-1]) + 1, 2, device=column_W.device))  # log α: keep, drop
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def tau(self) -> float:
        """The temperature of the last call."""
        return max(_LAST_TAU, 1 - self.calls * self.tau_step)

    def keep(self) -> Tensor:
        """α_keep / (α_keep + α_drop) → [F]."""
        return self.alpha_F2.softmax(1)[:, 0]

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ x̃_BW, with new noise for each field and batch."""
        self.calls += 1
        uniform_F2 = torch.rand(self.alpha_F2.shape, generator=self.generator).clamp(1e-9, 1 - 1e-7)
        noise_F2 = -torch.log(-torch.log(uniform_F2)).to(x_BW.device)
        p_F2 = ((self.alpha_F2.log_softmax(1) + noise_F2) / self.tau).softmax(1)
        return x_BW * p_F2[:, 0][self.column_W]


def steps_between(steps: int) -> int:
    """Steps of the model between two steps of the choices: a 200th of all, from 1 up to ERASE's 10.

    Args:
        steps: Steps of the whole run.
    """
    return min(_RAREST, max(1, steps // _LEAST_CHOICES))


def autofield(
    search: Search,
    *,
    epochs: Few | None = None,
    every: Few | None = None,
    gate_lr: LearningRate | None = None,
    tau_step: Unit = 5e-5,
) -> FieldScores:
    """Train a fresh model on training rows and, every few steps, its choices on a validation batch.

    A field is kept if α_keep > α_drop. Neither choice has a price, so that a field that neither helps nor
    harms stays near ½: the ranking is more reliable than the cut.

    A short run needs more steps of the choices. On planted truth (35 fields, 16 useful, five
    seeds) average precision with a choice every 10, 3 and 1 steps was .663, .699, .729 in runs of 40
    steps, .892 and .979 (10 and 1) in 164, and .966, .984, .985 in 656. A rate of 1 to 3 divided by the
    number of steps did not rank better than the dense part's, and a τ that ends at .01 did not either.

    Args:
        search: A fresh model learns from its training rows, the choices from its validation rows. Its seed fixes the
            fresh model, the noise and the order of rows.
        epochs: Passes over the training rows; None takes as many steps as the given model took (`train_gated`).
        every: Steps of the model between two steps of the choices; the first of these follows the model's first step.
            None is a 200th of the run's steps, at least 1 and at most 10 (see `steps_between`).
        gate_lr: Adam's rate for log α; None takes that of the dense part.
        tau_step: Decrease of the temperature in each pass, from 1 down to .01; in [0, 1].

    Source: Wang et al., AutoField, 2022, equations 3 to 9, with the first-order update of section
    3.4; gates, rates and temperature as in ERASE's code (KDD 2024), whose passes over validation
    rows lower τ too. There the model's dropout acts in the steps of the choices; here it does not.
    """
    fresh = search.fresh_model()
    gate = AutoFieldGate(search.column_W, search.seed, tau_step)
    adam = torch.optim.Adam(gate.parameters(), lr=gate_lr or search.how.lr)
    held_out = batches_forever(search.valid, search.how.batch_size, search.seed, search.device)

    def mix(x_BW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return gate(x_BW), torch.zeros(())

    for step in train_gated(fresh, mix, search, epochs):
        if (step.number - 1) % (every or steps_between(step.total)) == 0:
            fresh.eval()
            loss = gate_loss(fresh, gate, next(held_out), search.device)
            (gate.alpha_F2.grad,) = torch.autograd.grad(loss, [gate.alpha_F2])
            adam.step()
    score = dict(zip(search.model.schema.names, gate.keep().tolist(), strict=True))
    notes = SearchNotes("autofield", figures={"tau": gate.tau})
    return FieldScores(score, {n: p > 0.5 for n, p in score.items()}, {n: {"keep": p} for n, p in score.items()}, notes)

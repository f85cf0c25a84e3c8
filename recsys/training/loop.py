"""The only training loop, for `fit` and for gated search. It depends on no model, selector or data set.

B rows of a batch, W the width of all fields side by side.
"""

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recsys.config.factory import make
from recsys.data.batch import Batch
from recsys.data.ranks import Ranks
from recsys.data.split import Split
from recsys.frame.ctr import CTR
from recsys.heads.loss import row_mean
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.guards import NotFinite, explained
from recsys.training.norms import Move

__all__ = ["Loss", "Mix", "Step", "Training", "dense_parameters", "one_seed", "seed_everything"]

Mix = Callable[[Tensor, Batch], tuple[Tensor, Tensor]]
"""(x_BW, batch) → (x_BW for the interaction, a penalty to add to the loss)."""

Loss = Callable[[Tensor, Batch], Tensor]
"""(logit_BT of a batch, the batch) → the mean loss of its rows by sample weight."""


def seed_everything(seed: int) -> None:
    """Fix every random source, so that a run repeats bit for bit on the same machine."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def one_seed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.default_rng(numbers).integers(2**63))


def dense_parameters(model: CTR) -> list[nn.Parameter]:
    """The parameters that the optimiser of the dense layers trains."""
    return [*model.dense_named().values(), *model.trainable().dense_parameters()]


@dataclass(frozen=True)
class Step:
    """A step that has been taken.

    Args:
        number: Number of the step, from 1.
        total: Count of all steps.
        loss: Loss of this step's rows, without penalties.
    """

    number: int
    total: int
    loss: float


class Training:
    """The state of a training: a model, its optimisers and the count of steps taken.

    Args:
        model: Changed in place.
        config: Training settings.
        steps_per_epoch: Count of steps, each of `config.batch_size` rows, or of all rows if there are fewer.
        mix: Changes x_BW before the interaction; None leaves it as it is.
        others: Optimisers of the parameters of `mix`; they step with those of the model, at their own rates.
        device: Where the model is, and the precision in which it trains; None is the CPU in `config.precision`.
        loss: Loss that a step lowers, without penalties; None is the loss of the model's head.

    Raises:
        ConfigError: If the model's tables cannot be trained.
    """

    def __init__(
        self,
        model: CTR,
        config: TrainConfig,
        steps_per_epoch: int,
        mix: Mix | None = None,
        others: Sequence[torch.optim.Optimizer] = (),
        device: Device | None = None,
        loss: Loss | None = None,
    ):
        self.model, self.config, self.steps_per_epoch = model, config, steps_per_epoch
        self.mix, self.others, self.loss = mix, others, loss or model.loss
        self.total = steps_per_epoch * config.max_epochs
        self.embedding = model.trainable()
        optimizer = make(config.optimizer, "optimizer")
        self.optimizers: list[torch.optim.Optimizer] = optimizer(
            dense_parameters(model), config.lr, config.weight_decay
        )
        self.device = device or Device.choose("cpu", config.precision)
        self.step, self.ranks = 0, Ranks.current()
        self.part = "the start"  # what it does now: see `watch_stalls`
        self.folder: Path | None = None  # gets the batch at which the training diverges
        self.looks: frozenset[int] = frozenset()  # steps of each epoch, from 1, that `figures` measures
        self.figures: dict[str, float] = {}  # gradient norm and update ratio of the last such step
        self._start_alike()

    def _trained(self) -> list[Tensor]:
        """Every parameter that an optimiser of this training changes; tables are not among them."""
        groups = (g for o in (*self.optimizers, *self.others) for g in o.param_groups)
        return list({id(p): p for g in groups for p in g["params"]}.values())

    @torch.no_grad()
    def _start_alike(self) -> None:
        """Give every rank the parameters of rank 0."""
        for p in self._trained() if self.ranks.world > 1 else ():
            self.ranks.add(p if self.ranks.first else p.zero_())

    def _average(self, loss: Tensor) -> Tensor:
        """Average the gradients over the ranks, in one exchange with the loss → the mean loss."""
        if self.ranks.world == 1:
            return loss
        grads = [p.grad for p in self._trained() if p.grad is not None]
        flat = self.ranks.add(torch.cat([loss.reshape(1), *(g.flatten() for g in grads)])) / self.ranks.world
        for g, part in zip(grads, flat[1:].split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))
        return flat[0]

    def _gradient_is_finite(self) -> bool:
        """Whether the gradients of biases are, which show each number of the backward pass that is not finite.

        Those of matrices would take a hundredth of a step. All ranks have the same.
        """
        grads = [p.grad for p in self._trained() if p.grad is not None]
        small = [g.sum() for g in grads if g.ndim < 2] or [g.sum() for g in grads]
        return not small or bool(torch.stack(small).isfinite().all())

    def set_rates(self) -> None:
        """Set the rates of dense layers and tables: warm-up, then constant or linear decay."""
        share = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        if self.config.decay == "linear":
            share *= max(0.0, 1 - self.step / self.total)
        for group in (g for o in self.optimizers for g in o.param_groups):
            group["lr"] = self.config.lr * share
        self.embedding.set_learning_rate(self.config.table_lr * share)

    def learn(self, batch: Batch) -> float:
        """Take one step; the tables are updated inside backward.

        Args:
            batch: The rows; of several ranks, each gives its share of them.

        Returns:
            The loss of these rows, those of all ranks, without penalties.

        Raises:
            NotFinite: If the loss is not finite, or its gradient; in the latter case the tables have changed.
        """
        self.set_rates()
        self.part = "forward"
        x_BW = self.model.features(batch)
        mixed_BW, penalty = self.mix(x_BW, batch) if self.mix else (x_BW, 0.0)
        with self.device.autocast():
            logit_BT = self.model.logits_of(mixed_BW)
        loss = self.loss(logit_BT, batch)
        total = loss + penalty
        if self.config.table_l2:
            square_B = self.model.looked_up(x_BW).square().sum(1)
            total = total + 0.5 * self.config.table_l2 * row_mean(square_B, batch.weight_B)
        value = float(total.detach())
        if self.ranks.maximum(int(not math.isfinite(value))):
            raise NotFinite(self.step + 1, value, batch, x_BW, mixed_BW)
        optimizers = (*self.optimizers, *self.others)
        for optimizer in optimizers:
            optimizer.zero_grad()
        looks = self.step % self.steps_per_epoch + 1 in self.looks
        move = Move(self.model, dense_parameters(self.model), batch) if looks else None
        self.part = "backward, which updates the tables"
        total.backward()
        mean = self._average(loss.detach())
        if not self._gradient_is_finite():
            raise NotFinite(self.step + 1, value, batch, x_BW, mixed_BW)
        if move:
            move.after_backward()
        self.part = "the optimiser of the dense layers"
        for optimizer in optimizers:
            optimizer.step()
        if move:
            self.figures = move.figures()
        self.step += 1
        self.part = "reports of the step"
        return float(mean)

    @contextmanager
    def _dropout(self, seed: int) -> Generator[None]:
        """Within it, dropout differs by rank; outside, what is random stays the same on every rank."""
        if self.ranks.world == 1:
            yield
            return
        place = self.device.torch_device
        with torch.random.fork_rng([place] if place.type == "cuda" else []):
            torch.manual_seed(one_seed(seed, self.step, self.ranks.rank))
            yield

    def steps(self, train: Split, seed: int, total: int | None = None) -> Iterator[Step]:
        """Continue the training; yield after each step.

        The model is in train mode at each step, even if the caller evaluated it in between.

        Args:
            train: Training rows.
            seed: Fixes the order of rows.
            total: Count of all steps; that of `config.max_epochs` by default.
        """
        total = self.total if total is None else total
        self.part = "reading a batch"
        size = min(self.config.batch_size, len(train))
        while self.step < total:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            if epoch and not done and self.config.fresh_tables:
                self.embedding.reset_tables(one_seed(seed, epoch))
            for batch in self.device.ahead(train.shuffled(size, [seed, epoch], done, self.ranks)):
                if not self.model.training:
                    self.model.train()
                try:
                    with self._dropout(seed):
                        loss = self.learn(batch)
                except NotFinite as wrong:
                    raise explained(self.model, wrong, self.device, train, self.folder) from None
                yield Step(self.step, total, loss)
                self.part = "reading a batch"
                if self.step == total:
                    return

"""fit and predict: the training path. It names no model, selector or data set.

B rows of a batch.
"""

import copy
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.errors import DataError
from recsys.evaluation.metrics import auc, logloss, sigmoid
from recsys.files import whole
from recsys.frame.ctr import CTR
from recsys.progress import progress
from recsys.training.checkpoint import read_weights
from recsys.training.config import TrainConfig

__all__ = ["Fit", "TrainConfig", "batch_loss", "best_look", "bf16", "fit", "logits", "seed_everything"]

Mix = Callable[[Tensor, Batch], tuple[Tensor, Tensor]]

RESUME_VERSION = 3  # of resume.pt


def bf16(precision: str) -> bool:
    """Whether the dense part runs in bf16 autocast; `auto` is yes if the processor (CPU) multiplies bf16 itself."""
    if precision != "auto":
        return precision == "bf16"
    return torch.cpu._is_avx512_bf16_supported()  # type: ignore[attr-defined]


def seed_everything(seed: int) -> None:
    """Fix every random source, so that a run repeats bit for bit on the same machine."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def row_mean(value_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Σ w·v / Σ w, the plain mean without weights; 0 if no row of the batch counts."""
    return value_B.mean() if weight_B is None else (weight_B * value_B).sum() / weight_B.sum().clamp(min=1e-12)


def batch_loss(logit_B: Tensor, label_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """`row_mean` of the binary cross-entropy of each row."""
    if weight_B is None:
        return nn.functional.binary_cross_entropy_with_logits(logit_B.float(), label_B)
    return row_mean(
        nn.functional.binary_cross_entropy_with_logits(logit_B.float(), label_B, reduction="none"), weight_B
    )


@torch.no_grad()
def logits(model: CTR, shards: Shards, batch_size: int = 8192) -> np.ndarray:
    """Score every row of a split in order, in float32 → logit_B."""
    model.eval()
    parts = [model(b).numpy() for b in shards.batches(batch_size)]
    return np.concatenate(parts)


class Fit:
    """The state of one training, so that it can be written down and taken up again."""

    def __init__(self, model: CTR, config: TrainConfig, steps_per_epoch: int):
        self.model, self.config = model, config
        self.total = steps_per_epoch * config.max_epochs
        self.embedding = model.trainable()
        dense = [p for n, p in model.named_parameters() if not n.startswith("embedding.")]
        dense += self.embedding.dense_parameters()
        groups = [
            {"params": [p for p in dense if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=config.lr)
        self.step, self.bad_looks, self.best = 0, 0, math.inf
        self.best_state: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []

    def set_rates(self) -> None:
        """Warm-up, then constant or linear decay, for both optimisers."""
        share = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        if self.config.decay == "linear":
            share *= max(0.0, 1 - self.step / self.total)
        for group in self.adam.param_groups:
            group["lr"] = self.config.lr * share
        self.embedding.set_learning_rate(self.config.table_lr * share)

    def learn(self, batch: Batch, autocast: bool, mix: Mix | None = None) -> float:
        """One step; the tables are updated inside backward.

        Args:
            batch: Rows.
            autocast: Whether the head runs in bf16.
            mix: (x_BW, batch) → (what the head is given instead, a penalty to add); None leaves x_BW.

        Returns:
            The loss of these rows, without penalties.
        """
        self.set_rates()
        x_BW = self.model.features(batch)
        mixed_BW, penalty = mix(x_BW, batch) if mix else (x_BW, 0.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logit_B = self.model.head(mixed_BW)
        loss = batch_loss(logit_B, batch.label_B, batch.weight_B)
        total = loss + penalty
        if self.config.table_l2:
            square_B = self.model.looked_up(x_BW).square().sum(1)
            total = total + 0.5 * self.config.table_l2 * row_mean(square_B, batch.weight_B)
        self.adam.zero_grad()
        total.backward()
        self.adam.step()
        self.step += 1
        return float(loss.detach())

    def look(self, valid: Shards, train_loss: float) -> bool:
        """Validate; keep the best weights. True when patience has run out."""
        logit_B = logits(self.model, valid)
        if not np.isfinite(logit_B).all():
            raise DataError(f"the model diverged at step {self.step}: lower train.lr and train.table_lr")
        loss = logloss(sigmoid(logit_B), valid.label_B, valid.weight_B)
        valid_auc = auc(logit_B, valid.label_B, valid.weight_B)
        seen = {"step": self.step, "train_loss": train_loss, "valid_logloss": loss, "valid_auc": valid_auc}
        self.history.append(seen)
        if seen["valid_logloss"] < self.best:
            self.best, self.bad_looks = seen["valid_logloss"], 0
            self.best_state = self._weights()
        else:
            self.bad_looks += 1
        return self.bad_looks >= self.config.patience

    def _weights(self) -> dict[str, Any]:
        """A copy of the weights, and of the tables' optimiser state that belongs to them."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer_state": self.embedding.optimizer_state(),
        }

    def restore(self, weights: dict[str, Any]) -> None:
        """Put back what `_weights` copied."""
        self.model.load_state_dict(weights["model"])
        self.embedding.load_optimizer_state(weights["optimizer_state"])

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on; the file appears whole or not at all."""
        state = {
            "version": RESUME_VERSION,
            "model": self.model.state_dict(),
            "optimizer_state": self.embedding.optimizer_state(),
            "adam": self.adam.state_dict(),
            "rng": torch.get_rng_state(),
            "counters": (self.step, self.bad_looks, self.best),
            "best_state": self.best_state,
            "history": self.history,
        }
        with whole(path, "wb") as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            DataError: If it is damaged or of another version.
        """
        state = read_weights(path, "remove it to train from the start", RESUME_VERSION)
        self.restore(state)
        self.adam.load_state_dict(state["adam"])
        torch.set_rng_state(state["rng"])
        self.step, self.bad_looks, self.best = state["counters"]
        self.best_state, self.history = state["best_state"], state["history"]


def best_look(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The look with the lowest validation logloss, the first of equal ones: its weights are what `fit` leaves."""
    return min(history, key=lambda h: h["valid_logloss"])


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    return progress(*columns, refresh_per_second=2)


def fit(
    model: CTR,
    train: Shards,
    valid: Shards,
    config: TrainConfig,
    seed: int,
    checkpoint: Path | None = None,
    on_look: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train until validation logloss stops falling; leave the best weights, and their optimiser state, in the model.

    Args:
        model: Changed in place.
        train: Training rows.
        valid: Rows that decide when to stop.
        config: How.
        seed: Fixes the order of rows and the dropout.
        checkpoint: Written at every look at validation and, where it is there already, taken up:
            a killed training goes on exactly where that look was.
        on_look: Told each look's figures.

    Returns:
        One entry a look: step, train_loss, valid_logloss, valid_auc.

    Raises:
        DataError: If the model diverges.
    """
    seed_everything(seed)
    size = min(config.batch_size, len(train))
    per_epoch = len(train) // size
    state = Fit(model, config, per_epoch)
    if checkpoint and checkpoint.exists():
        state.load(checkpoint)
    looks = {round(per_epoch * (i + 1) / config.evals_per_epoch) for i in range(config.evals_per_epoch)} - {0}
    autocast = bf16(config.precision)
    stop = state.bad_looks >= config.patience
    with _bar() as bar:
        task = bar.add_task("train", total=state.total, completed=state.step, note="")
        while state.step < state.total and not stop:
            epoch, done = divmod(state.step, per_epoch)
            if epoch and not done and config.fresh_tables:
                state.embedding.reset_tables()
            model.train()
            losses: list[float] = []
            for batch in train.shuffled(size, [seed, epoch], skip=done):
                losses.append(state.learn(batch, autocast))
                speed = (bar.tasks[task].speed or 0) * size
                bar.update(task, completed=state.step, note=f"{speed:,.0f} rows/s, best logloss {state.best:.5f}")
                if (state.step - 1) % per_epoch + 1 in looks:
                    stop = state.look(valid, float(np.mean(losses)))
                    bar.update(task, note=f"{speed:,.0f} rows/s, best logloss {state.best:.5f}")
                    losses.clear()
                    model.train()
                    if on_look:
                        on_look(state.history[-1])
                    if checkpoint:
                        state.save(checkpoint)
                if stop:
                    break
    state.restore(state.best_state)
    model.eval()
    return state.history

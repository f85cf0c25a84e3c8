"""Train until validation stops falling, and predict.

B rows of a batch.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from recsys.data.split import Split
from recsys.errors import DataError
from recsys.evaluation.metrics import auc, counting, logloss, losses, observed, sigmoid
from recsys.events import SILENT, Reporter, raise_if_cancelled
from recsys.files import whole
from recsys.frame.ctr import CTR
from recsys.frame.linear import Linear
from recsys.frame.merged import Scorer
from recsys.training.auto import LEAST_TO_CHOOSE, facts
from recsys.training.checkpoint import read_weights
from recsys.training.config import TrainConfig
from recsys.training.device import CPU, Device
from recsys.training.loop import Loss, Training, seed_everything

__all__ = ["Fit", "best_look", "best_share", "fit", "label_logits", "logits"]

RESUME_VERSION = 6  # version of resume.pt


def logits(model: Scorer, shards: Split, batch_size: int = 8192, device: Device = CPU) -> np.ndarray:
    """Score every row of a split in order, in float32, on the model's device → logit_B of the main label."""
    return label_logits(model, shards, batch_size, device)[:, 0]


@torch.no_grad()
def label_logits(model: Scorer, shards: Split, batch_size: int = 8192, device: Device = CPU) -> np.ndarray:
    """`logits` for all labels → logit_BT."""
    model.eval()
    return np.concatenate([model(device.batch(b)).numpy(force=True) for b in shards.batches(batch_size)])


class Fit:
    """A training and its looks at validation, which can both be saved and resumed."""

    def __init__(self, training: Training):
        self.training, self.model, self.config = training, training.model, training.config
        self.bad_looks, self.best, self.best_network = 0, math.inf, math.inf
        self.linear_B: np.ndarray | None = None  # of validation; the regression's logits do not change
        if self.model.linear is not None:
            self.model.linear.share.fill_(1)  # the network trains without the regression
        self.best_state: dict[str, dict[str, Tensor]] = {}
        self.history: list[dict[str, float]] = []

    def look(self, valid: Split, train_loss: float) -> bool:
        """Validate, and keep the weights if they are the best for the main label → whether patience has run out.

        With a logistic regression, a look is good if the mean of both or the network alone has a better logloss than
        ever: while the regression is far ahead, the mean says little of what the network still learns.
        """
        logit_BT = label_logits(self.model, valid, device=self.training.device)
        if not np.isfinite(logit_BT).all():
            raise DataError(f"the model diverged at step {self.training.step}: lower train.lr and train.table_lr")
        seen = {"step": self.training.step, "train_loss": train_loss}
        better, network = False, dict[str, float]()
        if self.model.linear is not None:
            alone = logloss(sigmoid(logit_BT[:, 0]), valid.label_B, valid.weight_B)
            better, self.best_network = alone < self.best_network, min(alone, self.best_network)
            logit_BT, share = self._mixed(self.model.linear, valid, logit_BT)
            network = {"network_logloss": alone, "network_share": share}
        for t, name in enumerate(self.model.schema.labels):
            label_B, weight_B, (logit_B,) = observed(valid.label_BT[:, t], valid.weight_B, logit_BT[:, t])
            which = f".{name}" if t else ""
            seen[f"valid_logloss{which}"] = logloss(sigmoid(logit_B), label_B, weight_B)
            seen[f"valid_auc{which}"] = auc(logit_B, label_B, weight_B)
        seen |= network
        self.history.append(seen)
        if seen["valid_logloss"] < self.best:
            self.best, better = seen["valid_logloss"], True
            self.best_state = self._weights()
            if "network_share" in seen:
                self.best_state["model"]["linear.share"].fill_(seen["network_share"])
        self.bad_looks = 0 if better else self.bad_looks + 1
        return self.bad_looks >= self.config.patience

    def _mixed(self, linear: Linear, valid: Split, network_BT: np.ndarray) -> tuple[np.ndarray, float]:
        """The mean of network and regression logits with the best validation logloss, and the network's share.

        The share is ½ if validation has too few rows to choose it by.
        """
        if self.linear_B is None:
            linear.share.fill_(0)
            self.linear_B = logits(self.model, valid, device=self.training.device)
            linear.share.fill_(1)
        share = 0.5
        if facts(valid).scarce >= LEAST_TO_CHOOSE:
            share = best_share(network_BT[:, 0], self.linear_B, valid.label_B, valid.weight_B)
        return (share * network_BT[:, 0] + (1 - share) * self.linear_B)[:, None], share

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """A copy of the weights and of the tables' optimiser state."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer_state": self.training.embedding.optimizer_state(),
        }

    def restore(self, weights: dict[str, dict[str, Tensor]]) -> None:
        """Restore the output of `_weights`."""
        self.model.load_state_dict(weights["model"])
        self.training.embedding.load_optimizer_state(weights["optimizer_state"])

    def save(self, path: Path) -> None:
        """Save everything that the next step depends on; the file appears whole or not at all."""
        state = {
            "version": RESUME_VERSION,
            "model": self.model.state_dict(),
            "optimizer_state": self.training.embedding.optimizer_state(),
            "optimizers": [o.state_dict() for o in self.training.optimizers],
            "rng": self.training.device.random_states(),
            "counters": (self.training.step, self.bad_looks, self.best, self.best_network),
            "best_state": self.best_state,
            "history": self.history,
        }
        with whole(path, "wb") as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Resume from a file of `save`.

        Raises:
            DataError: If it is damaged or of another version.
        """
        state = read_weights(path, "remove it to train from the start", RESUME_VERSION)
        self.restore(state)
        for optimizer, held in zip(self.training.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        self.training.device.set_random_states(state["rng"])
        self.training.step, self.bad_looks, self.best, self.best_network = state["counters"]
        self.best_state, self.history = state["best_state"], state["history"]


def best_share(a_B: np.ndarray, b_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None) -> float:
    """The s in [0, 1] with the lowest logloss of the logits s·a + (1 − s)·b; it is convex in s.

    The labels are those of Platt (Probabilistic Outputs for Support Vector Machines, 1999, section 2.2), with P rows of
    label 1 and N of label 0: (P + 1) / (P + 2) and 1 / (N + 2). So few rows that a model separates prove little.
    """
    weight, (a_B, b_B, label_B) = counting(weight_B, a_B, b_B, label_B)
    weight_B = np.ones(len(label_B)) if weight is None else weight / weight.mean()
    ones, zeros = float(weight_B @ label_B), float(weight_B @ (1 - label_B))
    target_B = np.where(label_B > 0.5, (ones + 1) / (ones + 2), 1 / (zeros + 2))

    def loss(s: float) -> float:
        p_B = sigmoid(s * a_B.astype(np.float64) + (1 - s) * b_B)
        return float(np.average(losses(p_B, target_B), weights=weight_B))

    inside = float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x)
    return min((0.0, inside, 1.0), key=loss)


def best_look(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The look with the lowest validation logloss, the first of equal ones; `fit` keeps its weights."""
    return min(history, key=lambda h: h["valid_logloss"])


def fit(
    model: CTR,
    train: Split,
    valid: Split,
    config: TrainConfig,
    seed: int,
    checkpoint: Path | None = None,
    on_look: Callable[[dict[str, float]], None] | None = None,
    device: Device | None = None,
    reporter: Reporter = SILENT,
    loss: Loss | None = None,
) -> list[dict[str, float]]:
    """Train until validation logloss stops falling; the model gets the best weights and their optimiser state.

    Args:
        model: Changed in place.
        train: Training rows.
        valid: Rows that decide when to stop.
        config: Training settings.
        seed: Fixes the order of rows and the dropout.
        checkpoint: File that is written at every look at validation; if it exists, a killed training
            resumes exactly from it.
        on_look: Called with each look's figures.
        device: Where the model is; None is the CPU in `config.precision`.
        reporter: Receives how many rows of all epochs are done, and each look's figures once `checkpoint` has them.
        loss: Loss that a step lowers; looks use the labels in any case.

    Returns:
        One entry for each look: step, train_loss, valid_logloss, valid_auc; for other labels valid_logloss.NAME …
        With a logistic regression also network_share, and network_logloss of the network alone on validation; the
        other figures are then those of the mean of both.

    Raises:
        Cancelled: If the reporter says so; `checkpoint` then holds the last look.
        DataError: If the model diverges.
    """
    seed_everything(seed)
    size = min(config.batch_size, len(train))
    per_epoch = len(train) // size
    training = Training(model, config, per_epoch, device=device, loss=loss)
    state = Fit(training)
    if checkpoint and checkpoint.exists():
        state.load(checkpoint)
    looks = {round(per_epoch * (i + 1) / config.evals_per_epoch) for i in range(config.evals_per_epoch)} - {0}
    losses: list[float] = []
    for step in training.steps(train, seed, 0 if state.bad_looks >= config.patience else None):
        losses.append(step.loss)
        at_look = (step.number - 1) % per_epoch + 1 in looks
        stop = at_look and state.look(valid, float(np.mean(losses)))
        reporter.progress(step.number * size, training.total * size, "rows")
        if at_look:
            losses.clear()
            seen = state.history[-1]
            if on_look:
                on_look(seen)
            if checkpoint:
                state.save(checkpoint)
            reporter.metrics({k: v for k, v in seen.items() if k != "step"}, step.number)
        if stop:
            reporter.progress(step.number * size, step.number * size, "rows")
            break
        raise_if_cancelled(reporter)
    state.restore(state.best_state)
    model.eval()
    return state.history

"""Train until validation stops falling, and predict.

B rows of a batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.data.ranks import Ranks
from recsys.data.split import Split
from recsys.errors import Cancelled
from recsys.evaluation.metrics import auc, counting, logloss, losses, observed, sigmoid
from recsys.events import SILENT, Reporter
from recsys.frame.ctr import CTR
from recsys.frame.linear import Linear
from recsys.frame.merged import Scorer
from recsys.training.auto import LEAST_TO_CHOOSE, facts
from recsys.training.config import TrainConfig
from recsys.training.device import CPU, Device
from recsys.training.guards import explained_look
from recsys.training.ids import check_ids
from recsys.training.loop import Loss, Training, seed_everything
from recsys.training.resumable import Resumable
from recsys.training.saving import Snapshot
from recsys.training.stalls import watch_stalls
from recsys.training.state import dense_state, held_rows, load_weights

__all__ = ["Fit", "best_look", "best_share", "fit", "label_logits", "logits"]


def logits(model: Scorer, shards: Split, batch_size: int = 8192, device: Device = CPU) -> np.ndarray:
    """Score every row of a split in order, in float32, on the model's device → logit_B of the main label."""
    return label_logits(model, shards, batch_size, device)[:, 0]


@torch.no_grad()
def label_logits(model: Scorer, shards: Split, batch_size: int = 8192, device: Device = CPU) -> np.ndarray:
    """`logits` for all labels → logit_BT."""
    model.eval()
    ranks = Ranks.current()
    mine = [model(device.batch(b)).numpy(force=True) for b in shards.batches(batch_size, ranks)]
    parts = [iter(of_rank) for of_rank in ranks.gather(mine)]  # each batch is the shares of all ranks, in order
    return np.concatenate([next(of_rank) for _ in mine for of_rank in parts])


class Fit:
    """A training and its looks at validation, which can both be saved and resumed.

    Args:
        training: The training.
        saved: The same with its checkpoints; without it the best weights are kept in memory.
    """

    def __init__(self, training: Training, saved: Resumable | None = None):
        self.training, self.model, self.config, self.saved = training, training.model, training.config, saved
        self.bad_looks, self.best, self.best_network, self.best_step = 0, math.inf, math.inf, 0
        self.linear_B: np.ndarray | None = None  # of validation; the regression's logits do not change
        if self.model.linear is not None:
            self.model.linear.share.fill_(1)  # the network trains without the regression
        self.best_weights: Snapshot | None = None  # in memory
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []  # of the steps since the last look

    def look(self, valid: Split, train_loss: float) -> bool:
        """Validate, and keep the weights if they are the best for the main label → whether patience has run out.

        With a logistic regression, a look is good if the mean of both or the network alone has a better logloss than
        ever: while the regression is far ahead, the mean says little of what the network still learns.
        """
        self.training.part = "a look at validation"
        logit_BT = label_logits(self.model, valid, device=self.training.device)
        if not np.isfinite(logit_BT).all():
            raise explained_look(self.model, self.training.step, valid, logit_BT, self.training.device)
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
        seen |= network | self.training.figures  # last: a narrow terminal cuts them off first
        self.history.append(seen)
        if seen["valid_logloss"] < self.best:
            self.best, self.best_step, better = seen["valid_logloss"], self.training.step, True
            if self.saved is None:
                self.best_weights = self._weights().copy()
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

    def _weights(self) -> Snapshot:
        """The weights and the tables' optimiser state."""
        return Snapshot.of(held_rows(self.model), {"model": dense_state(self.model)})

    def take_best(self) -> None:
        """Let the model have the best weights, their optimiser state, and the network's share at that look."""
        if self.best_step != self.training.step:
            if self.saved:
                source = self.saved.folder(self.best_step)
                load_weights(self.model, source, source.rest())
            elif self.best_weights:
                self._weights().fill(self.best_weights)
        if self.model.linear is not None:
            self.model.linear.share.fill_(next(h for h in self.history if h["step"] == self.best_step)["network_share"])

    def save(self) -> None:
        """Begin to save the training and its looks; `Checkpoints.save` says what it raises."""
        if self.saved is None:
            return
        looks = {"bad_looks": self.bad_looks, "best": self.best, "best_network": self.best_network}
        looks |= {"best_step": self.best_step, "history": self.history}
        self.saved.save({**looks, "losses": torch.tensor(self.losses, dtype=torch.float64)}, self.best_step)

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one; `Resumable.resume` says what it raises."""
        if self.saved:
            self.saved.resume(self._take)

    def _take(self, rest: Mapping[str, Any]) -> None:
        self.best_step, self.history, self.losses = rest["best_step"], rest["history"], rest["losses"].tolist()
        self.bad_looks, self.best, self.best_network = (rest[k] for k in ("bad_looks", "best", "best_network"))


def best_share(a_B: np.ndarray, b_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None) -> float:
    """The s in [0, 1] with the lowest logloss of the logits s·a + (1 − s)·b; it is convex in s.

    The labels are those of Platt (Probabilistic Outputs for Support Vector Machines, 1999, section 2.2), with P rows of
    label 1 and N of label 0: (P + 1) / (P + 2) and 1 / (N + 2). So few rows that a model separates prove little.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

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
        checkpoint: Folder of checkpoints, which are written at every look at validation, and every
            `config.checkpoint_steps`; if one is there, a killed training resumes exactly from it.
        on_look: Called with each look's figures.
        device: Where the model is; None is the CPU in `config.precision`.
        reporter: Receives how many rows of all epochs are done, and each look's figures. A training that is killed
            before their checkpoint is on the disk tells them again.
        loss: Loss that a step lowers; looks use the labels in any case.

    Returns:
        One entry for each look: step, train_loss, valid_logloss, valid_auc; figures of `Move` for the step before it;
        for other labels valid_logloss.NAME … With a logistic regression also network_share, and network_logloss of the
        network alone on validation; the other figures are then those of the mean of both.

    Raises:
        Cancelled: If the reporter says so; `checkpoint` then holds the last step.
        DataError: If the model diverges, with the batch saved beside `checkpoint`; if ids are out of range; if a
            checkpoint is damaged.
        ConfigError: If a table is split by columns, or a row is saved by no process or by two.
        OSError: If a checkpoint cannot be written.
    """
    check_ids(train, "train")
    check_ids(valid, "valid")
    seed_everything(seed)
    size = min(config.batch_size, len(train))
    training = Training(model, config, len(train) // size, device=device, loss=loss)
    checkpoint = Ranks.current().broadcast(checkpoint)  # the place of rank 0 is that of all
    training.folder = checkpoint and checkpoint.parent
    with Resumable.opened(training, checkpoint, seed, len(train)) as saved:
        return _fit(Fit(training, saved), train, valid, seed, on_look, reporter)


def _fit(
    state: Fit,
    train: Split,
    valid: Split,
    seed: int,
    on_look: Callable[[dict[str, float]], None] | None,
    reporter: Reporter,
) -> list[dict[str, float]]:
    training, config = state.training, state.config
    size, per_epoch = min(config.batch_size, len(train)), training.steps_per_epoch
    state.resume()
    training.looks, cancelled = config.looks(per_epoch), False
    steps = training.steps(train, seed, 0 if state.bad_looks >= config.patience else None)
    for step in watch_stalls(steps, training, config.stall_seconds, reporter.note):
        state.losses.append(step.loss)
        at_look = (step.number - 1) % per_epoch + 1 in training.looks
        stop = at_look and state.look(valid, float(np.mean(state.losses)))
        reporter.progress(step.number * size, training.total * size, "rows")
        if at_look:
            state.losses.clear()
            seen = state.history[-1]
            if on_look:
                on_look(seen)
        if config.saves(step.number, per_epoch):
            state.save()
        if at_look:
            reporter.metrics({k: v for k, v in state.history[-1].items() if k != "step"}, step.number)
        if stop:
            reporter.progress(step.number * size, step.number * size, "rows")
            break
        if cancelled := reporter.cancelled():
            if not config.saves(step.number, per_epoch):
                state.save()
            break
    if state.saved:
        state.saved.checkpoints.wait()
    if cancelled:
        raise Cancelled("the run was asked to stop")
    state.take_best()
    state.model.eval()
    return state.history

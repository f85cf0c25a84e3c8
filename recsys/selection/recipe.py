"""How the model came to be, so that a selector can train another one; and how gates train with it.

B rows, W the joined width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.models.ctr import CTR
from recsys.progress import progress
from recsys.schema import Schema
from recsys.selection.gates import Gates
from recsys.train import TrainConfig, bf16, seed_everything

__all__ = ["Recipe", "Step", "batches_forever", "gate_loss", "gate_rate", "train_gated"]


@dataclass(frozen=True)
class Recipe:
    """How a model is built and trained.

    Args:
        build: Schema → a fresh model.
        how: Settings of its training.
    """

    build: Callable[[Schema], CTR]
    how: TrainConfig


@dataclass(frozen=True)
class Step:
    """Where a training is.

    Args:
        number: From 1.
        total: Of all steps.
        loss: Of this step's rows.
    """

    number: int
    total: int
    loss: float


def batches_forever(shards: Shards, size: int, seed: int) -> Iterator[Batch]:
    """Random batches, epoch after epoch."""
    epoch = 0
    while True:
        yield from shards.shuffled(size, [seed, epoch, 7])
        epoch += 1


def gate_loss(model: CTR, gate: nn.Module, batch: Batch, precision: str) -> Tensor:
    """BCE(y, head(gate(x))), with x looked up without gradient: a loss of the gates alone.

    The head runs in the precision of training, its input too: where the processor multiplies bf16
    that is several times as fast. Σ w·l / Σ w if rows have sample weights; LeAP's gates then replace
    rows by others as often as these weigh.
    """
    weight_B = batch.weight_B
    with torch.no_grad():
        x_BW = model.features(batch)
    half, mixed_BW = bf16(precision), gate(x_BW, weight_B) if isinstance(gate, Gates) else gate(x_BW)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logit_B = model.head(mixed_BW.bfloat16() if half else mixed_BW)
    if weight_B is None:
        return nn.functional.binary_cross_entropy_with_logits(logit_B.float(), batch.label_B)
    loss_B = nn.functional.binary_cross_entropy_with_logits(logit_B.float(), batch.label_B, reduction="none")
    return (weight_B * loss_B).sum() / weight_B.sum().clamp(min=1e-12)


def _by_size(model: CTR, decay: float) -> list[dict[str, object]]:
    dense = [p for n, p in model.named_parameters() if not n.startswith("embedding.bags.")]
    return [
        {"params": [p for p in dense if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
    ]


def train_gated(
    model: CTR,
    forward: Callable[[Batch], tuple[Tensor, Tensor]],
    train: Shards,
    how: TrainConfig,
    seed: int,
    epochs: int,
    gates: nn.Module | None = None,
    reach: float = 3.0,
) -> Iterator[Step]:
    """Train a model whose forward pass holds gates; yield after each step.

    Dense parameters and tables learn as in `recsys.train.fit`, without its looks at validation.

    Args:
        model: Changed in place.
        forward: Batch → (logit_B, penalty): the model with its gates, and what they cost.
        train: Training rows.
        how: Rates, batch size, warm-up.
        seed: Fixes the order of rows and the dropout.
        epochs: At least 1.
        gates: Learned in the same step by Adam; None are not.
        reach: How far Adam can move a gate's parameter in all. Where the whole way is short, gates
            close before the model has learned what they hide.

    Raises:
        ConfigError: If there is no epoch.
    """
    if epochs < 1:
        raise ConfigError(f"selection.epochs must be at least 1, got {epochs}: raise it")
    seed_everything(seed)
    size = min(how.batch_size, len(train))
    total, number = epochs * (len(train) // size), 0
    adam = torch.optim.AdamW(_by_size(model, how.weight_decay), lr=how.lr)
    gate_adam = torch.optim.Adam(gates.parameters(), lr=gate_rate(total, reach)) if gates else None
    with progress(refresh_per_second=2) as bar:
        task = bar.add_task("train with gates", total=total)
        for epoch in range(epochs):
            for batch in train.shuffled(size, [seed, epoch]):
                model.train()
                share = min(1.0, (number + 1) / max(1, how.warmup_steps))
                for group in adam.param_groups:
                    group["lr"] = how.lr * share
                model.embedding.set_learning_rate(how.table_lr * share)  # type: ignore[operator]
                logit_B, penalty = forward(batch)
                loss = nn.functional.binary_cross_entropy_with_logits(logit_B.float(), batch.label_B)
                adam.zero_grad()
                if gate_adam:
                    gate_adam.zero_grad()
                (loss + penalty).backward()
                adam.step()
                if gate_adam:
                    gate_adam.step()
                number += 1
                bar.advance(task)
                yield Step(number, total, float(loss.detach()))
    model.eval()


def gate_rate(steps: int, reach: float) -> float:
    """Adam's rate with which a parameter can move by `reach` at most in all the steps."""
    return reach / max(steps, 1)

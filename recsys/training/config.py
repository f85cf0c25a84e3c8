"""Training settings and their ranges. No torch is imported, so that they are checked before a run starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from recsys.config.factory import check_value
from recsys.config.ranges import Count, Few, LearningRate, Many, Positive, Share, Steps, Weight

__all__ = ["TrainConfig"]


@dataclass(frozen=True)
class TrainConfig:
    """Training settings: the `train` group of the configuration.

    Args:
        batch_size: Rows a step.
        max_epochs: Most passes over the training rows.
        lr: Learning rate of dense parameters.
        table_lr: Learning rate of tables.
        weight_decay: Decoupled decay of dense matrices.
        table_l2: λ of ½·λ·mean over rows, by sample weight, of Σ looked-up numbers². Thereby a table row
            decays each time a row of weight above 0 reads it. It works on every device; FBGEMM's fused
            weight decay is ignored on CPU.
        embedding_dropout: Share of looked-up numbers that are zeroed.
        fresh_tables: Whether every epoch except the first starts with new tables and the trained dense
            part, so that the one-epoch overfitting of tables does not limit the dense part (Fan et al.,
            Multi-Epoch Learning with Data Augmentation for Deep CTR Prediction, 2024).
        warmup_steps: Steps over which both rates rise linearly from 0.
        decay: `none`, or `linear`: both rates fall to 0 at the end of `max_epochs`.
        evals_per_epoch: Looks at validation in an epoch, equally spaced.
        patience: Looks without a better validation logloss, of the model or of its network alone, before training
            stops.
        linear: Whether a logistic regression is fitted first, and the logit is its weighted mean with the network's.
            The weight is chosen on validation at every look. It needs a single label.
        keep_checkpoints: Checkpoints of a training that are kept beside the best one, the newest ones.
        checkpoint_steps: Steps from one checkpoint to the next, beside those at looks at validation; 0: at looks alone.
        stall_seconds: Seconds in one part of one step after which a note tells what the training waits for.
        precision: `auto` (bf16 if the processor multiplies it), `fp32` or `bf16`.
        optimizer: Optimiser of dense parameters: an option of the group `optimizer`.

    Raises:
        ConfigError: If a value is out of range.
    """

    batch_size: Count = 1024
    max_epochs: Many = 3
    lr: LearningRate = 1e-3
    table_lr: LearningRate = 1e-2
    weight_decay: Weight = 0.0
    table_l2: Weight = 0.0
    embedding_dropout: Share = 0.0
    fresh_tables: bool = False
    warmup_steps: Steps = 100
    decay: Literal["none", "linear"] = "none"
    evals_per_epoch: Few = 4
    patience: Many = 3
    linear: bool = False
    keep_checkpoints: Few = 1
    checkpoint_steps: Steps = 0
    stall_seconds: Positive = 600.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"_target_": "recsys.training.optimizers.adamw.adamw"})

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(TrainConfig, include_extras=True).items():
            check_value(getattr(self, name), hint, f"train.{name}")

    def looks(self, steps_per_epoch: int) -> frozenset[int]:
        """The steps of an epoch, from 1, after which there is a look at validation."""
        spaced = (round(steps_per_epoch * (i + 1) / self.evals_per_epoch) for i in range(self.evals_per_epoch))
        return frozenset(spaced) - {0}

    def saves(self, step: int, steps_per_epoch: int) -> bool:
        """Whether there is a checkpoint after a step, counted from 1 over all epochs."""
        regular = self.checkpoint_steps and step % self.checkpoint_steps == 0
        return bool(regular) or (step - 1) % steps_per_epoch + 1 in self.looks(steps_per_epoch)

"""How to train: the settings and their ranges. Imports no torch, so that they are checked before a run starts."""

import math
from dataclasses import dataclass
from typing import Any

from recsys.errors import ConfigError

__all__ = ["TrainConfig"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the `train` group of the configuration.

    Args:
        batch_size: Rows a step.
        max_epochs: Passes over the training rows at most.
        lr: Adam's rate for dense parameters.
        table_lr: Row-wise Adagrad's rate for tables.
        weight_decay: Decoupled decay of dense matrices (AdamW).
        table_l2: λ of ½·λ·mean over rows of Σ looked-up numbers², weighted as the rows are, so that a table
            row decays as often as rows that count read it (FBGEMM's fused weight decay is ignored on
            CPU; this acts everywhere).
        embedding_dropout: Share of looked-up numbers zeroed.
        fresh_tables: Every epoch but the first starts with new tables under the trained dense part,
            so that the one-epoch overfitting of tables does not limit the dense part (Fan et al.,
            Multi-Epoch Learning with Data Augmentation for Deep CTR Prediction, 2024).
        warmup_steps: Steps over which both rates rise linearly from 0.
        decay: `none`, or `linear`: both rates fall to 0 at the end of `max_epochs`.
        evals_per_epoch: Looks at validation in an epoch, at equal distances.
        patience: Looks without a better validation logloss before stopping.
        precision: `auto` (bf16 where the processor multiplies it), `fp32` or `bf16`.

    Raises:
        ConfigError: If a value is out of range.
    """

    batch_size: int = 1024
    max_epochs: int = 3
    lr: float = 1e-3
    table_lr: float = 1e-2
    weight_decay: float = 0.0
    table_l2: float = 0.0
    embedding_dropout: float = 0.0
    fresh_tables: bool = False
    warmup_steps: int = 100
    decay: str = "none"
    evals_per_epoch: int = 4
    patience: int = 3
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "evals_per_epoch", "patience", "warmup_steps"):
            count, least = getattr(self, name), int(name != "warmup_steps")
            if not isinstance(count, int) or count < least:
                raise ConfigError(f"train.{name} must be a whole number of at least {least}, got {count!r}: give one")
        for name in ("lr", "table_lr", "weight_decay", "table_l2"):
            rate, wanted = getattr(self, name), "above 0" if name.endswith("lr") else "of at least 0"
            if not isinstance(rate, int | float) or not 0 <= rate < math.inf or (rate == 0 and name.endswith("lr")):
                raise ConfigError(f"train.{name} must be a number {wanted}, got {rate!r}: give one")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"train.precision: expected auto, fp32 or bf16, got {self.precision!r}: choose one")
        if self.decay not in ("none", "linear"):
            raise ConfigError(f"train.decay: expected none or linear, got {self.decay!r}: choose one of them")
        share: Any = self.embedding_dropout
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(f"train.embedding_dropout: expected [0, 1), got {share!r}: 0 switches it off")

"""The recipe: settings from the data, so that an untuned run is not worse than logistic regression.

Each constant was chosen on four tables (ML-100k by time, telephone churn, hotel stays, caravan
insurance) and on what docs/log.md found on re-buy; docs/recipe.md has the rule in words and the
tables that it was judged on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recsys.config.factory import allowed
from recsys.config.options import present_name
from recsys.config.signature import parameters
from recsys.errors import ConfigError
from recsys.files import Json

if TYPE_CHECKING:  # without torch, since settings are checked before a run starts
    from recsys.data.split import Split

__all__ = ["AUTO", "LEAST_TO_CHOOSE", "Facts", "facts", "of_student", "recipe", "resolve"]

AUTO = "auto"
LEAST_TO_CHOOSE = 20  # validation rows of the rarer label; with fewer, they choose the end of training alone
_GROUPS = ("train", "embedding", "model")
_RATED = tuple(f"recsys.embeddings.optimizers.{name}.{name}" for name in ("rowwise_adagrad", "adagrad"))
"""The table optimisers for which the recipe has a learning rate."""


@dataclass(frozen=True)
class Facts:
    """The facts of the data that the recipe uses.

    Args:
        rows: Count of training rows, ≥ 1.
        positives: Count of training rows with label 1.
        cardinalities: Count of ids of each looked-up field.
        numbers: Floats a row.
        labels: Count of labels that are predicted.
    """

    rows: int
    positives: int
    cardinalities: tuple[int, ...]
    numbers: int
    labels: int = 1

    @property
    def scarce(self) -> int:
        """Count of rows of the rarer label, at least 1: they limit what can be learned."""
        return max(1, min(self.positives, self.rows - self.positives))


def facts(train: "Split") -> Facts:
    """The facts of a split for the fields of its schema; rows of weight 0 do not count."""
    schema, label_B = train.schema, train.label_B
    if train.weight_B is not None:
        label_B = label_B[train.weight_B > 0]
    cardinalities = tuple(f.cardinality for f in schema.sparse)
    numbers = sum(f.max_length for f in schema.numeric)
    return Facts(len(label_B), int(label_B.sum(dtype="float64")), cardinalities, numbers, len(schema.labels))


def _within(low: float, x: float, high: float) -> float:
    return min(high, max(low, x))


def recipe(data: Facts) -> dict[str, dict[str, int | float | bool]]:
    """Settings of the groups `train`, `embedding` and `model`.

    With n rows, m rows of the rarer label and w ids in the widest field:
    batch ≈ 2√n (a power of 2); table rate .02·(batch/128)^⅓; embedding width 4, doubled for each
    tenfold m above 50,000; embedding dropout .2 + .15·lg(w/100); decay min(1, 1000/m); about 4,000
    steps; patience of at least 150 steps and of more than an epoch's looks.

    Args:
        data: The facts of the training rows.

    Returns:
        Group → key → value, in the ranges that TrainConfig and the modules take.
    """
    widest = max(data.cardinalities, default=1)
    batch = int(_within(32, 2 ** round(math.log2(2 * math.sqrt(data.rows))), 8192))
    steps = max(1, data.rows // batch)
    looks = int(_within(1, steps // 25, 4))
    fresh = steps >= 200 and data.rows < 50 * widest
    dropout = 0.3 if data.scarce < 10_000 else 0.4
    return {
        "train": {
            "batch_size": batch,
            "max_epochs": 4 if fresh else int(_within(4, math.ceil(4000 / steps), 100)),
            "lr": round(1e-3 * math.sqrt(max(1.0, batch / 1024)), 6),
            "table_lr": round(0.02 * (batch / 128) ** (1 / 3), 4),
            "weight_decay": round(min(1.0, 1000 / data.scarce), 6),
            "embedding_dropout": round(_within(0.2, 0.2 + 0.15 * math.log10(max(1, widest) / 100), 0.5), 3),
            "fresh_tables": fresh,
            "warmup_steps": int(_within(5, steps // 4, 50)),
            "evals_per_epoch": looks,
            "linear": data.labels == 1,
            "patience": int(_within(looks + 1, math.ceil(150 * looks / steps), 20)),
        },
        "embedding": {"dim": int(_within(4, 4 * 2 ** round(math.log10(data.scarce / 50_000)), 32))},
        "model": {"dropout": dropout},
    }


def of_student(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the student's model and embedding instead of the teacher's, for `resolve`."""
    return {**config, **{group: config["distill"][group] for group in ("model", "embedding")}}


def resolve(config: Mapping[str, Any], data: Facts) -> dict[str, Json]:
    """The groups `train`, `embedding` and `model` with the recipe's value for every `auto` that it sets.

    `train` includes the option of the group `optimizer`, so that it has all settings of TrainConfig.

    Args:
        config: A run's configuration.
        data: The facts of the training rows.

    Returns:
        Group → settings. A `model.dropout` of `auto` is left out if the model has no dropout.

    Raises:
        ConfigError: If a setting is `auto` that neither the recipe nor the training sets, such as the
            rate of tables whose optimiser the recipe does not know.
    """
    chosen, resolved = recipe(data), {g: dict(config[g]) for g in _GROUPS}
    tables = config["table_optimizer"].get("_target_")
    if resolved["train"].get("table_lr") == AUTO and isinstance(tables, str) and present_name(tables) not in _RATED:
        raise ConfigError(
            f"train.table_lr: auto is for table_optimizer=rowwise_adagrad and adagrad, got auto for {tables}: give a "
            "value (sgd needs a far higher one than they do)"
        )
    if resolved["model"].get("dropout") == AUTO and not _has_dropout(resolved["model"].get("_target_")):
        del resolved["model"]["dropout"]
    for group, settings in resolved.items():
        for key, value in settings.items():
            if value == AUTO and key in chosen[group]:
                settings[key] = chosen[group][key]
            elif value == AUTO and (group, key) != ("train", "precision"):  # precision=auto is resolved later
                raise ConfigError(f"{group}.{key}: the recipe sets {', '.join(chosen[group])}, got auto: give a value")
    resolved["train"]["optimizer"] = config["optimizer"]
    return resolved


def _has_dropout(target: Any) -> bool:
    """Whether a model takes `dropout`; true for an unknown model, so that building it reports the mistake."""
    taken = parameters(target) if allowed(target) else None
    return taken is None or "dropout" in taken

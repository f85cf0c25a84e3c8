"""Stages train and retrain: a model on all fields, then one on the fields that selection kept."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipelines.stage import CHECKPOINTS, Result, Stage, write_json
from recsys.config.factory import make_dataclass
from recsys.data.joined import Joined
from recsys.data.shards import Shards
from recsys.evaluation.metrics import logloss
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.frame.linear import linear_fields
from recsys.results import read_made
from recsys.selection.reports.find import kept
from recsys.terminal import console
from recsys.training import checkpoint
from recsys.training.auto import LEAST_TO_CHOOSE, facts, resolve
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.fit import best_look, fit
from recsys.training.loop import Loss, seed_everything
from recsys.training.state import count_numbers

MOST_LINEAR = 500_000  # training rows that the logistic regression beside a network is fitted on
_STRENGTH = 1.0  # its C if validation has too few rows to choose one

__all__ = ["fit_regression", "run", "run_again", "train_model"]


def train_model(stage: Stage, schema: Schema, loss: Loss | None = None) -> Result:
    """Train `config.model` over `config.embedding` on some fields, and leave it in the stage's folder.

    Args:
        stage: Gives the configuration, and the folder, which holds checkpoints if training was killed.
        schema: The fields.
        loss: What a step of training lowers; None is the head's loss.
    """
    train, valid = Shards(stage.data, "train", schema), Shards(stage.data, "valid", schema)
    seen = facts(train)
    chosen = resolve(stage.config.to_json(), seen)
    recorded = write_json(stage.folder / "recipe.json", {"facts": asdict(seen), **chosen})
    config = make_dataclass(TrainConfig, chosen["train"], "train")
    spec: checkpoint.Spec = {
        "model": chosen["model"],
        "embedding": chosen["embedding"],
        "sequence": stage.config.sequence,
        "head": stage.config.head,
        "table_optimizer": stage.config.table_optimizer,
        "embedding_dropout": config.embedding_dropout,
        "linear": config.linear,
        "seed": stage.config.seed,
    }
    device = Device.choose(stage.config.device, config.precision)
    seed_everything(spec["seed"])
    model = checkpoint.build(schema, spec, device)
    resume = stage.folder / CHECKPOINTS
    regression = fit_regression(model, stage.data, spec["seed"], _strength(valid)) if config.linear else {}
    history = fit(model, train, valid, config, spec["seed"], resume, device=device, reporter=stage.reporter, loss=loss)
    checkpoint.save(stage.folder, model, spec)
    write_json(stage.folder / "history.json", history)
    best = best_look(history)
    _warn_if_no_better_than_constant(train, valid, best["valid_logloss"], stage)
    metrics = {
        "valid_logloss": best["valid_logloss"],
        "valid_auc": best["valid_auc"],
        "best_step": best["step"],
        "fields": len(schema.fields),
        "table_bytes": 4 * count_numbers(model, "embedding."),
        "dense_parameters": sum(p.numel() for p in model.dense_named().values()),
        "threads": torch.get_num_threads(),
        **regression,
    }
    settings = {f"{group}.{k}": str(v) for group, values in chosen.items() for k, v in values.items()}
    settings["device"] = device.reason
    return Result(
        metrics, history, [recorded, *(stage.folder / f"{n}.json" for n in ("model", "history"))], params=settings
    )


def _warn_if_no_better_than_constant(train: Shards, valid: Shards, best: float, stage: Stage) -> None:
    """Note a training that never beat the validation logloss of always saying the label rate of training."""
    if len(valid.schema.labels) > 1:
        return
    rate = float(np.average(train.label_B, weights=train.weight_B))  # valid's own would blame a rate that has moved
    constant = logloss(np.full(len(valid), rate), valid.label_B, valid.weight_B)
    if best > constant:
        stage.reporter.note(
            f"look at: the best look has a validation logloss of {best:.4g}, and always saying the label rate "
            f"{constant:.4f}: this training has learned nothing, or diverged; lower train.lr and train.table_lr"
        )


def _strength(valid: Shards) -> float | None:
    """None if validation has enough rows to choose C by; else a C, and what that means is printed."""
    if facts(valid).scarce >= LEAST_TO_CHOOSE:
        return None
    console().print(
        f"look at: validation has fewer than {LEAST_TO_CHOOSE} rows of its rarer label, too few to choose by: the "
        f"regression beside the network gets C = {_STRENGTH:g} and half of the logit; give validation more rows",
        soft_wrap=True,
    )
    return _STRENGTH


def fit_regression(
    model: CTR, data: Path, seed: int, strength: float | None = None, refit: bool = False
) -> dict[str, float]:
    """Fit the logistic regression beside the network of a fresh model → metrics of the fit.

    Args:
        model: Built with `linear`.
        data: The prepared data set.
        seed: Seed of the sample of rows that it is fitted on.
        strength: Its C; if None, validation chooses one.
        refit: Whether it is fitted on validation rows too; then it needs `strength`.
    """
    from recsys.baselines.linear import linear_weights  # scikit-learn and SciPy take a second to import

    names = [*linear_fields(model.schema), *(f.name for f in model.schema.numeric)]
    if not names:
        return {}
    started = time.perf_counter()
    train, valid = (Shards(data, split, model.schema.subset(names)) for split in ("train", "valid"))
    rows = Joined(train, valid) if refit else train
    fitted = linear_weights(rows, valid if strength is None else strength, MOST_LINEAR, seed)
    model.set_linear(fitted.ids, fitted.numbers_N, fitted.bias)
    return {"linear_C": fitted.settings["C"], "linear_seconds": time.perf_counter() - started}


@dataclass(frozen=True)
class Selection:
    """selection.json of stage select."""

    keep: list[str]


def run(stage: Stage) -> Result:
    """Train `config.model` over `config.embedding` on every field, or on those that `select.apply` keeps."""
    schema, apply = Schema.load(stage.data / "schema.json"), stage.config.select.apply
    if apply is None:
        return train_model(stage, schema)
    names = kept(apply, Path(stage.config.runs), schema.names)
    chosen = write_json(stage.folder / "selection.json", {"keep": names})
    result = train_model(stage, schema.subset(names))
    return replace(result, artifacts=[*result.artifacts, chosen])


def run_again(stage: Stage) -> Result:
    """Train from scratch on the fields that stage select kept."""
    kept = read_made(stage.earlier("select"), "selection.json", "a selection", Selection).keep
    return train_model(stage, Schema.load(stage.data / "schema.json").subset(kept))

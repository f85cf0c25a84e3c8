"""Stage refit: the newest model trained anew on training and validation rows together."""

from dataclasses import dataclass
from typing import Any

from pipelines.stage import CHECKPOINTS, Result, Stage, newest_model
from pipelines.train import fit_regression
from recsys.config.factory import make_dataclass
from recsys.data.joined import Joined
from recsys.data.shards import Shards
from recsys.results import read_made, read_stage
from recsys.terminal import console
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.fit import best_look
from recsys.training.loop import seed_everything
from recsys.training.passes import train_for

__all__ = ["run", "steps_of"]


@dataclass(frozen=True)
class _Recipe:
    """recipe.json of a training: the settings that it used."""

    train: dict[str, Any]


def steps_of(best: int, per_epoch: int, per_longer: int) -> int:
    """The step of a training with longer epochs that stands as far in its epoch as step `best` of a shorter one.

    The end of an epoch stays the end: with `train.fresh_tables` one step more would begin with new tables.
    """
    epochs, step = divmod(best - 1, per_epoch)
    return epochs * per_longer + max(1, round((step + 1) * per_longer / per_epoch))


def run(stage: Stage) -> Result:
    """Train a fresh model as the newest one was, on validation too, for as many passes as validation found best.

    There are no looks on the way: only test rows are left that the model does not see. A logistic regression beside
    the network is fitted anew too; for the same reason it keeps its C and its share in the mean.
    """
    source = newest_model(stage, before="refit")
    trained, spec = checkpoint.load(source)
    history = read_made(source, "history.json", "the looks of a training", list[dict[str, float]])
    config = make_dataclass(TrainConfig, read_made(source, "recipe.json", "a recipe", _Recipe).train, "train")
    seed = spec.get("seed", 0)
    train, valid = (Shards(stage.data, split, trained.schema) for split in ("train", "valid"))
    rows = Joined(train, valid)
    size = min(config.batch_size, len(rows))
    per_epoch = len(train) // min(config.batch_size, len(train))
    steps = steps_of(round(best_look(history)["step"]), per_epoch, len(rows) // size)
    device = Device.choose(stage.config.device, config.precision)
    seed_everything(seed)
    model = checkpoint.build(trained.schema, spec, device)
    console().print(
        f"{steps:,} steps on {len(rows):,} rows; {source.name} was best at step {int(best_look(history)['step']):,} "
        f"on {len(train):,}"
    )
    checkpoints = stage.folder / CHECKPOINTS
    train_for(model, rows, config, seed, stage.folder, steps, checkpoints, device, stage.reporter)
    if trained.linear is not None and model.linear is not None:
        fit_regression(model, stage.data, seed, read_stage(source).metrics.get("linear_C"), refit=True)
        model.linear.share.copy_(trained.linear.share)
    checkpoint.save(stage.folder, model.eval(), {**spec, "refit": True})
    figures = {"steps": float(steps), "rows": float(len(rows)), "fields": float(len(trained.schema.fields))}
    return Result(figures, artifacts=[stage.folder / "model.json"], tags={"model": source.name})

"""Savings by dropping fields: an untrained model is built without them, and both models are measured."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import binom

from recsys.config.factory import Part
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.selection.reports.report import Savings
from recsys.training.device import CPU, Device
from recsys.training.remembered import dense_bytes, table_bytes

__all__ = ["median_interval", "savings", "size"]

_REPEATS = 41
_ROWS = 512
_STEPS, _BATCH = 13, 2048  # training steps that are timed, and rows of each


def size(model: CTR, optimizer: Part) -> dict[str, int]:
    """Fields, inputs (width of x_BW), parameters, bytes of tables and of the optimisers' state.

    Args:
        model: The model; it is not changed.
        optimizer: Optimiser of its dense layers, as in `savings`.
    """
    tables = model.embedding.scoring().tables.values()
    dense = sum(p.numel() for m in (model.interaction, model.sequences, model.head) for p in m.parameters())
    return {
        "fields": len(model.schema.fields),
        "width": sum(model.widths),
        "parameters": dense + sum(t.rows * t.dim for t in tables),
        "table_bytes": sum(t.nbytes for t in tables),
        "optimizer_bytes": sum(table_bytes(model).values()) + dense_bytes(model, optimizer),
    }


def median_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics, which needs no assumption about the distribution."""
    ordered = np.sort(np.asarray(values, np.float64))
    low = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)  # P(fewer than so many below the median) < .025
    return float(np.median(ordered)), float(ordered[low]), float(ordered[len(ordered) - 1 - low])


@torch.no_grad()
def _times(models: Sequence[CTR], valid: Shards, device: Device) -> np.ndarray:
    """µs a row of eager scoring, by turns so that a busy machine slows all models → [repeats, models]."""
    rows = slice(0, min(_ROWS, len(valid)))
    plain = [m.over(m.embedding.scoring()).eval() for m in models]
    batches = [device.batch(Shards(valid.folder, valid.split, m.schema).batch(rows)) for m in models]
    time_RM = np.empty((_REPEATS + 3, len(models)))
    for i in range(len(time_RM)):
        for j, (model, batch) in enumerate(zip(plain, batches, strict=True)):
            started = time.perf_counter()
            model(batch)
            device.wait()
            time_RM[i, j] = 1e6 * (time.perf_counter() - started) / len(batch)
    return time_RM[3:]  # the first ones warm up


def _train_times(models: Sequence[CTR], valid: Shards, device: Device) -> np.ndarray:
    """µs a row of a training step with a learning rate of 0 (forward, backward, table update) → [repeats, models]."""
    rows = slice(0, min(_BATCH, len(valid)))
    batches = [device.batch(Shards(valid.folder, valid.split, m.schema).batch(rows)) for m in models]
    history = [m.trainable().optimizer_state() for m in models]
    time_RM = np.empty((_STEPS + 2, len(models)))
    for m in models:
        m.train().trainable().set_learning_rate(0.0)
    for i in range(len(time_RM)):
        for j, (model, batch) in enumerate(zip(models, batches, strict=True)):
            started = time.perf_counter()
            with device.autocast():
                logit_BT = model.logits_of(model.features(batch))
            model.loss(logit_BT, batch).backward()
            model.zero_grad()
            device.wait()
            time_RM[i, j] = 1e6 * (time.perf_counter() - started) / len(batch)
    for model, state in zip(models, history, strict=True):
        model.eval().trainable().load_optimizer_state(state)
    return time_RM[2:]  # the first ones warm up


def savings(
    model: CTR,
    build: Callable[[Schema], CTR],
    kept: Sequence[str],
    valid: Shards,
    optimizer: Part,
    device: Device = CPU,
) -> Savings:
    """Measure the model before and after dropping all fields except the kept ones.

    Args:
        model: The model on all fields; its weights are not changed.
        build: Builds the model on the kept fields.
        kept: Names of the kept fields.
        valid: Rows to score for timing.
        optimizer: Optimiser of dense layers: an option of the group `optimizer`.
        device: Where both models are, and the precision in which they train.
    """
    before: dict[str, float] = {**size(model, optimizer)}
    nothing: dict[str, float] = dict.fromkeys([*before, "us_per_row", "train_us_per_row"], 0)
    if len(kept) == len(model.schema.fields):
        return Savings(before, nothing, "", after=before)
    try:
        smaller = build(model.schema.subset(kept))
    except ConfigError as error:
        return Savings(before, nothing, f"the kept fields alone make no model: {error}")
    after: dict[str, float] = {**size(smaller, optimizer)}
    saved, models = {k: before[k] - after[k] for k in before}, [model, smaller]
    scoring, training = _times(models, valid, device), _train_times(models, valid, device)
    for name, time_RM in (("us_per_row", scoring), ("train_us_per_row", training)):
        before[name], after[name] = (float(v) for v in np.median(time_RM, 0))
        saved[name] = float(np.median(time_RM[:, 0] - time_RM[:, 1]))
    intervals = [list(median_interval(t[:, 0] - t[:, 1])[1:]) for t in (scoring, training)]
    return Savings(before, saved, "", after, *intervals)

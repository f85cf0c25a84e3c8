"""What dropping fields saves: the model is built without them, not trained, and both are measured."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.models.ctr import CTR
from recsys.schema import Schema

__all__ = ["median_interval", "savings", "size"]

_REPEATS = 41
_ROWS = 512


def size(model: CTR) -> dict[str, int]:
    """Fields, inputs (width of x_BW), parameters, bytes of tables, and of what training holds beside.

    optimizer_bytes: one float32 a table row (row-wise Adagrad) and two a dense parameter (Adam).
    """
    tables = model.embedding.plain().tables.values()  # type: ignore[operator]
    dense = sum(p.numel() for m in (model.interaction, model.sequences) for p in m.parameters())
    return {
        "fields": len(model.schema.fields),
        "width": sum(model.widths),
        "parameters": dense + sum(t.rows * t.dim for t in tables),
        "table_bytes": sum(t.nbytes for t in tables),
        "optimizer_bytes": 4 * sum(t.rows for t in tables) + 8 * dense,
    }


def median_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics, which assumes no distribution."""
    ordered = np.sort(np.asarray(values, np.float64))
    low = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)  # P(fewer than so many below the median) < .025
    return float(np.median(ordered)), float(ordered[low]), float(ordered[len(ordered) - 1 - low])


@torch.no_grad()
def _times(models: Sequence[CTR], valid: Shards) -> np.ndarray:
    """µs a row of eager scoring, the models in turn so that a busy machine slows all → [repeats, models]."""
    rows = slice(0, min(_ROWS, len(valid)))
    plain = [m.over(m.embedding.plain()).eval() for m in models]  # type: ignore[operator]
    batches = [Shards(valid.folder, valid.split, m.schema).batch(rows) for m in models]
    found = np.empty((_REPEATS + 3, len(models)))
    for i in range(len(found)):
        for j, (model, batch) in enumerate(zip(plain, batches, strict=True)):
            started = time.perf_counter()
            model(batch)
            found[i, j] = 1e6 * (time.perf_counter() - started) / len(batch)
    return found[3:]  # the first ones warm up


def savings(model: CTR, build: Callable[[Schema], CTR], kept: Sequence[str], valid: Shards) -> dict[str, Any]:
    """Before and after dropping all but the kept fields.

    Returns:
        before and after (see `size`, and us_per_row), and their differences by the same names;
        us_per_row_interval, 95 %, of the difference; note, why it could not be measured where the
        smaller model cannot be built (then before alone is there, and every difference is 0).
    """
    before: dict[str, Any] = dict(size(model))
    nothing = dict.fromkeys([*before, "us_per_row"], 0)
    if len(kept) == len(model.schema.fields):
        return {"before": before, "after": before, **nothing, "us_per_row_interval": [0.0, 0.0], "note": ""}
    try:
        smaller = build(model.schema.subset(kept))
    except ConfigError as error:
        return {"before": before, **nothing, "note": f"the kept fields alone make no model: {error}"}
    after: dict[str, Any] = dict(size(smaller))
    times = _times([model, smaller], valid)
    before["us_per_row"], after["us_per_row"] = (float(v) for v in np.median(times, 0))
    saved = {k: before[k] - after[k] for k in before}
    saved["us_per_row"], low, high = median_interval(times[:, 0] - times[:, 1])
    return {"before": before, "after": after, **saved, "us_per_row_interval": [low, high], "note": ""}

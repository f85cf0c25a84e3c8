"""Models retrained from scratch on a part of the fields, kept in the runs folder by all that they depend on.

R test rows.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import recsys
from pipelines import train
from pipelines.evaluate import measure
from pipelines.stage import Stage, write_json
from recsys.config.factory import targets
from recsys.data.shards import Shards, read_array
from recsys.events import Together
from recsys.features.schema import Schema
from recsys.files import read_json, whole
from recsys.lock import locked
from recsys.results import NUMBER
from recsys.selection.reports.agreement import influence, paired_difference
from recsys.terminal import console
from recsys.training import checkpoint
from recsys.training.device import Device
from recsys.training.fit import logits
from recsys.versions import code_version

__all__ = ["Changes", "Retrained", "ordered", "retrain", "retrain_name"]

_console = console()
_LOGITS = "test_logits.npy"
_NO_PART = tuple(
    f"recsys.{room}" for room in ("pages", "baselines", "selection", "terminal", "progress", "events", "errors")
)
"""No part of a retrain: pages, what picks its fields, what is said on the screen."""


class Retrained(NamedTuple):
    """A retrained model: its folder, which holds its test logits, and its figures on test rows."""

    folder: Path
    figures: dict[str, float]


def ordered(schema: Schema, names: Sequence[str]) -> list[str]:
    """The names in the order of the schema, by which the cache knows a set of fields."""
    return [n for n in schema.names if n in set(names)]


def retrain_name(stage: Stage, names: Sequence[str], seed: int) -> str:
    """Names a retrain: all that its weights and figures depend on, the code included."""
    built = ("model", "embedding", "sequence", "head", "train", "optimizer", "table_optimizer")
    parts = {k: stage.config[k] for k in built}
    code = code_version("pipelines.train", "pipelines.evaluate", *targets(parts), without=_NO_PART)
    versions = [recsys.__version__, torch.__version__, checkpoint.VERSION, code]
    key = json.dumps([stage.data.name, parts, seed, sorted(names), versions], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:20]


def retrain(stage: Stage, names: Sequence[str], seed: int) -> Retrained:
    """A model trained on these fields alone, from the cache if it is there."""
    config, schema = stage.config, Schema.load(stage.data / "schema.json")
    names = ordered(schema, names)
    folder = Path(config["runs"]) / "cache" / "retrains" / retrain_name(stage, names, seed)
    done, label = folder / "metrics.json", f"  {len(names)} fields"
    with locked(folder.with_suffix(".lock")):
        if done.exists() and (folder / _LOGITS).exists():
            mend = f"remove {folder}, and it is trained again"
            found = read_json(done, "the figures of a retrain", mend, shape={"auc": NUMBER})
            (folder / "resume.pt").unlink(missing_ok=True)  # if a kill came just before that
            _console.print(f"{label}: test AUC {found['auc']:.4f} (known)")
            return Retrained(folder, found)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        apply = {**config["select"], "apply": list(names)}
        own = Stage(
            {**config, "seed": seed, "select": apply}, folder, stage.done, Together(stage.reporter, metrics=False)
        )
        train.run(own)
        found, _, _ = measure(folder, own)
        device = Device.choose(config["device"])
        model, _ = checkpoint.load(folder, device)
        with whole(folder / _LOGITS, "wb") as file:
            np.save(file, logits(model, Shards(stage.data, "test", model.schema), device=device).astype(np.float32))
        if len(names) < len(schema.fields):
            (folder / "model.pt").unlink()  # only searches need weights
        write_json(done, found)
        (folder / "resume.pt").unlink(missing_ok=True)
        _console.print(f"{label}: test AUC {found['auc']:.4f}, {time.perf_counter() - started:.0f} s")
    return Retrained(folder, found)


class Changes:
    """What one choice of fields changes against another, with the noise of seeds and of test rows."""

    def __init__(self, data: Path):
        self._test = Shards(data, "test")
        self._influence = cache(self._influence_of)

    def _influence_of(self, folder: Path, metric: str) -> np.ndarray:
        logit_B = read_array(folder / _LOGITS, f"remove {folder}, and it is trained again")
        return influence(metric, logit_B, self._test.label_B, self._test.weight_B)

    def __call__(self, ours: Sequence[Retrained], theirs: Sequence[Retrained], metric: str) -> dict[str, float]:
        """Ours − theirs, a model a seed each, in the same order of seeds; see `paired_difference`."""
        change_S = [a.figures[metric] - b.figures[metric] for a, b in zip(ours, theirs, strict=True)]
        ours_R, theirs_R = (np.mean([self._influence(m.folder, metric) for m in of], 0) for of in (ours, theirs))
        return paired_difference(change_S, ours_R - theirs_R)

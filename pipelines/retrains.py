"""Models retrained from scratch on a part of the fields, cached in the runs folder by all that they depend on.

R test rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from pipelines import train
from pipelines.config import RunConfig
from pipelines.evaluate import measure
from pipelines.node import NOT_HASHED, Node, make_node, run_node, settings_read
from pipelines.stage import Result, Stage
from recsys.data.shards import Shards, read_array
from recsys.events import Reporters, raise_if_cancelled
from recsys.features.schema import Schema
from recsys.files import remove_folder, whole
from recsys.selection.reports.agreement import influence, paired_difference
from recsys.selection.reports.report import Difference
from recsys.terminal import console
from recsys.training.checkpoint import WEIGHTS
from recsys.training.device import Device

__all__ = ["Changes", "Retrained", "device_name", "measured", "ordered", "retrain", "retrain_node"]

_console = console()
_LOGITS = "test_logits.npy"
_NOT_HASHED = (*NOT_HASHED, "recsys.selection")
"""Code that no retrain depends on, such as what picked its fields."""


@dataclass(frozen=True)
class Retrained:
    """A retrained model: its folder, which holds its test logits, and its figures on test rows."""

    folder: Path
    figures: dict[str, float]


def ordered(schema: Schema, names: Sequence[str]) -> list[str]:
    """The names in the order of the schema."""
    return [n for n in schema.names if n in set(names)]


def device_name(config: RunConfig) -> str:
    """Name of the device that models train on, and of the precision."""
    return Device.choose(config.device, config.train.get("precision", "auto")).name


def retrain_node(stage: Stage, names: Sequence[str], seed: int, retrains: Path) -> Node:
    """All that a retrain's weights and figures depend on, with code and device; `retrains` is the cache's folder."""
    settings = {**settings_read("retrain", replace(stage.config, seed=seed)), "fields": sorted(names)}
    prepared, modules = {"prepare": stage.earlier("prepare")}, ("pipelines.train", "pipelines.evaluate")
    device = device_name(stage.config)
    return make_node("retrain", settings, retrains / "any", prepared, modules, without=_NOT_HASHED, device=device)


def retrain(stage: Stage, names: Sequence[str], seed: int) -> Retrained:
    """A model trained on these fields alone, from the cache if it is there."""
    raise_if_cancelled(stage.reporter)
    schema, retrains = Schema.load(stage.data / "schema.json"), Path(stage.config.runs) / "cache" / "retrains"
    names = ordered(schema, names)
    node = retrain_node(stage, names, seed, retrains)
    folder = retrains / node.digest
    known = (folder / "result.json").exists()
    config = replace(stage.config, seed=seed, select=replace(stage.config.select, apply=list(names)))
    work = Stage(config, folder, stage.done, Reporters(stage.reporter, metrics=False))
    result = run_node(node, folder, lambda: _train_and_measure(work, keep=len(names) == len(schema.fields)))
    took = "(known)" if known else f"{result.seconds:.0f} s"
    _console.print(f"  {len(names)} fields: test AUC {result.metrics['auc']:.4f}, {took}")
    return Retrained(folder, result.metrics)


def _train_and_measure(stage: Stage, keep: bool) -> Result:
    """Train, then write the main label's logits on test; keep the weights only for searches."""
    train.run(stage)
    figures = measured(stage).figures
    if not keep:
        remove_folder(stage.folder / WEIGHTS)
    return Result(figures)


def measured(stage: Stage) -> Retrained:
    """The model in a stage's folder, measured; its logits of the main label on test are left there for `Changes`."""
    figures, _, test_BT = measure(stage.folder, stage)
    with whole(stage.folder / _LOGITS, "wb") as file:
        np.save(file, test_BT[:, 0].astype(np.float32))
    return Retrained(stage.folder, figures)


class Changes:
    """Differences between the models of two choices of fields, with the noise of seeds and of test rows."""

    def __init__(self, data: Path):
        self._test = Shards(data, "test")
        self._influence = cache(self._influence_of)

    def _influence_of(self, folder: Path, metric: str) -> np.ndarray:
        logit_B = read_array(folder / _LOGITS, f"remove {folder}, and it is trained again")
        return influence(metric, logit_B, self._test.label_B, self._test.weight_B)

    def __call__(self, ours: Sequence[Retrained], theirs: Sequence[Retrained], metric: str) -> Difference:
        """Ours − theirs, one model for each seed, in the same order of seeds; see `paired_difference`."""
        change_S = [a.figures[metric] - b.figures[metric] for a, b in zip(ours, theirs, strict=True)]
        ours_R, theirs_R = (
            np.mean([self._influence(m.folder, metric) for m in models], 0) for models in (ours, theirs)
        )
        return paired_difference(change_S, ours_R - theirs_R)

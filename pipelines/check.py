"""What can be known of a run's configuration before it starts, told without importing what would run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recsys import factory
from recsys.data.fields import data_fields
from recsys.errors import ConfigError
from recsys.factory import make_dataclass
from recsys.options import CONF
from recsys.recipe import Facts, resolve
from recsys.train_config import TrainConfig

__all__ = ["NEEDS", "check"]

_MODELS = ("train", "retrain", "compress")  # the stages that leave a model
NEEDS: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "train": (),
    "select": ("train",),
    "retrain": ("select",),
    "compress": ("train", "retrain"),
    "evaluate": _MODELS,
    "export": _MODELS,
    "benchmark": (),
}
"""The stages, in order, each with those of which one must have run before it, beside prepare."""

_SOME = Facts(rows=10_000, positives=5_000, cardinalities=(100,), numbers=1)
"""Stands for the data's own facts, so that what the recipe sets later is in range now."""


def _known_keys(config: Mapping[str, Any]) -> None:
    """Every key at the top, and in the groups that config.yaml itself spells out, is one that something reads."""
    own = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(own, dict)
    groups = {g.name for g in CONF.iterdir() if g.is_dir() and g.name != "experiment"}
    known = ({str(k) for k in own} - {"defaults", "hydra"}) | groups | {"benchmark"}
    if unknown := sorted(set(config) - known):
        raise ConfigError(f"unknown {', '.join(unknown)}: expected some of {', '.join(sorted(known))}")
    for key, value in own.items():
        if not isinstance(value, dict) or key == "hydra":
            continue
        given = config.get(str(key))
        if not isinstance(given, Mapping):
            raise ConfigError(f"{key}: expected {', '.join(map(str, value))}, got {given!r}: set one of them")
        if unknown := sorted(set(given) - set(value)):
            raise ConfigError(f"{key}: unknown {', '.join(unknown)}: expected some of {', '.join(map(str, value))}")


def _stages(config: Mapping[str, Any]) -> None:
    asked = config["stages"]
    if not isinstance(asked, list) or not asked:
        raise ConfigError(f"stages: expected a list of some of {', '.join(NEEDS)}, got {asked!r}: write [train]")
    if unknown := [s for s in asked if s not in NEEDS]:
        raise ConfigError(f"stages: unknown {unknown}: expected some of {', '.join(NEEDS)}")
    if config["from_run"]:
        if not (Path(str(config["runs"])) / str(config["from_run"]) / "result.json").exists():
            known = sorted(p.parent.name for p in Path(str(config["runs"])).glob("*/result.json"))
            some = ", ".join(known[-5:]) or "none yet"
            raise ConfigError(f"from_run: no finished run {config['from_run']!r}: expected one of {some}")
        return
    order = list(NEEDS)
    for stage in asked:
        before = order[: order.index(stage)]
        if NEEDS[stage] and not any(n in asked and n in before for n in NEEDS[stage]):
            raise ConfigError(
                f"stage {stage} needs {NEEDS[stage][0]}, which has not run: add {NEEDS[stage][0]} to stages, "
                "or give from_run=ID of a run that has it"
            )


def _parts(config: Mapping[str, Any]) -> None:
    """The settings of training, model, selector … fit what they are handed to."""
    for group in ("data", "model", "embedding", "train"):
        if not isinstance(config[group], Mapping):
            raise ConfigError(f"{group}: expected an option of the group, got {config[group]!r}: name one")
    chosen = resolve(config, _SOME)
    make_dataclass(TrainConfig, chosen["train"], "train")
    for group in ("model", "embedding", "sequence", "selection", "compression", "quantization"):
        settings = chosen.get(group, config[group])
        if isinstance(settings, Mapping):
            factory.check(settings, group)
        elif settings:  # null and false leave it out
            raise ConfigError(f"{group}: expected an option of the group, got {settings!r}: name one")


def check(config: Mapping[str, Any]) -> None:
    """Check a resolved configuration as far as it can be without data.

    Raises:
        ConfigError: The first thing that cannot be.
    """
    _known_keys(config)
    _stages(config)
    _parts(config)
    data_fields(config["data"])
    factory.check(config["data"].get("source") or {}, "data.source")

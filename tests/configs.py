"""The configuration of a run for tests, without composing it by Hydra each time."""

from dataclasses import replace
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipelines.config import RunConfig
from recsys.config.options import CONF

__all__ = ["composed", "run_config"]


def composed(*overrides: str) -> dict[str, Any]:
    """What `recsys run` composes, as plain values."""
    import pipelines.submit  # noqa: F401  # its resolver

    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)  # type: ignore[return-value]


@cache
def _plain() -> RunConfig:
    return RunConfig.from_json(composed())


def run_config(**changed: Any) -> RunConfig:
    """What `recsys run` runs without an override, but for what is changed, which is not checked."""
    return replace(_plain(), **changed)

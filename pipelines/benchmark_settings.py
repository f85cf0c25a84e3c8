"""The settings of a selection benchmark. Imports no torch, so that they are checked before a run starts."""

from dataclasses import dataclass, field
from typing import Literal, cast

from omegaconf import OmegaConf

from recsys.config.factory import Part, check
from recsys.config.options import CONF
from recsys.config.ranges import Count, Seed
from recsys.errors import ConfigError
from recsys.files import Json

__all__ = ["Settings", "benchmark_settings"]


@dataclass(frozen=True)
class Settings:
    """The settings of a benchmark.

    Args:
        methods: Names of options of the group selection; None is all of them.
        settings: Name of a method → settings that replace those of its conf file.
        reference: The method that each other one is compared with, if it is benchmarked too; None is the first.
        seeds: Of searches and retrains; each search is on the model trained with its seed.
        grid: Ascending numbers of fields; None chooses them.
        metric: `auc` or `logloss`, of the test split.
        no_cut: Fields kept by a method that gives an order and no cut; None is half of all.
        gain_shares: Prices, as shares of the model's gain, at which each priced method searches too, for
            the frontier of fields kept against the change of a retrain; None is none.
    """

    methods: list[str] | None = None
    settings: dict[str, Json] = field(default_factory=dict)
    reference: str | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    grid: list[Count] | None = None
    metric: Literal["auc", "logloss"] = "auc"
    no_cut: Count | None = None
    gain_shares: list[float] | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"benchmark.seeds: expected different seeds, got {self.seeds}: for example [0, 1, 2]")
        if self.gain_shares is not None and not all(0 < s < 1 for s in self.gain_shares):
            raise ConfigError(f"benchmark.gain_shares: expected shares in (0, 1), got {self.gain_shares}: try [0.005]")

    def selectors(self) -> dict[str, Part]:
        """Name → configuration of each method.

        Raises:
            ConfigError: If there is no such selector, or one of its settings is invalid.
        """
        options = {p.stem: p for p in sorted((CONF / "selection").glob("*.yaml"))}
        names = list(options) if self.methods is None else self.methods
        unknown = [n for n in (*names, *self.settings, *filter(None, [self.reference])) if n not in options]
        if unknown or not names:
            named = unknown or "named"
            raise ConfigError(f"benchmark.methods: no selector {named}: expected some of {', '.join(options)}")
        parts: dict[str, Part] = {}
        for name in names:
            option = OmegaConf.to_container(OmegaConf.load(options[name]))
            parts[name] = {**cast(Json, option), **self.settings.get(name, {})}
            check(parts[name], f"benchmark.settings.{name}")
        return parts


def benchmark_settings(settings: Settings | None) -> Settings:
    """Check the key `benchmark` of a run's configuration, which stage benchmark needs.

    Raises:
        ConfigError: If it is missing, or a selector in it is invalid.
    """
    if settings is None:
        raise ConfigError("stage benchmark needs the key benchmark: start from experiment=selection_benchmark")
    settings.selectors()
    return settings

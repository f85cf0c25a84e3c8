"""The settings of `recsys sweep`: the space, and how it is searched. Imports nothing slow."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import Strict

from pipelines.sweep.space import read_space
from recsys.config.factory import make_dataclass
from recsys.config.ranges import Few, Seed
from recsys.errors import ConfigError
from recsys.files import Json

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """An option of the group `search`.

    Args:
        trials: Number of trials in all.
        objective: `logloss` of validation, which stops a trial that is behind the others' median; or `pareto`:
            logloss, seconds and bytes at once.
        beta: β of logloss·(1 + β·ln(seconds / seconds of the default)): 0 ignores time.
        sampler: `tpe` learns from earlier trials, `random` does not.
        sampler_seed: Seed of the sampler.
        finalists: Number of best trials to train under each of `seeds`; validation chooses the winner.
        seeds: Seeds of the finalists and the default; if empty, there are no finalists and no comparison on test.
        space: Key → values; see `read_space`.
    """

    trials: Few
    objective: Literal["logloss", "pareto"]
    beta: Annotated[float, Strict(), Ge(0), Le(0.1)]
    sampler: Literal["tpe", "random"]
    sampler_seed: Seed
    finalists: Few
    seeds: list[Seed]
    space: dict[str, Any]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """Checked settings.

        Raises:
            ConfigError: If one is invalid.
        """
        settings = make_dataclass(cls, values, "search")
        if len(set(settings.seeds)) < len(settings.seeds):
            raise ConfigError(f"search.seeds: expected different seeds, got {settings.seeds}: for example [1, 2, 3]")
        if not read_space(settings.space):
            raise ConfigError(
                "search.space: expected settings to search, got none: for example {train.lr: {log: [1e-4, 1e-2]}}"
            )
        return settings

    @property
    def timed(self) -> bool:
        """Whether seconds count in what is searched for."""
        return self.objective == "pareto" or self.beta > 0

    def to_json(self) -> Json:
        """All of it, as JSON holds it."""
        return asdict(self)

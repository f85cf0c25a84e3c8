"""The configurations of a sweep: of its search, of the run without changes, of each trial; the winner as an option."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pipelines.check import check, check_table
from pipelines.composed import check_folder, refuse_what_a_file_may_not_say, resolve_config
from pipelines.config import RunConfig
from pipelines.overrides import WRONG, compose, compose_typed, key_of, what_is_wrong
from pipelines.sweep.settings import Settings
from pipelines.sweep.space import NUMBERS, TRIAL_STAGES, corners, overrides_of, read_space
from recsys.config.options import own_options
from recsys.data.preparation.fields import data_fields
from recsys.errors import ConfigError
from recsys.files import Json

__all__ = ["Base", "experiment"]

_FOLDER = "${unused:${runs}/${now:%Y%m%d-%H%M%S}-${name}-search}"
AS_SET = "as_set"  # value of `numbers`: each field keeps the encoding of the data configuration
_NEVER_KEPT = ("hydra", "runs", "tracking", "trusted", "from_run")  # of this machine, or for the user to type
_composing = Lock()  # Hydra composes by way of global state, and trials of the queue begin in threads


def _is_search(override: str) -> bool:
    return key_of(override).split(".")[0] == "search"


@dataclass(frozen=True)
class Base:
    """What a sweep starts from.

    Args:
        overrides: Overrides of the run without changes.
        searched: Overrides of the search, such as `search=rates` and `search.trials=9`.
    """

    overrides: list[str]
    searched: list[str]

    @classmethod
    def split(cls, typed: Sequence[str]) -> "Base":
        """Split what was typed after `recsys sweep` into both."""
        searched = [f"+{o.lstrip('+')}" if key_of(o) == "search" else o for o in typed if _is_search(o)]
        if typed_space := next((o for o in searched if f"{key_of(o)}.".startswith("search.space.")), None):
            raise ConfigError(
                f"search.space: expected a space in a file, got {typed_space!r}: write search/NAME.yaml (docs/sweep.md "
                "shows one) and give search=NAME"
            )
        if not any(key_of(o) == "search" for o in searched):
            searched = ["+search=default", *searched]
        return cls([o for o in typed if not _is_search(o)], searched)

    @property
    def names_folder(self) -> bool:
        """Whether the overrides name the sweep's folder, as those of a resumed sweep do."""
        return any(key_of(o) == "hydra.run.dir" for o in self.overrides)

    def begin(self) -> tuple[Settings, RunConfig, Path]:
        """The settings of the search, the run without changes, and the sweep's folder.

        Raises:
            ConfigError: If a setting is invalid.
        """
        if elsewhere := [o for o in self.overrides if key_of(o).split(".")[0] == "launcher" and o != "launcher=local"]:
            raise ConfigError(
                f"launcher: trials run one after another in this process, got {elsewhere[0]}: leave it out"
            )
        config = _compose([*self.searched, *self.overrides])
        typed = compose_typed(_with_own_options(self.overrides))
        refuse_what_a_file_may_not_say(config, typed, self.overrides)
        OmegaConf.set_struct(config, False)
        settings = Settings.from_json(cast(Json, OmegaConf.to_container(config.pop("search"), resolve=True)))
        if not self.names_folder:
            config.hydra.run.dir = _FOLDER
        resolved = _of_trial(resolve_config(config))
        return settings, resolved, check_folder(config, Path(resolved.runs), False)

    def check(self, settings: Settings, folder: Path) -> None:
        """Check every option, and each end of every range, as `recsys run` checks it.

        Raises:
            ConfigError: At the first invalid setting.
        """
        check_table(self.trial({}), folder)
        for changes in corners(read_space(settings.space)):
            try:
                self.trial(changes)
            except ConfigError as error:
                tried = " ".join(overrides_of(changes))
                raise ConfigError(f"{error} (a trial of search.space, with {tried})") from error

    def typed(self, changes: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial's run."""
        settings = {key: value for key, value in changes.items() if key != NUMBERS}
        encoding = changes.get(NUMBERS, AS_SET)
        numbers = self._numbers if encoding != AS_SET else []
        return [*self.overrides, *overrides_of(settings), *(f"++data.fields.{n}.encoding={encoding}" for n in numbers)]

    @cached_property
    def _numbers(self) -> list[str]:
        """The numeric fields whose name can stand in an override."""
        fields = data_fields(resolve_config(_compose(self.overrides)).data)
        return [f.name for f in fields if f.kind == "numeric" and re.fullmatch(r"[A-Za-z_]\w*", f.name, re.ASCII)]

    def trial(self, changes: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial.

        Raises:
            ConfigError: If it is invalid.
        """
        config = _of_trial(resolve_config(_compose(self.typed(changes))))
        check(config)
        return config


def _of_trial(config: RunConfig) -> RunConfig:
    return replace(config, stages=list(TRIAL_STAGES), from_run=None)


def _with_own_options(overrides: Sequence[str]) -> list[str]:
    searched = any(key_of(o) == "hydra.searchpath" for o in overrides)
    return [*overrides, *([] if searched else own_options(Path.cwd()))]


def _compose(overrides: Sequence[str]) -> DictConfig:
    overrides = _with_own_options(overrides)
    try:
        with _composing:
            return compose(overrides)
    except WRONG as error:
        raise ConfigError(what_is_wrong(error, overrides)) from error


def experiment(overrides: Sequence[str], title: str) -> str:
    """An option of the group `experiment` that sets what the overrides set: their options, then what else differs.

    Args:
        overrides: Overrides of a run.
        title: Comment at the top of the option.
    """
    config, plain = _compose(overrides), _compose([])
    chosen, usual = (dict(c.hydra.runtime.choices) for c in (config, plain))
    groups = {g: n for g, n in chosen.items() if usual.get(g) != n and g != "experiment" and not g.startswith("hydra/")}
    with_groups = _compose([f"{g}={n}" if n is not None else f"~{g}" for g, n in groups.items()])
    whole, option = (cast(Json, OmegaConf.to_container(c, resolve=False)) for c in (config, with_groups))
    for key in _NEVER_KEPT:
        whole.pop(key, None)
        option.pop(key, None)
    body = {"defaults": [{f"override /{g}": n} for g, n in groups.items()], **_changed(option, whole)}
    return f"# @package _global_\n{title}{OmegaConf.to_yaml(OmegaConf.create(body))}"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Json:
    """The keys of `now` that `before` lacks, or has with another value."""
    changes: Json = {}
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inside := _changed(cast(Json, old), cast(Json, value)):
                changes[key] = inside
        elif key not in before or value != old:
            changes[key] = value
    return changes

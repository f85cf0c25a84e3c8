"""The space that a sweep searches: settings, the values that each may take, and settings that belong to one value."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pipelines.stages import STAGES
from recsys.config.options import CONF
from recsys.errors import ConfigError
from recsys.files import Json

__all__ = ["NUMBERS", "TRIAL_STAGES", "Option", "Range", "Setting", "Space", "corners", "overrides_of", "read_space"]

TRIAL_STAGES = ("prepare", "train")  # only validation judges a trial: stage evaluate reads test
NUMBERS = "numbers"  # a key that stands for the encoding of every numeric field
Kind = Literal["log", "uniform", "int"]
_FORMS = "a list of values, {log: [LOW, HIGH]}, {uniform: [LOW, HIGH]}, {int: [LOW, HIGH]} or {VALUE: {KEY: …}}"
_READ = {k for stage in TRIAL_STAGES for k in STAGES[stage].reads} - {"data", "seed"}
_SEARCHED = sorted(_READ | {"data.fields", NUMBERS})
"""Keys that trials read, but for those that change rows or seed: such trials could not be compared."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`: uniform on a log scale, uniform, or whole numbers."""

    kind: Kind
    low: float
    high: float


@dataclass(frozen=True)
class Option:
    """A value of a setting, and the settings that are searched only if it is chosen."""

    value: Any
    inner: "Space" = ()


@dataclass(frozen=True)
class Setting:
    """One thing that is searched.

    Args:
        key: What it sets, such as `train.lr`, or a group such as `model`.
        name: Its name in the study: the key, and the options that it belongs to.
        values: A range, or options.
    """

    key: str
    name: str
    values: "Range | tuple[Option, ...]"


Space = tuple[Setting, ...]


def read_space(given: Mapping[str, Any], above: str = "") -> Space:
    """Read the space from a search's YAML.

    Args:
        given: Key → values, as a list, a range, or options with a space of their own.
        above: The option that these settings belong to.

    Raises:
        ConfigError: If trials do not read a key, a key is set twice, or a range or list is empty.
    """
    for key in given:
        if not any(key.lstrip("+") == known or key.lstrip("+").startswith(f"{known}.") for known in _SEARCHED):
            known = ", ".join(_SEARCHED)
            raise ConfigError(
                f"search.space: expected settings that training reads ({known}), got {key!r}: leave it out"
            )
    names = {key: f"{key} ({above})" if above else key for key in given}
    space = tuple(Setting(key, names[key], _values(key, names[key], values)) for key, values in given.items())
    keys = [key for setting in space for key in _keys(setting)]
    if twice := next((k for k in keys if keys.count(k) > 1), None):
        raise ConfigError(f"search.space: {twice} is set by two settings at once: keep one")
    return space


def _keys(setting: Setting) -> list[str]:
    """The keys that a setting and the options under it set."""
    options = () if isinstance(setting.values, Range) else setting.values
    return [setting.key, *{k for option in options for inner in option.inner for k in _keys(inner)}]


def _values(key: str, name: str, values: Any) -> "Range | tuple[Option, ...]":
    place = f"search.space: {name}"
    if isinstance(values, Mapping) and len(values) == 1 and (kind := next(iter(values))) in get_args(Kind):
        return _range(place, kind, values[kind])
    if isinstance(values, Mapping) and values and all(isinstance(v, Mapping | None) for v in values.values()):
        options = cast("Mapping[Any, Json | None]", values)
        return tuple(Option(v, read_space(inner or {}, f"{key}={v}")) for v, inner in options.items())
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{place}: expected {_FORMS}, got {values!r}: write one of these")
    texts = [json.dumps(v) for v in values]
    if twice := next((t for t in texts if texts.count(t) > 1), None):
        raise ConfigError(f"{place}: {twice} stands there twice: leave one out")
    return tuple(Option(v) for v in values)


def _range(place: str, kind: Kind, ends: Any) -> Range:
    """Read a range; raises ConfigError if nothing is between the ends."""
    number = int if kind == "int" else int | float
    numbers = (
        isinstance(ends, list) and len(ends) == 2 and all(type(e) is not bool and isinstance(e, number) for e in ends)
    )
    if not numbers:
        whole = "whole " if kind == "int" else ""
        raise ConfigError(f"{place}: expected {kind}: [LOW, HIGH], two {whole}numbers, got {ends!r}: write them so")
    low, high = ends
    if not low < high < float("inf") or (kind == "log" and low <= 0):
        least = "0 < LOW" if kind == "log" else "LOW"
        raise ConfigError(
            f"{place}: the range {kind}: {ends} is empty: expected {least} < HIGH: raise HIGH or lower LOW"
        )
    return Range(kind, low, high)


def overrides_of(chosen: Mapping[str, Any]) -> list[str]:
    """The chosen values by key, as overrides of Hydra's command line."""
    return [_override(key, value) for key, value in chosen.items()]


def _override(key: str, value: Any) -> str:
    if (CONF / key).is_dir():
        return f"~{key}" if value is None else f"{key}={value}"
    return f"{key}={_hydra(value)}"


def _hydra(value: Any) -> str:
    """A value in Hydra's grammar: as JSON, but for the keys of mappings, which have no quotes."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{_hydra(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    return json.dumps(value, ensure_ascii=False)


def corners(space: Space) -> list[dict[str, Any]]:
    """A few choices of all settings, in which each option and each end of each range occurs at least once."""
    columns = [_column(setting) for setting in space]
    rounds = max(map(len, columns), default=0)
    rows = [[column[min(i, len(column) - 1)] for column in columns] for i in range(rounds)]
    return [{k: v for part in row for k, v in part.items()} for row in rows]


def _column(setting: Setting) -> list[dict[str, Any]]:
    """Each value of one setting, with the corners of what is searched under it."""
    if isinstance(setting.values, Range):
        return [{setting.key: end} for end in (setting.values.low, setting.values.high)]
    inner: Sequence[tuple[Any, dict[str, Any]]] = [
        (option.value, corner) for option in setting.values for corner in corners(option.inner) or [{}]
    ]
    return [{setting.key: value, **corner} for value, corner in inner]

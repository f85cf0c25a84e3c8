"""What a submission over HTTP may set: a configuration can name code, files and servers, and its sender may be anybody
with a token.

Overrides are parsed by Hydra's own parser, so that the gate sees what the composer will see.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    Sweep,
)
from hydra.errors import HydraException

from pipelines.overrides import KEY_VALUE, count_values
from recsys.config.factory import allowed
from recsys.config.options import CONF
from recsys.errors import ConfigError
from recsys.service.http.settings import Settings

__all__ = ["check_composed", "gate", "gate_one"]

_DEPTH = 20  # of brackets within brackets
_KEY = re.compile(r"[A-Za-z]\w*([./][\w-]+)*", re.ASCII)
_OPTION = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
_PACKAGES = ("distill.model", "distill.embedding")  # where a group may be put by @
_CLOSED = ("hydra", "trusted", "resume", "runs")
_TRACKING = ("tracking.experiment", "tracking.register")
_LAUNCHER = ("processes", "restarts", "cpus", "gpus", "nodes", "minutes", "memory_gb", "partition")


def gate(overrides: Sequence[str], settings: Settings, sweeps: bool) -> int:
    """Check overrides → how many runs they make.

    Args:
        overrides: As after `recsys submit`.
        settings: Limits, launchers, and folders that paths may be in.
        sweeps: Whether a value may be a sweep.

    Raises:
        ConfigError: At the first that may not be submitted; the message names its key, and never its value.
    """
    limits = settings.limits
    if len(overrides) > limits.overrides or sum(map(len, overrides)) > limits.override_letters:
        raise ConfigError(
            f"expected at most {limits.overrides} overrides of {limits.override_letters:,} letters in all, got more: "
            "put settings into an option of the service's own folder"
        )
    count = 1
    for override in overrides:
        count *= gate_one(override, settings, sweeps)
        if count > limits.sweep:
            raise ConfigError(f"expected a sweep of at most {limits.sweep:,} runs, got more: sweep over less")
    return count


def gate_one(override: str, settings: Settings, sweeps: bool) -> int:
    """Check one override → how many values it takes.

    Raises:
        ConfigError: As `gate`.
    """
    parsed = _parsed(override)
    key = parsed.key_or_group
    if parsed.is_delete() or parsed.is_add() or parsed.is_force_add():
        raise ConfigError(f"{key[:80]}: + and ~ may not be submitted over HTTP: set keys that the options have")
    _check_key(key, parsed.package)
    value: Any = parsed.value()
    count = _count(parsed, sweeps)
    if _is_group(key, settings):
        _check_option(key, value, settings)
    else:
        for leaf in _leaves(value, key):
            _check_place(leaf, key, settings)
    return count


def _parsed(override: str) -> Override:
    name = re.split("[=@]", override)[0][:80]
    shown = name if _KEY.fullmatch(name) else "an override"
    if not override.isprintable():
        raise ConfigError(f"{shown}: expected printable text, got control characters: leave them out")
    if re.search(r"\$\\*\{", override):
        raise ConfigError(f"{shown}: ${{…}} may not be submitted over HTTP: write the value itself")
    depth = deepest = 0
    for letter in override:
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if deepest > _DEPTH:
        raise ConfigError(f"{shown}: expected at most {_DEPTH} brackets within brackets, got more: write it flatter")
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, RecursionError, ValueError) as error:
        raise ConfigError(f"cannot read {shown}: {KEY_VALUE}") from error


def _check_key(key: str, package: str | None) -> None:
    """Refuse keys that name code, secrets or servers, and those that no configuration has."""
    if not _KEY.fullmatch(key) or (package is not None and package not in _PACKAGES):
        raise ConfigError(
            "expected a key such as train.batch_size, or a group such as model@distill.model, got another: "
            "recsys run --cfg job shows the keys"
        )
    parts = re.split("[./]", key)
    if parts[0] in _CLOSED or any(p.startswith("_") for p in parts):
        raise ConfigError(
            f"{key[:80]}: it may not be submitted over HTTP: leave it out, or submit on the machine itself"
        )
    if parts[0] == "tracking" and key not in _TRACKING:
        raise ConfigError(f"{key[:80]}: expected {' or '.join(_TRACKING)}: the service says where runs are tracked")
    if parts[0] == "launcher" and len(parts) > 1 and (len(parts) > 2 or parts[1] not in _LAUNCHER):
        raise ConfigError(f"{key[:80]}: expected some of launcher.{', launcher.'.join(_LAUNCHER)}: leave it out")


def _is_group(key: str, settings: Settings) -> bool:
    return "." not in key and ("/" in key or (CONF / key).is_dir() or (settings.cwd / key / "").is_dir())


def _choices(value: Any) -> list[Any]:
    return list(value.list) if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]


def _check_option(key: str, value: Any, settings: Settings) -> None:
    """A group takes the name of an option: a path would read a file outside the folders of options."""
    for option in _choices(value):
        name = option.text if isinstance(option, QuotedString) else option
        if name is None and key == "experiment":
            continue
        if not isinstance(name, str | int) or isinstance(name, bool) or not _OPTION.fullmatch(str(name)):
            raise ConfigError(f"{key[:80]}: expected the name of an option, got another: GET /api/options lists them")
        if key == "launcher" and name not in settings.launchers:
            known = ", ".join(sorted(settings.launchers))
            raise ConfigError(f"launcher: expected one of {known}, got another: ask the service's admin")


def _count(parsed: Override, sweeps: bool) -> int:
    """How many values an override takes."""
    key, value = parsed.key_or_group, parsed.value()
    if isinstance(value, Glob | IntervalSweep):
        raise ConfigError(f"{key[:80]}: expected the values themselves, got glob or interval: write a,b,c or range(…)")
    if isinstance(value, Sweep) and not sweeps:
        raise ConfigError(f"{key[:80]}: several values: add -m (multirun) to run each, or write a list: [a,b]")
    return count_values(parsed)


def _leaves(value: Any, key: str) -> Iterator[str]:
    """The texts in a value.

    Raises:
        ConfigError: At a key of Hydra's, such as `_target_`, within it.
    """
    if isinstance(value, QuotedString):
        yield value.text
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            text = name.text if isinstance(name, QuotedString) else str(name)
            if text.startswith("_"):
                raise ConfigError(f"{key[:80]}: keys that begin with _ may not be submitted over HTTP: leave it out")
            yield text
            yield from _leaves(inside, key)
    elif isinstance(value, list | ChoiceSweep):
        for inside in value.list if isinstance(value, ChoiceSweep) else value:
            yield from _leaves(inside, key)


def _check_place(text: str, key: str, settings: Settings) -> None:
    """Refuse a text that may name a file outside the allowed folders, or a server.

    Raises:
        ConfigError: As `gate`.
    """
    wrong = ":/" in text or text.startswith("~") or "\\" in text or ".." in re.split(r"[/\s]", text)
    if not wrong and ("/" in text or _exists(settings.cwd / text)):
        places = {os.path.realpath(base / text) for base in (settings.cwd, settings.runs)}
        roots = [os.path.realpath(root) for root in (settings.cwd, settings.runs, *settings.roots)]
        wrong = any(not any(os.path.commonpath((place, root)) == root for root in roots) for place in places)
    if wrong:
        raise ConfigError(
            f"{key[:80]}: expected a path inside the service's folders, without .., ~, \\ or :/, got another: "
            "copy the file there, or ask the service's admin to add its folder (--root)"
        )


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def check_composed(config: Mapping[str, Any], settings: Settings) -> None:
    """Check what overrides and options became together: the options in the service's folder may be anybody's, too.

    Raises:
        ConfigError: If it names code that no packaged option names, trusts packages, starts processes by a launcher
            that is not allowed, or writes or tracks elsewhere.
    """
    for place, target in _targets(config, ""):
        if not allowed(target):
            raise ConfigError(f"{place}: expected what a packaged option names, got other code: choose an option")
    if config.get("trusted"):
        raise ConfigError("trusted: it may not be submitted over HTTP: submit on the machine itself")
    if (launcher := config.get("launcher")) is not None:
        name = str(launcher["_target_"]).split(".")[-2]
        if name not in settings.launchers:
            raise ConfigError(f"launcher: expected one of {', '.join(sorted(settings.launchers))}, got {name}")
    if os.path.realpath(settings.cwd / str(config["runs"])) != os.path.realpath(settings.runs):
        raise ConfigError("runs: expected the service's folder of runs: leave it out")


def _targets(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inside in value.items():
            where = f"{place}.{key}" if place else str(key)
            if key == "_target_":
                yield where, inside
            else:
                yield from _targets(inside, where)
    elif isinstance(value, list | tuple):
        for i, inside in enumerate(value):
            yield from _targets(inside, f"{place}.{i}")

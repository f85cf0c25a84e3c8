"""Configuration → objects: the constructor is looked up and the settings are checked against its signature.

A setting that does not fit raises a one-line error that names the key. `check` reads the source only, before
a run starts; `make` imports the constructor and checks all settings.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, TypeAdapter, ValidationError

from recsys.config.options import packaged_targets, present_name
from recsys.config.signature import parameters
from recsys.errors import ConfigError, in_one_line, nearest
from recsys.versions import module_of

__all__ = ["Part", "allowed", "check", "check_value", "make", "make_dataclass", "targets", "trust"]

T = TypeVar("T")
Part = Mapping[str, Any]
"""Settings of an option of a group, as in JSON; `_target_` names what they build."""
_LOOSE = ConfigDict(arbitrary_types_allowed=True)
_GIVEN = {
    "model": 1,
    "embedding": 1,
    "sequence": 1,
    "head": 1,
    "optimizer": 3,
    "selection": 1,
    "benchmark": 1,
}
"""Group → count of first arguments that the pipeline itself passes, so that no configuration may set them."""
_OLD_SELECTOR = ["model", "train", "valid", "recipe", "seed"]
"""The first parameters of selectors in the old form, before they took one `Search`."""

_COMPRESSORS = {"tables": ["tables", "reads", "fisher"], "model": ["model", "rows"]}
"""First parameter of a compressor → the arguments that it is called with."""

logging.getLogger(get_object.__module__).addFilter(lambda _: False)  # it logs the error that it raises, on three lines

_trusted: set[str] = set()  # packages that the user trusts, in this process


class _Folder:
    """A finder for Python's imports: it finds the named packages in a folder, and nothing else in that folder."""

    path = ""
    names: frozenset[str] = frozenset()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """The package of that name, if it is one of `names`; Python calls this."""
        return PathFinder.find_spec(name, [self.path]) if name in self.names else None


_folder = _Folder()


def trust(packages: Sequence[str]) -> None:
    """Let `_target_` name what these packages define, from now on and in this process only.

    A package that is not installed is looked for in the current folder. Nothing else in that folder can be imported:
    another package that imports `triton` never gets a file `triton.py`, or a data folder `triton`, from there.

    Args:
        packages: Dotted names of packages or modules.

    Raises:
        ConfigError: If there is no such package.
    """
    _folder.path, _folder.names = str(Path.cwd()), frozenset(p.partition(".")[0] for p in packages)
    if _folder not in sys.meta_path:
        sys.meta_path.append(_folder)
    for package in packages:
        top = package.partition(".")[0]
        if top not in sys.modules and (not top or find_spec(top) is None):
            raise ConfigError(
                f"trusted: expected packages that are installed or in {_folder.path}, got {package!r}: "
                "check the spelling"
            )
    _trusted.clear()
    _trusted.update(packages)


def check_value(value: Any, hint: Any, place: str) -> Any:
    """A value in the type of its hint: a whole number becomes a float if the hint is float.

    Raises:
        ConfigError: If it has another type, or is out of the hint's range.
    """
    try:
        return TypeAdapter[Any](hint, config=_LOOSE).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inside = "".join(f".{part}" for part in first["loc"])
        raise ConfigError(
            f"{place}{inside}: {first['msg'].lower()}, got {first['input']!r}: give such a value"
        ) from error


def _known(given: Mapping[str, Any], known: list[str], place: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(
            f"{place}: unknown {', '.join(unknown)}: expected some of {', '.join(known) or 'nothing'}"
            f"{nearest(unknown[0], known)}"
        )


def _package(target: str) -> str | None:
    """The trusted package that a name is in; None if it is in none."""
    return next((p for p in _trusted if target.startswith(f"{p}.")), None)


def allowed(target: Any) -> bool:
    """Whether a configuration may name it: a packaged option names it, or a trusted package holds it."""
    return isinstance(target, str) and (present_name(target) in packaged_targets() or _package(target) is not None)


def _target(config: Mapping[str, Any], place: str) -> str:
    target = config.get("_target_")
    if not isinstance(target, str) or not allowed(target):
        raise ConfigError(
            f"{place}._target_: expected what a packaged option names, got {target!r}: choose an option of the group, "
            "or add trusted=[PACKAGE] if it is your own code"
        )
    return present_name(target)


def _given(place: str, names: list[str]) -> int:
    """How many first arguments the pipeline passes to an option of the group at `model`, or at `distill.model`."""
    if place in ("compression", "quantization", "heal"):
        return len(_COMPRESSORS.get(names[0] if names else "", ()))
    return next((_GIVEN[part] for part in place.split(".") if part in _GIVEN), 0)


def _arguments(config: Mapping[str, Any], hints: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The checked settings of a configuration; unknown settings and wrong types are refused."""
    if list(hints)[: len(_OLD_SELECTOR)] == _OLD_SELECTOR:
        raise ConfigError(
            f"{place}: expected a selector that takes one Search, {config['_target_']} takes "
            f"{', '.join(_OLD_SELECTOR)}: begin it with `def select(search, *, SETTINGS)`, and read search.model, "
            "search.train, search.valid, search.build, search.how and search.seed"
        )
    first = _given(place, list(hints))
    if len(hints) < first or (first == 0 and place in ("compression", "quantization", "heal")):
        called = " or ".join(f"({', '.join(names)}, SETTINGS)" for names in _COMPRESSORS.values())
        raise ConfigError(
            f"{place}: expected a method that takes {called}, {config['_target_']} takes ({', '.join(hints)}): "
            "give it such parameters"
        )
    given = {str(k): v for k, v in config.items() if k not in ("_target_", "_partial_")}
    _known(given, list(hints)[first:], place)
    return {k: check_value(v, hints[k], f"{place}.{k}") for k, v in given.items()}


def check(config: Mapping[str, Any], place: str) -> list[str]:
    """Check what `make` would, from the source if possible, else by an import → the names of all parameters.

    Args:
        config: A resolved configuration with a `_target_`.
        place: Its key, for messages.

    Raises:
        ConfigError: As `make`.
    """
    hints = parameters(_target(config, place))
    if hints is None:
        return list(inspect.signature(make(config, place)).parameters)
    _arguments(config, hints, place)
    return list(hints)


def make(config: Mapping[str, Any], place: str) -> Callable[..., Any]:
    """The function or class that `_target_` names, with the other keys as its arguments.

    Args:
        config: A resolved configuration with the `_target_` of a packaged option, or one that a trusted
            package defines; `_partial_` is ignored.
        place: Its key, for messages.

    Returns:
        A callable that takes the arguments that the configuration does not set.

    Raises:
        ConfigError: If the target is absent, unknown, or neither packaged nor trusted (a configuration can
            run code), or an argument is unknown or of the wrong type.
    """
    target = _target(config, place)
    try:
        thing = get_object(target)
    except Exception as error:
        absent = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if absent and not f"{target}.".startswith(f"{absent}."):
            raise ConfigError(f"{place}._target_: {target} imports {absent}: install it, or trust it too") from error
        reason = in_one_line(error.__cause__ or error)
        raise ConfigError(f"{place}._target_: cannot find {target}: {reason}: check the spelling") from error
    home, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    package = None if target in packaged_targets() else _package(target)
    defined = f"{home}.{name}" == target if package is None else home == package or str(home).startswith(f"{package}.")
    if not defined or not callable(thing):  # what a module imports is not its own code: shop.os.system is os.system
        raise ConfigError(f"{place}._target_: {target} is {home}.{name} in truth: name what its own module defines")
    hints = get_type_hints(thing.__init__ if inspect.isclass(thing) else thing, include_extras=True)
    hints = {n: hints.get(n, Any) for n in inspect.signature(thing).parameters}
    return partial(thing, **_arguments(config, hints, place))


def make_dataclass(kind: type[T], config: Mapping[str, Any], place: str) -> T:
    """A dataclass from a configuration; types are checked.

    Raises:
        ConfigError: If a key is unknown or missing, or a value of the wrong type or out of range.
    """
    known: dict[str, bool] = {f.name: f.default is f.default_factory for f in fields(kind)}  # type: ignore[arg-type]  # T is one
    given = {str(k): v for k, v in config.items()}
    _known(given, list(known), place)
    if lacking := sorted(name for name, needed in known.items() if needed and name not in given):
        raise ConfigError(f"{place}: no value for {', '.join(lacking)}: leave it as it is, or set it")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{k: check_value(v, hints[k], f"{place}.{k}") for k, v in given.items()})


def targets(config: Any) -> list[str]:
    """The modules of everything that a configuration builds: each `_target_` without its last name."""
    if isinstance(config, Mapping):
        target = config.get("_target_")
        modules = [module_of(present_name(target))] if isinstance(target, str) else []
        return sorted({m for m in modules if m}.union(*(targets(v) for v in config.values())))
    if isinstance(config, list | tuple):
        return sorted(set[str]().union(*(targets(v) for v in config)))
    return []

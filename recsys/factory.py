"""Configuration → objects: Hydra's instantiate, with the arguments checked first.

The constructor is looked up, its arguments are compared with its signature and type hints, and
what does not fit is a one-line error that names the key.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, TypeAdapter, ValidationError

from recsys.errors import ConfigError

__all__ = ["make", "make_dataclass"]

T = TypeVar("T")
_LOOSE = ConfigDict(arbitrary_types_allowed=True)


def _checked(value: Any, hint: Any, at: str) -> Any:
    try:
        return TypeAdapter[Any](hint, config=_LOOSE).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inside = "".join(f".{part}" for part in first["loc"])
        raise ConfigError(f"{at}{inside}: {first['msg'].lower()}, got {first['input']!r}: change it") from error


def _known(given: Mapping[str, Any], known: list[str], at: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"{at}: unknown {', '.join(unknown)}: expected some of {', '.join(known)}")


def make(config: Mapping[str, Any], at: str) -> Callable[..., Any]:
    """The function or class that `_target_` names, with the other keys as its arguments.

    Args:
        config: A resolved configuration with a `_target_` inside recsys; `_partial_` is ignored.
        at: Where it stands, for messages.

    Returns:
        A callable that takes what the configuration does not give.

    Raises:
        ConfigError: If the target is absent, unknown or outside recsys (configuration is code), or
            an argument is unknown or of the wrong type.
    """
    target = config.get("_target_")
    if not isinstance(target, str) or not target.startswith("recsys."):
        raise ConfigError(
            f"{at}._target_: expected a name inside recsys, got {target!r}: choose an option of the group"
        )
    try:
        found = get_object(target)
    except Exception as error:
        raise ConfigError(f"{at}._target_: cannot find {target}: check the spelling") from error
    given = {str(k): v for k, v in config.items() if k not in ("_target_", "_partial_")}
    _known(given, list(inspect.signature(found).parameters), at)
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
    return partial(found, **{k: _checked(v, hints.get(k, Any), f"{at}.{k}") for k, v in given.items()})


def make_dataclass(kind: type[T], config: Mapping[str, Any], at: str) -> T:
    """A dataclass from a configuration, types checked.

    Raises:
        ConfigError: If a key is unknown, or a value of the wrong type or out of range.
    """
    given = {str(k): v for k, v in config.items()}
    _known(given, [f.name for f in fields(kind)], at)  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    return kind(**{k: _checked(v, hints[k], f"{at}.{k}") for k, v in given.items()})

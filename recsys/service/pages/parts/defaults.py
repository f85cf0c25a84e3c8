"""What experiments and options say: a configuration is shown as its differences from those that it has chosen."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

from recsys.errors import RecsysError
from recsys.files import Json
from recsys.service.compare import differences
from recsys.service.options import group_names

__all__ = ["PLACES", "Defaults", "options_in"]

PLACES = ("runs", "tracking.uri")  # where a service works says nothing of a run
_OPTION = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
_SECONDS = 30.0  # options may be edited meanwhile


def options_in(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides that choose an option of a group.

    >>> options_in(["data=shop", "train.lr=.1", "model=fm", "seed=3"])
    ('data=shop', 'model=fm')
    """
    return tuple(
        o for o in overrides if o.partition("=")[0] in group_names() and _OPTION.fullmatch(o.partition("=")[2])
    )


class Defaults:
    """The configurations of experiments and options without overrides of settings, kept for half a minute.

    Args:
        compose: Overrides → the configuration.
    """

    def __init__(self, compose: Callable[[list[str]], Mapping[str, Any]]):
        self._compose, self._lock = compose, Lock()
        self._kept: dict[tuple[str, ...], tuple[float, Mapping[str, Any] | None]] = {}

    def _of(self, options: tuple[str, ...]) -> Mapping[str, Any] | None:
        """The configuration of some options; None if it cannot be composed any more."""
        with self._lock:
            until, config = self._kept.get(options, (0.0, None))
            if until < time.monotonic():
                try:
                    config = self._compose(list(options))
                except RecsysError:
                    config = None
                self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= time.monotonic()}
                self._kept[options] = (time.monotonic() + _SECONDS, config)
            return config

    def changes(self, overrides: Sequence[str], config: Mapping[str, Any]) -> list[Json] | None:
        """What a configuration sets otherwise than the options that it has chosen; None if nobody can tell.

        Args:
            overrides: As they were typed: those that choose an option count.
            config: The configuration.

        Returns:
            As `differences`.
        """
        base = self._of(options_in(overrides)) if config else None
        return None if base is None else [d for d in differences(config, base) if d["key"] not in PLACES]

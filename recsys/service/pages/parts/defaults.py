"""What experiments say without overrides: a configuration is shown as its differences from that."""

import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from recsys.errors import RecsysError
from recsys.files import Json
from recsys.service.compare import differences

__all__ = ["PLACES", "Defaults"]

PLACES = ("runs", "tracking.uri")  # where a service works says nothing of a run
_SECONDS = 30.0  # options may be edited meanwhile


class Defaults:
    """The configurations of experiments without overrides, kept for half a minute.

    Args:
        compose: Overrides → the configuration.
    """

    def __init__(self, compose: Callable[[list[str]], Mapping[str, Any]]):
        self._compose, self._lock = compose, Lock()
        self._kept: dict[str | None, tuple[float, Mapping[str, Any] | None]] = {}

    def _of(self, experiment: str | None) -> Mapping[str, Any] | None:
        """The configuration of an experiment, or without one; None if it cannot be composed any more."""
        with self._lock:
            until, config = self._kept.get(experiment, (0.0, None))
            if until < time.monotonic():
                try:
                    config = self._compose([f"experiment={experiment}"] if experiment else [])
                except RecsysError:
                    config = None
                self._kept[experiment] = (time.monotonic() + _SECONDS, config)
            return config

    def changes(self, experiment: str | None, config: Mapping[str, Any]) -> list[Json] | None:
        """What a configuration sets otherwise than its experiment, as `differences`; None if nobody can tell."""
        base = self._of(experiment) if config else None
        return None if base is None else [d for d in differences(config, base) if d["key"] not in PLACES]

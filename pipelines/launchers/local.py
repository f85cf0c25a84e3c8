"""No other process: the run goes on where it was typed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Local"]


@dataclass(frozen=True)
class Local:
    """The run's one process is this one."""

    processes = 1
    attempts = 1

    def start(self, command: Sequence[str], folder: Path) -> None:
        """Start nothing."""

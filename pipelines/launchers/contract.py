"""What a launcher is: it starts the processes (ranks) of a run somewhere, each with torchrun's variables."""

import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from recsys.errors import ConfigError

__all__ = ["TOKEN", "Launched", "Launcher", "extra", "first_failure", "resuming"]

TOKEN = "RECSYS_RUN_TOKEN"  # environment variable of all processes of a run that a worker of the service started


def resuming(id: str) -> str:
    """The command that goes on with this process's run: the queue's, if a worker of the service started the process."""
    return f"recsys resume {id}" if TOKEN in os.environ else f"recsys run resume={id}"


class Launched(Protocol):
    """The processes of a run, once they are started."""

    def poll(self) -> int | None:
        """→ None while they run, then 0, or what the first failed one ended with: its exit code or −signal."""
        ...

    def cancel(self) -> None:
        """End them all, and wait until they have ended; nothing if they have."""
        ...


class Launcher(Protocol):
    """Starts a command `processes` times, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set."""

    processes: int

    @property
    def attempts(self) -> int:
        """How often `start` may be called for one run; 1 if the launcher starts dead processes again itself."""
        ...

    def start(self, command: Sequence[str], folder: Path) -> Launched | None:
        """Start the processes in the current folder → these; None if the run is to go on in this process.

        Args:
            command: Program and arguments, the same for every process.
            folder: The run's folder, absolute, where notes of the launcher may stand under hidden names.

        Raises:
            ConfigError: If they cannot start.
        """
        ...


def first_failure(codes: Iterable[int]) -> int:
    """What the first process that failed ended with; 0 if none did."""
    return next((code for code in codes if code), 0)


def extra(module: str, name: str) -> Any:
    """Import a package that only one launcher needs.

    Args:
        module: Its import name.
        name: The extra of recsys that installs it.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(
            f"launcher: expected the package {module}, which is not installed: pip install 'recsys[{name}]'"
        ) from error

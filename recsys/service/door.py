"""What the commands and the HTTP interface ask of the service, whether its database or its server answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from recsys.files import Json
from recsys.service.queue.records import Event, Needs, QueuedRun, Schedule, State

__all__ = ["Door", "LogPart", "Submission"]


@dataclass(frozen=True)
class Submission:
    """What is asked of `recsys submit`.

    Args:
        overrides: Hydra overrides, as after `recsys run`.
        multirun: Whether they are a sweep, whose runs become children of one parent.
        name: For people; by default the configuration's.
        priority: Larger runs earlier.
        after: Ids of runs that must have finished first.
        client_key: A second submission with the same key is the same run.
        needs: What each run takes of a machine.
        every: Schedule, such as `day@03:00`; None runs once.
    """

    overrides: list[str]
    multirun: bool = False
    name: str | None = None
    priority: int = 0
    after: list[str] = field(default_factory=list)
    client_key: str | None = None
    needs: Needs = field(default_factory=Needs)
    every: str | None = None


@dataclass(frozen=True)
class LogPart:
    """A piece of a run's log.

    Args:
        text: Its bytes; empty at the end of the log.
        start: Offset of the first byte: 0 if the log has become shorter than what was asked for.
    """

    text: bytes
    start: int

    @property
    def next(self) -> int:
        """The offset to ask for next."""
        return self.start + len(self.text)


class Door(Protocol):
    """All that a command can do; `local.LocalDoor` works on the database, `remote.HttpDoor` asks a server."""

    def submit(self, asked: Submission) -> list[QueuedRun]:
        """Check, compose and queue a run; of a sweep, the parent and then its children.

        Raises:
            ConfigError: If a setting is invalid; nothing has been queued then.
        """
        ...

    def check(self, asked: Submission) -> list[dict[str, Any]]:
        """The configurations that `submit` would queue, one a run.

        Raises:
            ConfigError: If a setting is invalid.
        """
        ...

    def runs(
        self,
        states: Sequence[State] = (),
        parent: str | None = None,
        text: str = "",
        before: int | None = None,
        limit: int = 50,
    ) -> list[QueuedRun]:
        """Rows, the newest first, as `Queue.find`; runs begun by `recsys run` are among them."""
        ...

    def get(self, id: str) -> QueuedRun:
        """One row.

        Raises:
            ConfigError: If there is none; the message names the nearest id.
        """
        ...

    def compare(self, ids: Sequence[str]) -> Json:
        """What differs between runs, as `recsys.service.compare.compare`; of a sweep its runs.

        Raises:
            ConfigError: If there is none of an id, or they are too many.
        """
        ...

    def log(self, id: str, start: int = 0) -> LogPart:
        """The next piece of a run's log, of at most 1 MiB.

        Raises:
            ConfigError: If there is no such run.
        """
        ...

    def cancel(self, id: str) -> QueuedRun:
        """Ask to stop a run, or all children of a sweep.

        Raises:
            ConfigError: If it has ended, or there is none.
        """
        ...

    def resume(self, id: str, dead: bool = False) -> QueuedRun:
        """Queue a run again, which goes on from its checkpoint.

        Args:
            id: Of the run.
            dead: Whether a person has seen that the processes of a run in state `unknown` are gone.

        Raises:
            ConfigError: If it cannot be resumed.
        """
        ...

    def retry(self, id: str) -> QueuedRun:
        """Queue the same configuration as a new run → its row."""
        ...

    def events(self, after: int = 0, run: str | None = None, limit: int = 1000) -> list[Event]:
        """Events with a larger id, the oldest first."""
        ...

    def schedule(self, asked: Submission) -> Schedule:
        """Submit a run at the times of `asked.every`, from now on.

        Raises:
            ConfigError: If a setting is invalid, it is a sweep, or another schedule has its name.
        """
        ...

    def schedules(self) -> list[Schedule]:
        """All schedules, by name."""
        ...

    def remove_schedule(self, id: str) -> Schedule:
        """End a schedule; its runs stay.

        Raises:
            ConfigError: If there is none; the message names the nearest.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...

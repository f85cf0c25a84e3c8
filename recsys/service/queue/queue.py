"""The queue's door: submit, claim, heartbeat, end, cancel, resume; each is one transaction."""

from collections.abc import Sequence
from typing import Any, Protocol

from recsys.service.queue.records import STOPPED, Claim, Event, Live, Load, Needs, NewRun, QueuedRun, State

__all__ = ["Queue"]


class Queue(Protocol):
    """The contract; `recsys.service.queue.sql.SqlQueue` keeps it on SQLite and Postgres.

    Every method may be called from any thread, and by many processes at once.
    """

    def submit(self, runs: Sequence[NewRun], /) -> list[QueuedRun]:
        """Add runs in one transaction, all or none → their rows; of a known client key, the row that is there.

        Raises:
            ConfigError: If `after` or `parent` names no run, a client key is known for another configuration or is
                like those of schedules, runs wait for each other in a circle, or one can never fit on any worker.
        """
        ...

    def get(self, id: str) -> QueuedRun:
        """One row.

        Raises:
            ConfigError: If there is none; the message names the nearest id.
        """
        ...

    def get_all(self, ids: Sequence[str]) -> list[QueuedRun]:
        """Rows with their configurations, in the order of their ids, each once.

        Raises:
            ConfigError: If there is none of an id.
        """
        ...

    def find(
        self,
        states: Sequence[State] = (),
        parent: str | None = None,
        text: str = "",
        before: int | None = None,
        limit: int = 50,
        top: bool = False,
    ) -> list[QueuedRun]:
        """Rows, the newest first, with an empty `config` each: `get` and `configs` read that.

        Args:
            states: Only in these; all if empty.
            parent: Only the children of this sweep.
            text: Only with these letters in the id, the name or the overrides.
            before: Only with a smaller `number`: the next page.
            limit: Most rows.
            top: Without the runs of sweeps; their parents are there.
        """
        ...

    def configs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Id → configuration, for the ids that exist."""
        ...

    def claim(self, worker: str, host: str, room: Needs) -> Claim | None:
        """Take the first run that fits beside what runs on this host already; None if there is none.

        Order: priority, then age; a run waits until all that it comes after have finished.

        Args:
            worker: Name of the worker, unique.
            host: Name of its machine.
            room: All that the machine gives to runs.
        """
        ...

    def began(self, claim: Claim, pid: int, pgid: int, boot: str, process_start: int) -> None:
        """Note the process of a run.

        Raises:
            LeaseLost: If another worker has the run now; so do `beat`, `note` and `end`.
        """
        ...

    def beat(self, claim: Claim) -> bool:
        """Renew the lease → whether somebody asked to stop the run; an `unknown` run is `running` again."""
        ...

    def note(self, claim: Claim, live: Live) -> None:
        """Copy how far the run has got into the table, and what changed into the events."""
        ...

    def end(self, claim: Claim, state: State, exit: int | None, reason: str | None) -> QueuedRun:
        """End the run, once; or give it back as `queued` (an attempt that goes on later).

        The same call again, after its answer was lost, changes nothing; nor does it raise.
        """
        ...

    def overdue(self) -> list[QueuedRun]:
        """Runs, running or unknown, whose lease has ended: their worker may be dead."""
        ...

    def take_back(
        self,
        run: QueuedRun,
        dead: bool,
        most_attempts: int,
        exit: int | None = None,
        reason: str | None = None,
    ) -> QueuedRun:
        """Put a run back that is overdue, or whose process its own worker saw die.

        Args:
            run: As `overdue` or `get` gave it; nothing changes if it has been renewed or claimed since.
            dead: Whether its process group was seen dead: it is `queued` again, `cancelled` if somebody asked to
                stop it, or `failed` after so many attempts. Else it is `unknown`.
            most_attempts: Attempts after which a run whose worker or process died each time fails.
            exit: What its process ended with, if that is known.
            reason: Why it died, if that is known.
        """
        ...

    def cancel(self, id: str, reason: str = STOPPED) -> QueuedRun:
        """Ask to stop a run, or all children of a sweep; one that is queued is cancelled at once.

        Args:
            id: Of the run or sweep.
            reason: Why, on one line; if it was asked to stop already, the earlier reason stays.

        Raises:
            ConfigError: If it has ended already, or there is none.
        """
        ...

    def resume(self, id: str, dead: bool = False) -> QueuedRun:
        """Queue a run again that failed or was cancelled; it keeps its id and goes on from its checkpoint.

        Of a sweep, queue all runs again that failed or were cancelled.

        Args:
            id: Of the run or sweep.
            dead: Somebody has seen that the processes of an `unknown` run are gone: queue it too.

        Raises:
            ConfigError: If it is queued, running, finished or unknown, never started, or was begun by `recsys run`.
        """
        ...

    def retry(self, id: str) -> QueuedRun:
        """Submit the same configuration as a new run, of no sweep → its row.

        Raises:
            ConfigError: If there is no such run, or it is a sweep.
        """
        ...

    def events(self, after: int = 0, run: str | None = None, limit: int = 1000) -> list[Event]:
        """Events with a larger id, the oldest first; of a run's `progress`, only the newest is kept."""
        ...

    def counts(self) -> dict[State, int]:
        """State → count of runs; sweeps are not counted."""
        ...

    def load(self) -> Load:
        """How busy the queue is; quick with 10,000 runs and a million events."""
        ...

    def attend(self, worker: str, host: str, room: Needs) -> None:
        """Say that a worker is there, every few seconds: a run that fits on no known worker is refused at submit."""
        ...

    def leave(self, worker: str) -> None:
        """Say that a worker has ended for good."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...

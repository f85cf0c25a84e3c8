"""What travels between the queue, the workers, the HTTP interface and the commands: frozen dataclasses.

Times are seconds since 1970 by the clock of the database, never by that of a worker.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

__all__ = [
    "ENDED",
    "MOST_LETTERS",
    "MOST_LISTED",
    "PRUNED",
    "RANGES",
    "STATES",
    "STOPPED",
    "Claim",
    "Event",
    "Kind",
    "Live",
    "Load",
    "Needs",
    "NewRun",
    "QueuedRun",
    "Schedule",
    "State",
    "Worker",
    "whole_number",
]

State = Literal["queued", "running", "unknown", "finished", "failed", "cancelled", "killed"]
"""How a run stands.

queued     waits for other runs, or for room on a worker
running    a worker holds it; it is being cancelled if `cancel_asked_at` is set
unknown    its worker has vanished, and nobody can see whether its processes still run: it is shown, and not run again
finished   ended well
failed     an error ended it
cancelled  somebody stopped it
killed     begun by `recsys run`, and its process died; the queue's own runs go back to `queued` instead
"""

STATES: tuple[State, ...] = ("queued", "running", "unknown", "finished", "failed", "cancelled", "killed")
ENDED: frozenset[State] = frozenset(("finished", "failed", "cancelled", "killed"))
STOPPED = "stopped on request"  # why a run is cancelled
PRUNED = "pruned by its sweep: worse than the median of the trials before it"  # likewise

RANGES = {"priority": (-1_000_000, 1_000_000), "cores": (1, 4096), "memory": (0, 1 << 50), "gpus": (0, 1024)}
"""Least and largest number of each kind that a submission may ask for."""


def whole_number(name: str, value: int) -> str:
    """What is wrong with a number that is outside of its range."""
    least, most = RANGES[name]
    return f"expected a whole number from {least} to {most}, got {value}: give such a number"


_ALIVE = 60.0  # seconds since its last heartbeat in which a worker counts as alive
MOST_LISTED = 1000  # rows of a list, runs or events
MOST_LETTERS = 200  # of a name or a client key

Kind = Literal["run", "sweep", "direct"]
"""`run`: a worker runs it. `sweep`: a parent without a process, whose state follows from its children's.
`direct`: begun by `recsys run`, and known from its folder only."""


@dataclass(frozen=True)
class Needs:
    """What a run takes of a machine, or what a machine has.

    Args:
        cores: CPU cores; a run gets so many threads.
        memory: Bytes.
        gpus: Count of GPUs.
    """

    cores: Annotated[int, Ge(1)] = 1
    memory: Annotated[int, Ge(0)] = 2 << 30
    gpus: Annotated[int, Ge(0)] = 0

    def fits(self, room: "Needs") -> bool:
        """Whether a machine with so much room can take it."""
        return self.cores <= room.cores and self.memory <= room.memory and self.gpus <= room.gpus


@dataclass(frozen=True)
class NewRun:
    """A run that is checked and composed, for the queue.

    Args:
        id: Path of its folder below the folder of runs; unique. The queue adds letters if it is taken.
        overrides: What was typed after `recsys submit`, for people and for resuming.
        config: The composed configuration (JSON of `RunConfig`), which the run executes exactly.
        digest: 16 hexadecimal digits that name the configuration.
        runs: The folder of runs, absolute.
        cwd: The folder that it was submitted in, absolute: relative paths of its configuration start there.
        name: For people.
        experiment: Option of the group `experiment`; None without one.
        kind: `run` or `sweep`.
        parent: Id of the sweep that it belongs to.
        client_key: A second submission with the same key is the same run.
        priority: Larger runs earlier; equal ones by age.
        after: Ids of runs that must have finished first.
        needs: What it takes of a machine.
        git: `commit` and `dirty` of the folder that it was submitted in.
        user: Who submitted it.
    """

    id: str
    overrides: list[str]
    config: dict[str, Any]
    digest: str
    runs: str
    cwd: str
    name: str
    experiment: str | None = None
    kind: Kind = "run"
    parent: str | None = None
    client_key: str | None = None
    priority: int = 0
    after: list[str] = field(default_factory=list)
    needs: Needs = Needs()
    git: dict[str, Any] = field(default_factory=dict)
    user: str = ""


@dataclass(frozen=True)
class Live:
    """How far a run has got, as its run.json says: the worker copies it into the table.

    Args:
        stage: The running stage; None before the first and after the last.
        progress: `done`, `total`, `unit`, and `per_second` (units a second of late), if the stage counts.
        metrics: Stage → its figures, as run.json has them.
        note: The newest line for a person.
    """

    stage: str | None = None
    progress: dict[str, Any] | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class QueuedRun:
    """A row of the table.

    Args:
        new: What was submitted.
        number: Ascends with age.
        state: How it stands.
        reason: Why it is in this state, on one line: the error, what it waits for, who stopped it.
        attempt: How often it has been claimed.
        owner: The worker that holds it, or held it last.
        host: The machine of that worker.
        pid: Process id of the run, which leads the process group `pgid`; with `boot` and `process_start` it names
            one process for ever.
        pgid: Its process group.
        boot: Id of the boot of that machine.
        process_start: When the process started, in clock ticks since that boot.
        lease_until: When another worker may look whether it is dead.
        heartbeat_at: When its worker was heard last.
        cancel_asked_at: When somebody asked to stop it.
        submitted_at: When it was submitted.
        started_at: When it was claimed first.
        ended_at: When it ended.
        exit: Exit code of its process, −signal if a signal ended it.
        live: How far it has got.
    """

    new: NewRun
    number: int
    state: State
    reason: str | None = None
    attempt: int = 0
    owner: str | None = None
    host: str | None = None
    pid: int | None = None
    pgid: int | None = None
    boot: str | None = None
    process_start: int | None = None
    lease_until: float | None = None
    heartbeat_at: float | None = None
    cancel_asked_at: float | None = None
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    exit: int | None = None
    live: Live = Live()

    @property
    def id(self) -> str:
        """The run's id: the path of its folder below the folder of runs."""
        return self.new.id

    @property
    def word(self) -> str:
        """Its state as people say it: `stopping` once it was asked to stop, `pruned` if its sweep has stopped it."""
        if self.cancel_asked_at is not None and self.state in ("running", "unknown"):
            return "stopping"
        return "pruned" if self.state == "cancelled" and self.reason == PRUNED else self.state


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a run: every change of the run names the token, and fails once another worker has it.

    Args:
        run: The row as it was claimed.
        token: 32 hexadecimal digits, new with each claim.
        lease_seconds: So long another worker leaves the run alone after a heartbeat.
    """

    run: QueuedRun
    token: str
    lease_seconds: float


@dataclass(frozen=True)
class Event:
    """One line of what happened, append only.

    Args:
        id: Ascends; a reader that has seen up to N asks for those after N.
        run: Id of the run.
        at: When.
        kind: `state` (payload: `state`, `reason`), `stage` (`stage`), `metrics` (`stage`, `step`, figures),
            `progress`, `note`, `cancel`, `claim`, `lost` (a lease).
        payload: What it says.
    """

    id: int
    run: str
    at: float
    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Worker:
    """A process that runs what is queued.

    Args:
        name: Unique.
        host: Name of its machine.
        room: All that the machine gives to runs.
        started_at: When it started.
        heartbeat_at: When it was heard last.
    """

    name: str
    host: str
    room: Needs
    started_at: float
    heartbeat_at: float


@dataclass(frozen=True)
class Load:
    """How busy the queue is, for /metrics, `recsys doctor --service` and the pages.

    Args:
        now: The time by the database's clock.
        newest_event: Id of the newest event; 0 if there is none.
        waiting_since: When the oldest run in state `queued` was submitted; None if none is.
        lost: How many leases have been lost: events of kind `lost`.
        workers: All that were heard in the last day.
        used: Host → sum of what its runs in state `running` or `unknown` take.
        broken: Names of schedules whose next run cannot be submitted; `recsys schedules` says why.
    """

    now: float
    newest_event: int
    waiting_since: float | None
    lost: int
    workers: list[Worker]
    used: dict[str, Needs]
    broken: list[str]

    @property
    def alive(self) -> list[Worker]:
        """The workers that were heard in the last minute."""
        return [w for w in self.workers if self.now - w.heartbeat_at <= _ALIVE]


@dataclass(frozen=True)
class Schedule:
    """A run that is submitted at set times.

    Args:
        id: Its name, unique.
        every: When, such as `day@03:00`.
        zone: Time zone in which days begin, such as `Europe/Berlin`.
        template: The run.
        created_at: When it was added.
        next_at: When it is due next; in the past while an earlier run of it has not ended.
        last_run: Id of its newest run.
        problem: Why the run that is due cannot be submitted; it is tried again.
    """

    id: str
    every: str
    zone: str
    template: NewRun
    created_at: float
    next_at: float
    last_run: str | None = None
    problem: str | None = None

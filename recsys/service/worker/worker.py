"""The worker: claims runs as slots allow, starts them, renews their leases, and takes back runs of dead workers."""

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from recsys.errors import ConfigError, DataError, RecsysError
from recsys.files import disk_full, read_json
from recsys.service.queue.errors import LeaseLost, QueueDown
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Claim, Live, Needs, QueuedRun
from recsys.service.worker.attempt import COMMAND, Attempt, prepare
from recsys.service.worker.leases import Leases
from recsys.service.worker.processes import Identity, Verdict, mark, verdict
from recsys.service.worker.watch import Outcome, why_not

__all__ = ["Settings", "Worker", "verdict_of"]

_log = logging.getLogger("recsys.service.worker")
_TICK = 0.2  # seconds between two rounds


@dataclass(frozen=True)
class Settings:
    """How a worker works.

    Args:
        command: What runs a run; its folder follows.
        grace: Seconds from the wish to stop a run to SIGTERM, > 0; time to end a step and write a checkpoint.
            SIGKILL follows after half as long again.
        look: Seconds between two looks at a run.json, > 0.
        claim: Seconds between two questions for work, > 0.
        overdue: Seconds between two looks at leases that have ended, > 0.
        pause: Seconds without new runs after the disk was full.
        most_deaths: So often the processes of a run may die before it fails.
    """

    command: Sequence[str] = COMMAND
    grace: float = 60.0
    look: float = 1.0
    claim: float = 0.5
    overdue: float = 5.0
    pause: float = 10.0
    most_deaths: int = 5


def verdict_of(run: QueuedRun, host: str) -> Verdict:
    """Whether a process of a run lives, seen from a machine.

    Args:
        run: The row.
        host: Name of the machine.
    """
    folder, leader = Path(run.new.runs) / run.id, None
    if run.pid is not None:
        leader = Identity(run.pid, run.pgid or run.pid, run.boot or "", run.process_start or 0)
    try:
        token = read_json(folder / "owner.json", "the owner of a run", "", shape={"token": str})["token"]
    except DataError:
        token = None
    return verdict(leader, run.host == host, folder, mark(token))


class Worker:
    """Runs what is queued, until it is told to stop.

    Args:
        queue: The queue.
        room: What this machine gives to runs; the runs of all its workers share it.
        settings: How it works.
        host: Name of this machine; by default the host's.
        chore: Is called every few seconds, such as to submit what schedules want.
    """

    def __init__(
        self,
        queue: Queue,
        room: Needs,
        settings: Settings = Settings(),
        host: str | None = None,
        chore: Callable[[], object] | None = None,
    ):
        self.host = host or socket.gethostname()
        self.name = f"{self.host}-{token_hex(3)}"
        self._queue, self._room, self._settings, self._chore = queue, room, settings, chore
        self._attempts: list[Attempt] = []
        self._ends: list[tuple[Claim, Outcome]] = []  # what the queue does not know yet
        self._leases = Leases(queue, lambda: queue.attend(self.name, self.host, room))
        self._stopping, self._wake = 0, threading.Event()
        self._due: dict[str, float] = {}  # what is to happen not before when
        self._down = False

    def stop(self) -> None:
        """Take no more runs, let those that run stop at a checkpoint, and give them back; a second time ends them."""
        self._stopping += 1
        self._wake.set()

    def obey_signals(self) -> None:
        """Stop on SIGTERM and SIGINT; only the main thread may call this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Work until `stop` is called; returns once all its runs have ended or are given back.

        Args:
            until: Asked each round; true stops the worker too.
        """
        _log.info("worker %s takes runs: %s", self.name, self._room)
        with self._leases:
            while not self._stopping or self._attempts or self._ends:
                if not self._stopping and until():
                    self.stop()
                self._round()
                self._wake.wait(_TICK if not self._stopping else _TICK / 2)
                self._wake.clear()
        self._reached(lambda: self._queue.leave(self.name))
        _log.info("worker %s has ended", self.name)

    def _round(self) -> None:
        for attempt in list(self._attempts):
            self._look(attempt)
        for claim, outcome in list(self._ends):
            self._tell_end(claim, outcome)
        if self._stopping:
            return
        if self._is_due("overdue", self._settings.overdue):
            self._reached(self._take_back_overdue)
        if self._chore and self._is_due("chore", self._settings.overdue):
            self._reached(self._chore)
        if self._is_due("claim", self._settings.claim):
            self._reached(self._take_runs)

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + seconds
        return True

    def _reached(self, ask: Callable[[], object]) -> bool:
        """Ask the queue → whether it answered; the first of several failures is logged."""
        try:
            ask()
        except QueueDown as error:
            if not self._down:
                _log.warning("the queue does not answer, runs go on: %s", error)
            self._down = True
            return False
        if self._down:
            _log.info("the queue answers again")
        self._down = False
        return True

    def _look(self, attempt: Attempt) -> None:
        """See whether it has ended or is to stop, and tell the queue how far it has got."""
        if attempt.claim.token in self._leases.lost and not attempt.lost:
            _log.warning("run %s belongs to another worker now: it is ended", attempt.claim.run.id)
            attempt.lost = True
            attempt.kill()
        if self._stopping:
            attempt.kill() if self._stopping > 1 else attempt.stop("stop")
        code = attempt.ended()
        if code is None:
            if not attempt.lost and time.monotonic() >= attempt.looked + self._settings.look:
                attempt.looked = time.monotonic()
                self._reached(lambda: self._follow(attempt))
            return
        self._attempts.remove(attempt)
        attempt.close()
        if attempt.lost:
            self._leases.drop(attempt.claim)
            return
        live = attempt.watch.live()
        if live is not None:
            self._reached(lambda: self._note(attempt.claim, live))
        self._ends.append((attempt.claim, attempt.watch.outcome(code, attempt.why, self.name)))

    def _note(self, claim: Claim, live: Live) -> None:
        with suppress(LeaseLost):  # the next heartbeat says so
            self._queue.note(claim, live)

    def _follow(self, attempt: Attempt) -> None:
        """Copy run.json into the table, and see whether somebody asked to stop the run."""
        if (live := attempt.watch.live()) is not None:
            self._note(attempt.claim, live)
        try:
            row = self._queue.get(attempt.claim.run.id)
        except ConfigError:  # the row was removed: the next heartbeat says so
            return
        if row.cancel_asked_at is not None and row.attempt == attempt.claim.run.attempt:
            attempt.stop("cancel")

    def _tell_end(self, claim: Claim, outcome: Outcome) -> None:
        """Tell the queue how a run ended, until it answers."""
        if self._reached(lambda: self._end(claim, outcome)):
            self._ends.remove((claim, outcome))
            self._leases.drop(claim)
            _log.info("run %s: %s %s", claim.run.id, outcome.state, outcome.reason or "")

    def _end(self, claim: Claim, outcome: Outcome) -> None:
        try:
            if outcome.state == "killed":
                with self._leases.still:  # a renewed lease is not the one that was read
                    row = self._queue.get(claim.run.id)
                    if row.attempt == claim.run.attempt and row.state in ("running", "unknown"):
                        self._queue.take_back(row, True, self._settings.most_deaths, outcome.exit, outcome.reason)
            else:
                self._queue.end(claim, outcome.state, outcome.exit, outcome.reason)
        except LeaseLost as error:
            _log.warning("run %s: its end does not count: %s", claim.run.id, error)

    def _take_runs(self) -> None:
        """Claim and start runs until none fits."""
        while not self._stopping and time.monotonic() >= self._due.get("room", 0.0):
            claim = self._queue.claim(self.name, self.host, self._room)
            if claim is None:
                return
            self._leases.add(claim)
            self._start(claim)

    def _start(self, claim: Claim) -> None:
        id = claim.run.id
        try:
            attempt = Attempt(claim, prepare(claim), self._settings.command, self._settings.grace)
        except (RecsysError, OSError) as error:
            self._failed(claim, error)
            return
        try:
            attempt.begin(self._queue)
        except (RecsysError, OSError) as error:  # it has not begun, and ends with the pipe
            attempt.close()
            attempt.process.wait()
            self._failed(claim, error)
            return
        self._attempts.append(attempt)
        _log.info("run %s: attempt %d is process %d", id, claim.run.attempt, attempt.leader.pid)

    def _failed(self, claim: Claim, error: Exception) -> None:
        """Note that a run could not be started; for want of disk or database it is tried again later."""
        if isinstance(error, LeaseLost):
            self._leases.drop(claim)
            return
        later = isinstance(error, QueueDown) or (isinstance(error, OSError) and disk_full(error))
        if later:
            self._due["room"] = time.monotonic() + self._settings.pause
        self._ends.append((claim, Outcome("queued" if later else "failed", None, why_not(error))))

    def _take_back_overdue(self) -> None:
        """Queue again what dead workers held; show what cannot be seen."""
        for run in self._queue.overdue():
            seen = verdict_of(run, self.host)
            if seen == "alive" or (seen == "unknown" and run.state == "unknown"):
                continue
            after = self._queue.take_back(run, seen == "dead", self._settings.most_deaths)
            _log.warning("run %s of worker %s: its processes are %s: %s", run.id, run.owner, seen, after.state)

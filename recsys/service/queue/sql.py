"""The queue on SQLite and Postgres: each method is one transaction, and those that change anything run one by one.

SQLite has one writer at a time anyway (BEGIN IMMEDIATE). On Postgres an advisory lock does the same, for two reasons.
Ids of events must become visible in ascending order, else a reader that has seen number 8 misses number 7, whose
transaction ended later. And what is checked (slots of a machine, children of a sweep, names, circles) still holds when
it is written, by the same code on both. A transaction takes a few milliseconds; a heartbeat needs no lock.
"""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from re import sub
from typing import Any, cast

from sqlalchemy import Engine, delete, exists, func, select, text, update
from sqlalchemy.engine import Connection, RowMapping

from recsys.errors import ConfigError
from recsys.service.queue import claims
from recsys.service.queue.errors import clear_errors
from recsys.service.queue.records import (
    ENDED,
    STOPPED,
    Claim,
    Event,
    Live,
    Load,
    Needs,
    NewRun,
    QueuedRun,
    State,
    Worker,
)
from recsys.service.queue.rows import change, from_json, live_of, one, read, tell, to_runs
from recsys.service.queue.submission import KNOWN, add, check_keys, check_resume
from recsys.service.queue.tables import ACTIVE, LOST, READY, clock, run_configs, run_events, runs, schedules, workers

__all__ = ["LEASE", "LOCK", "WRITES", "SqlQueue"]

LEASE = 30.0  # seconds
LOCK = (
    "SELECT pg_advisory_xact_lock(7266392)"  # the letters of "recs" on a telephone and a bit more: any number will do
)
WRITES = {"writes": True}  # options of a connection whose transactions write


class SqlQueue:
    """The contract `Queue` on a database; `open_queue` makes one.

    Args:
        engine: Of a database that has the tables.
        lease_seconds: So long a run is left alone after a heartbeat of its worker.
    """

    def __init__(self, engine: Engine, lease_seconds: float = LEASE):
        self.engine, self._lease = engine, lease_seconds

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A transaction that sees one state of the tables."""
        with self._begun() as connection:
            yield connection

    @contextmanager
    def _begun(self, **options: Any) -> Generator[Connection]:
        with clear_errors(self.engine), self.engine.connect().execution_options(**options) as connection:  # noqa: SIM117
            with connection.begin():
                yield connection

    @contextmanager
    def changing(self, durable: bool = False) -> Generator[Connection]:
        """A transaction that changes the tables, while no other does.

        Args:
            durable: Whether it must survive a power cut at once, as what a person was told must.
        """
        with self._begun(**WRITES, durable=durable) as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(LOCK)
            yield connection

    def submit(self, runs_to_add: Sequence[NewRun]) -> list[QueuedRun]:
        check_keys(runs_to_add)
        with self.changing(durable=True) as connection:
            return read(connection, add(connection, runs_to_add))

    def get(self, id: str) -> QueuedRun:
        with self.reading() as connection:
            return read(connection, [one(connection, id)["number"]])[0]

    def get_all(self, ids: Sequence[str]) -> list[QueuedRun]:
        wanted = list(dict.fromkeys(ids))
        with self.reading() as connection:
            rows = connection.execute(select(runs.c.id, runs.c.number).where(runs.c.id.in_(wanted)))
            number = {id: n for id, n in rows}
            return read(connection, [number[id] if id in number else one(connection, id)["number"] for id in wanted])

    def find(
        self,
        states: Sequence[State] = (),
        parent: str | None = None,
        text: str = "",
        before: int | None = None,
        limit: int = 50,
        top: bool = False,
    ) -> list[QueuedRun]:
        rows = select(runs).order_by(runs.c.number.desc()).limit(limit)
        if states:
            rows = rows.where(runs.c.state.in_(states))
        if parent is not None:
            rows = rows.where(runs.c.parent == parent)
        if top:
            rows = rows.where(runs.c.parent.is_(None))
        if text:
            rows = rows.where(runs.c.words.contains(text.casefold(), autoescape=True))
        if before is not None:
            rows = rows.where(runs.c.number < before)
        with self.reading() as connection:
            return to_runs(connection, connection.execute(rows).mappings())

    def configs(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        stored = select(runs.c.id, run_configs.c.config).join(run_configs, run_configs.c.run == runs.c.number)
        with self.reading() as connection:
            return {id: from_json(config) for id, config in connection.execute(stored.where(runs.c.id.in_(ids)))}

    def claim(self, worker: str, host: str, room: Needs) -> Claim | None:
        with self.reading() as connection:  # most of the time nothing waits: that takes no lock
            if not connection.scalar(select(exists(select(runs.c.number).where(text(READY))))):
                return None
        with self.changing() as connection:
            return claims.claim(connection, worker, host, room, self._lease)

    def began(self, claim: Claim, pid: int, pgid: int, boot: str, process_start: int) -> None:
        with self.changing() as connection:
            row = claims.held(connection, claim, clock(connection))
            process = {"pid": pid, "pgid": pgid, "boot": boot, "process_start": process_start}
            connection.execute(update(runs).where(runs.c.number == row["number"]).values(process))

    def beat(self, claim: Claim) -> bool:
        with self._begun(**WRITES) as connection:
            asked = claims.hold(connection, claim, self._lease)
        if asked is not None:
            return asked
        with self.changing() as connection:
            claims.held(connection, claim, clock(connection))  # raises, or runs again after it was unknown
            return bool(claims.hold(connection, claim, self._lease))

    def note(self, claim: Claim, live: Live) -> None:
        with self.reading() as connection:
            row = claims.held(connection, claim)
            if row["state"] == "running" and live_of(row) == live:
                return
        with self.changing() as connection:
            claims.note(connection, claim, live)

    def end(self, claim: Claim, state: State, exit: int | None, reason: str | None) -> QueuedRun:
        with self.changing() as connection:
            return claims.end(connection, claim, state, exit, reason)

    def overdue(self) -> list[QueuedRun]:
        with self.reading() as connection:
            return to_runs(connection, claims.overdue(connection))

    def take_back(
        self,
        run: QueuedRun,
        dead: bool,
        most_attempts: int,
        exit: int | None = None,
        reason: str | None = None,
    ) -> QueuedRun:
        with self.changing() as connection:
            return claims.take_back(connection, run, dead, most_attempts, exit, reason)

    def cancel(self, id: str, reason: str = STOPPED) -> QueuedRun:
        with self.changing(durable=True) as connection:
            row, now = one(connection, id), clock(connection)
            children = _children(connection, id) if row["kind"] != "run" else [row]
            if row["kind"] == "direct":
                if row["state"] not in ENDED:
                    _stop_direct(row)
                children.append(row)
            if row["state"] in ENDED and all(c["state"] in ENDED for c in children):
                raise ConfigError(f"run {id} has ended already ({row['state']}): there is nothing to cancel")
            if row["kind"] == "sweep":
                connection.execute(update(runs).where(runs.c.number == row["number"]).values(cancel_asked_at=now))
            for child in children:
                if child["state"] not in ENDED:
                    _stop(connection, child, now, reason)
            if not children:
                change(connection, row, now, "cancelled", reason)
            return read(connection, [row["number"]])[0]

    def resume(self, id: str, dead: bool = False) -> QueuedRun:
        with self.changing(durable=True) as connection:
            row, now = one(connection, id), clock(connection)
            check_resume(connection, row, dead)
            children = [row]
            if row["kind"] == "sweep":
                children = [c for c in _children(connection, id) if c["state"] in ("failed", "cancelled")]
                if not children:
                    raise ConfigError(f"sweep {id} is {row['state']}: none of its runs failed or was cancelled")
            for child in children:
                free: dict[str, Any] = {"token": None, "lease_until": None, "cancel_asked_at": None}
                change(connection, child, now, "queued", "resumed", **free, deaths=0, exit=None)
            sweep = runs.c.id.in_([id, *([row["parent"]] if row["parent"] else [])]), runs.c.kind == "sweep"
            connection.execute(update(runs).where(*sweep).values(cancel_asked_at=None))
            return read(connection, [row["number"]])[0]

    def retry(self, id: str) -> QueuedRun:
        with self.changing(durable=True) as connection:
            row = one(connection, id)
            if row["kind"] != "run":
                mend = "submit it again" if row["kind"] == "sweep" else "recsys submit with its overrides"
                raise ConfigError(f"run {id}: expected a run of the queue, got one of kind {row['kind']}: {mend}")
            run = read(connection, [row["number"]])[0]
            name = sub(r"^\d{8}-\d{6}", time.strftime("%Y%m%d-%H%M%S"), id.replace("/", "-"))
            (number,) = add(connection, [replace(run.new, id=name, parent=None, client_key=None)])
            return read(connection, [number])[0]

    def events(self, after: int = 0, run: str | None = None, limit: int = 1000) -> list[Event]:
        rows = select(run_events).where(run_events.c.id > after).order_by(run_events.c.id).limit(limit)
        if run is not None:
            rows = rows.where(run_events.c.run == run)
        with self.reading() as connection:
            return [
                Event(id, run_id, when, kind, from_json(said))
                for id, run_id, when, kind, said in connection.execute(rows)
            ]

    def counts(self) -> dict[State, int]:
        by_state = select(runs.c.state, func.count()).where(runs.c.kind != "sweep").group_by(runs.c.state)
        with self.reading() as connection:
            return {cast(State, state): count for state, count in connection.execute(by_state)}

    def attend(self, worker: str, host: str, room: Needs) -> None:
        with self.changing() as connection:
            now = clock(connection)
            values = {"host": host, "cores": room.cores, "memory": room.memory, "gpus": room.gpus, "heartbeat_at": now}
            if not connection.execute(update(workers).where(workers.c.name == worker).values(values)).rowcount:
                connection.execute(workers.insert().values(name=worker, started_at=now, **values))

    def leave(self, worker: str) -> None:
        with self.changing() as connection:
            connection.execute(delete(workers).where(workers.c.name == worker))

    def load(self) -> Load:
        waiting = select(runs.c.submitted_at).where(runs.c.state == "queued", runs.c.kind == "run")
        lost = select(func.count()).select_from(run_events).where(text(LOST))
        amounts = (func.sum(c) for c in (runs.c.cores, runs.c.memory, runs.c.gpus))
        held = select(runs.c.host, *amounts).where(text(ACTIVE)).group_by(runs.c.host)
        broken = select(schedules.c.id).where(schedules.c.problem.is_not(None)).order_by(schedules.c.id)
        with self.reading() as connection:
            now = clock(connection)
            totals: Iterable[Any] = connection.execute(held)
            used = {host: Needs(int(c), int(m), int(g)) for host, c, m, g in totals}
            known = select(workers).where(workers.c.heartbeat_at > now - KNOWN).order_by(workers.c.name)
            return Load(
                now,
                newest_event=connection.scalar(select(func.max(run_events.c.id))) or 0,
                waiting_since=connection.scalar(waiting.order_by(runs.c.number).limit(1)),
                lost=connection.scalar(lost) or 0,
                workers=[_worker(row) for row in connection.execute(known).mappings()],
                used=used,
                broken=list(connection.scalars(broken)),
            )

    def close(self) -> None:
        self.engine.dispose()


def _worker(row: RowMapping) -> Worker:
    room = Needs(row["cores"], row["memory"], row["gpus"])
    return Worker(row["name"], row["host"], room, row["started_at"], row["heartbeat_at"])


def _children(connection: Connection, parent: str) -> list[RowMapping]:
    rows = select(runs).where(runs.c.parent == parent).order_by(runs.c.number)
    return list(connection.execute(rows).mappings())


def _stop(connection: Connection, row: RowMapping, now: float, reason: str) -> None:
    """Cancel a run that waits; ask one that a worker holds to stop."""
    if row["state"] == "queued":
        change(connection, row, now, "cancelled", reason, cancel_asked_at=now)
    elif row["cancel_asked_at"] is None:
        values = {"cancel_asked_at": now, "reason": reason if row["state"] == "running" else row["reason"]}
        connection.execute(update(runs).where(runs.c.number == row["number"]).values(values))
        tell(connection, row["id"], now, "cancel")


def _stop_direct(row: RowMapping) -> None:
    """Ask a run to stop that `recsys run` began: it looks for a file."""
    try:
        (Path(row["runs"]) / row["id"] / "cancel").touch()
    except OSError as error:
        raise ConfigError(
            f"run {row['id']} was begun by `recsys run`, and nothing can be written to {row['runs']}/{row['id']} here "
            f"({error.strerror}): make a file `cancel` in it on its machine"
        ) from error

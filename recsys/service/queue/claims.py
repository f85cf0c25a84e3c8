"""What a worker does to a run: claim, renew, note, end, take back. Each function runs inside one transaction."""

import json
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.engine import Connection, RowMapping

from recsys.service.queue.errors import LeaseLost
from recsys.service.queue.records import ENDED, STOPPED, Claim, Live, Needs, QueuedRun, State
from recsys.service.queue.rows import change, live_of, read, refresh_sweep, tell, tell_live
from recsys.service.queue.tables import ACTIVE, READY, clock, runs

__all__ = ["claim", "end", "held", "hold", "note", "overdue", "room_left", "take_back"]


def room_left(connection: Connection, host: str, room: Needs) -> Needs | None:
    """What a machine has left beside the runs that it holds; None if it has no core."""
    amounts = (func.coalesce(func.sum(c), 0) for c in (runs.c.cores, runs.c.memory, runs.c.gpus))
    used = connection.execute(select(*amounts).where(text(ACTIVE), runs.c.host == host)).one()
    cores, memory, gpus = (have - int(n) for have, n in zip((room.cores, room.memory, room.gpus), used, strict=True))
    return Needs(cores, max(memory, 0), max(gpus, 0)) if cores > 0 and memory >= 0 else None


def claim(connection: Connection, worker: str, host: str, room: Needs, lease_seconds: float) -> Claim | None:
    """The first run that fits, now held by a worker; see `Queue.claim`."""
    if (left := room_left(connection, host, room)) is None:
        return None
    fits = (runs.c.cores <= left.cores, runs.c.memory <= left.memory, runs.c.gpus <= left.gpus)
    first = select(runs.c.number).where(text(READY), *fits).order_by(runs.c.priority.desc(), runs.c.number).limit(1)
    if (number := connection.scalar(first)) is None:
        return None
    now, token = clock(connection), uuid4().hex
    values: dict[str, Any] = {
        **{"state": "running", "owner": worker, "host": host, "token": token, "attempt": runs.c.attempt + 1},
        **{
            "started_at": func.coalesce(runs.c.started_at, now),
            "heartbeat_at": now,
            "lease_until": now + lease_seconds,
        },
        **dict.fromkeys(("reason", "pid", "pgid", "boot", "process_start", "exit", "ended_at", "cancel_asked_at")),
    }
    taken = update(runs).where(runs.c.number == number, runs.c.state == "queued").values(values)
    row = connection.execute(taken.returning(runs.c.id, runs.c.parent, runs.c.attempt)).mappings().one()
    tell(connection, row["id"], now, "claim", worker=worker, host=host, attempt=row["attempt"])
    tell(connection, row["id"], now, "state", state="running", reason=None)
    if row["parent"]:
        refresh_sweep(connection, row["parent"], now)
    return Claim(read(connection, [number])[0], token, lease_seconds)


def hold(connection: Connection, claim: Claim, lease_seconds: float) -> bool | None:
    """Renew a lease in one statement → whether somebody asked to stop the run; None if it is not so simple."""
    now = clock(connection)
    values = {"heartbeat_at": now, "lease_until": now + lease_seconds}
    still = (runs.c.number == claim.run.number, runs.c.token == claim.token, runs.c.state == "running")
    asked = connection.execute(update(runs).where(*still).values(values).returning(runs.c.cancel_asked_at)).first()
    return None if asked is None else asked[0] is not None


def held(connection: Connection, claim: Claim, now: float | None = None) -> RowMapping:
    """The row of a claim, which is running; if it was `unknown`, its worker is back, and it runs again.

    Args:
        connection: Of a transaction.
        claim: The claim.
        now: The time; None if the transaction only reads.

    Raises:
        LeaseLost: If the run has another token or has ended.
    """
    row = connection.execute(select(runs).where(runs.c.number == claim.run.number)).mappings().first()
    if row is None or row["token"] != claim.token or row["state"] not in ("running", "unknown"):
        state = "gone" if row is None else f"{row['state']} (attempt {row['attempt']}, worker {row['owner']})"
        raise LeaseLost(
            f"run {claim.run.id}: expected attempt {claim.run.attempt} of worker {claim.run.owner} to hold it, "
            f"it is {state}: end the processes of attempt {claim.run.attempt} and drop what they made"
        )
    if row["state"] == "unknown" and now is not None:
        change(connection, row, now, "running", None)
    return row


def note(connection: Connection, claim: Claim, live: Live) -> None:
    """Store how far a run has got, and tell what is new."""
    now = clock(connection)
    row = held(connection, claim, now)
    connection.execute(update(runs).where(runs.c.number == row["number"]).values(live=json.dumps(asdict(live))))
    tell_live(connection, row["id"], now, live_of(row), live)


def end(connection: Connection, claim: Claim, state: State, exit: int | None, reason: str | None) -> QueuedRun:
    """End a run, or give it back; see `Queue.end`. The same call twice, after an answer that was lost, ends it once."""
    if state != "queued" and state not in ENDED - {"killed"}:
        raise ValueError(f"a claimed run ends as queued, finished, failed or cancelled, not as {state}")
    this = runs.c.number == claim.run.number
    row = connection.execute(select(runs).where(this)).mappings().first()
    if row is not None and row["token"] == claim.token and row["state"] == state and state in ENDED:
        return read(connection, [claim.run.number])[0]
    now = clock(connection)
    row = held(connection, claim, now)
    if state in ("queued", "cancelled") and row["cancel_asked_at"] is not None:
        state, reason = "cancelled", _asked(row)
    free: dict[str, Any] = {"lease_until": None, "exit": exit}
    if state == "queued":
        free["token"] = None
    change(connection, row, now, state, reason, **free)
    return read(connection, [claim.run.number])[0]


def _asked(row: RowMapping) -> str:
    """Why a run was asked to stop; one that was `unknown` meanwhile has lost that."""
    return row["reason"] if row["state"] == "running" and row["reason"] else STOPPED


def overdue(connection: Connection) -> list[RowMapping]:
    """Rows whose lease has ended, or begins in the future since the clock was set back."""
    now = clock(connection)
    late = or_(runs.c.lease_until < now, runs.c.heartbeat_at > now + 1)
    return list(connection.execute(select(runs).where(text(ACTIVE), late).order_by(runs.c.number)).mappings())


def take_back(
    connection: Connection, run: QueuedRun, dead: bool, most_attempts: int, exit: int | None, reason: str | None
) -> QueuedRun:
    """Put an overdue run back; see `Queue.take_back`."""
    this = runs.c.number == run.number
    row = connection.execute(select(runs).where(this)).mappings().one()
    seen = ("state", "attempt", "heartbeat_at", "lease_until")
    if any(row[key] != getattr(run, key) for key in seen) or row["state"] not in ("running", "unknown"):
        return read(connection, [run.number])[0]
    now, worker = clock(connection), f"worker {row['owner']} on {row['host']}"
    if not dead:
        if row["state"] == "running":
            mend = f"if you know that its processes are gone: recsys resume {row['id']} --dead"
            change(connection, row, now, "unknown", f"{worker} was not heard from, its processes were not seen; {mend}")
        return read(connection, [run.number])[0]
    tell(connection, row["id"], now, "lost", worker=row["owner"], attempt=row["attempt"])
    deaths = row["deaths"] + 1
    free: dict[str, Any] = {"token": None, "lease_until": None, "deaths": deaths, "exit": exit}
    if row["cancel_asked_at"] is not None:
        change(connection, row, now, "cancelled", f"{_asked(row)}; {worker} died meanwhile", **free)
    elif deaths >= most_attempts:
        last = f"{reason} at {worker}" if reason else f"{worker} died"
        change(connection, row, now, "failed", f"its worker or its process died {deaths} times: last {last}", **free)
    else:
        why = reason or f"{worker} died"
        change(connection, row, now, "queued", f"{why}: goes on from its checkpoint", **free)
    return read(connection, [run.number])[0]

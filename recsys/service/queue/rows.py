"""Between rows of the tables and the records that travel; and what every change of a run does."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.sql import Select

from recsys.errors import ConfigError, printable
from recsys.files import only_text
from recsys.service.queue.records import ENDED, Kind, Live, Needs, NewRun, QueuedRun, State
from recsys.service.queue.tables import run_after, run_configs, run_events, runs

__all__ = [
    "change",
    "count_waits",
    "fields_of",
    "from_json",
    "is_search",
    "live_of",
    "one",
    "read",
    "refresh_sweep",
    "tell",
    "tell_live",
    "to_runs",
]

_REASON = 1000  # most letters of a reason
_WAITED = 5  # most names in a reason


def from_json(text: str) -> Any:
    """The value of a column of JSON; halves of surrogate pairs, which no answer can hold, are escaped as in Python."""
    value = json.loads(text)
    return only_text(value) if "\\ud" in text else value


def live_of(row: Mapping[Any, Any]) -> Live:
    """How far a run has got."""
    return Live(**from_json(row["live"]))


def fields_of(new: NewRun, now: float) -> dict[str, Any]:
    """Columns of a run that is submitted now."""
    words = printable(" ".join([new.id, new.name, *new.overrides]).casefold(), 4000)
    same = ("id", "client_key", "kind", "parent", "priority", "name", "experiment", "digest", "runs", "cwd", "user")
    texts = {key: json.dumps(getattr(new, key), ensure_ascii=False) for key in ("git", "after")}
    overrides = json.dumps(new.overrides)
    plain = {key: getattr(new, key) for key in same}
    return {**plain, **asdict(new.needs), **texts, "overrides": overrides, "words": words, "submitted_at": now}


def _run(row: Mapping[Any, Any], waits: str | None = None, config: dict[str, Any] | None = None) -> QueuedRun:
    same = ("id", "digest", "runs", "cwd", "name", "experiment", "parent", "client_key", "priority", "user")
    texts = {key: from_json(row[key]) for key in ("overrides", "after", "git")}
    needs = Needs(row["cores"], row["memory"], row["gpus"])
    plain: dict[str, Any] = {key: row[key] for key in same}
    new = NewRun(**plain, **texts, kind=cast(Kind, row["kind"]), needs=needs, config=config or {})
    copied = (
        *("attempt", "owner", "host", "pid", "pgid", "boot", "process_start", "lease_until", "heartbeat_at"),
        *("cancel_asked_at", "submitted_at", "started_at", "ended_at", "exit"),
    )
    state, values = cast(State, row["state"]), {key: row[key] for key in copied}
    return QueuedRun(new, row["number"], state, row["reason"] or waits, live=live_of(row), **values)


def _waits(connection: Connection, numbers: Sequence[int]) -> dict[int, str]:
    """Number of a run → what it waits for, on one line."""
    if not numbers:
        return {}
    columns = (run_after.c.run, runs.c.id, runs.c.state, runs.c.kind, runs.c.file_time)
    before = select(*columns).join(runs, runs.c.number == run_after.c.before)
    before = before.where(run_after.c.run.in_(numbers), runs.c.state != "finished").order_by(run_after.c.before)
    texts = dict[int, list[str]]()
    for run, id, state, kind, file_time in connection.execute(before):
        mend = f"recsys run resume={id}" if kind == "direct" else f"recsys resume {id}"
        ended = f", which is {state}: {mend}" if state in ENDED else ""
        if kind == "direct" and file_time is None:
            ended = f", whose folder was removed: cancel this run, and submit it without --after {id}"
        texts.setdefault(run, []).append(f"{id}{ended}")
    more = {
        run: [*each[:_WAITED], f"{len(each) - _WAITED} more"] if len(each) > _WAITED else each
        for run, each in texts.items()
    }
    return {run: f"waits for {'; '.join(each)}" for run, each in more.items()}


def to_runs(connection: Connection, rows: Iterable[RowMapping]) -> list[QueuedRun]:
    """The records of rows, without their configurations; a reason says what a queued run waits for."""
    rows = list(rows)
    numbers = [row["number"] for row in rows if row["state"] == "queued" and row["waits"]]
    waits = _waits(connection, numbers)
    return [_run(row, waits.get(row["number"])) for row in rows]


def read(connection: Connection, numbers: Sequence[int]) -> list[QueuedRun]:
    """The runs of these numbers, in this order, with their configurations."""
    rows = {row["number"]: row for row in connection.execute(select(runs).where(runs.c.number.in_(numbers))).mappings()}
    stored = select(run_configs.c.run, run_configs.c.config).where(run_configs.c.run.in_(numbers))
    configs = {run: from_json(config) for run, config in connection.execute(stored)}
    waits = _waits(connection, [number for number, row in rows.items() if row["state"] == "queued" and row["waits"]])
    return [_run(rows[n], waits.get(n), configs.get(n)) for n in numbers]


def one(connection: Connection, id: str) -> RowMapping:
    """The row of an id.

    Raises:
        ConfigError: If there is none; the message names the nearest ids.
    """
    row = connection.execute(select(runs).where(runs.c.id == id)).mappings().first()
    if row is None:
        raise ConfigError(f"expected the id of a run, got {printable(id, 200)!r}: {_nearest(connection, id)}")
    return row


def is_search(connection: Connection, row: RowMapping) -> bool:
    """Whether `recsys sweep` began a run, whose trials may be runs of the queue."""
    config = connection.scalar(select(run_configs.c.config).where(run_configs.c.run == row["number"]))
    return row["kind"] == "direct" and "search" in json.loads(config or "{}")


def _nearest(connection: Connection, id: str) -> str:
    like = select(runs.c.id).order_by(runs.c.number.desc()).limit(300)
    part = id.casefold()[-40:]
    ids = [*connection.scalars(like.where(runs.c.words.contains(part, autoescape=True))), *connection.scalars(like)]
    known = list(dict.fromkeys(ids))
    near = difflib.get_close_matches(id, known, n=3, cutoff=0.5) or [i for i in known if part and part in i.casefold()]
    said = f"the nearest are {', '.join(near[:3])}" if near else f"the newest are {', '.join(known[:3])}"
    return f"{said}; recsys runs lists all" if known else "no run was submitted yet"


def tell(connection: Connection, run: str, time: float, kind: str, **payload: Any) -> None:
    """Add an event; of progress only the newest stays, since it comes once a second."""
    if kind == "progress":
        connection.execute(run_events.delete().where(run_events.c.run == run, run_events.c.kind == "progress"))
    row = {"run": run, "at": time, "kind": kind, "payload": json.dumps(payload)}
    connection.execute(insert(run_events), row)


def tell_live(connection: Connection, id: str, now: float, before: Live, live: Live) -> None:
    """Add events of what is new since `before`."""
    if live.stage != before.stage:
        tell(connection, id, now, "stage", stage=live.stage)
    for stage, figures in live.metrics.items():
        if figures != before.metrics.get(stage):
            values = {key: value for key, value in figures.items() if key != "step"}
            tell(connection, id, now, "metrics", stage=stage, step=figures.get("step"), figures=values)
    if live.progress is not None and live.progress != before.progress:
        tell(connection, id, now, "progress", stage=live.stage, **live.progress)
    if live.note is not None and live.note != before.note:
        tell(connection, id, now, "note", note=live.note)


def change(
    connection: Connection, row: Mapping[Any, Any], now: float, state: State, reason: str | None, **values: Any
) -> None:
    """Give a run another state, and all that follows: its event, the runs that wait for it, its sweep.

    Args:
        connection: Of a transaction that changes the tables.
        row: The run's row, with at least `number`, `id`, `parent` and `state`.
        now: The time.
        state: Its new state.
        reason: Why, on one line.
        values: Other columns to set.
    """
    reason = printable(" ".join(reason.split()), _REASON) if reason else None
    columns = {"state": state, "reason": reason, "ended_at": now if state in ENDED else None, **values}
    connection.execute(update(runs).where(runs.c.number == row["number"]).values(columns))
    tell(connection, row["id"], now, "state", state=state, reason=reason)
    if (state == "finished") != (row["state"] == "finished"):  # a finished one may go on: recsys run resume=ID
        count_waits(connection, select(run_after.c.run).where(run_after.c.before == row["number"]))
    if row["parent"]:
        refresh_sweep(connection, row["parent"], now)


def count_waits(connection: Connection, waiting: Select[tuple[int]]) -> None:
    """Count anew how many runs that have not finished each of some runs waits for.

    Args:
        connection: Of a transaction that changes the tables.
        waiting: Selects the numbers of the runs that wait.
    """
    before = runs.alias()
    left = select(func.count()).select_from(run_after).join(before, before.c.number == run_after.c.before)
    left = left.where(run_after.c.run == runs.c.number, before.c.state != "finished").correlate(runs)
    connection.execute(update(runs).where(runs.c.number.in_(waiting)).values(waits=left.scalar_subquery()))


def _state_of_sweep(counts: Mapping[str, int]) -> State:
    if any(state not in ENDED for state in counts):
        return "queued" if set(counts) == {"queued"} else "running"
    for state, inside in (("failed", ("failed", "killed")), ("cancelled", ("cancelled",))):
        if any(one in counts for one in inside):
            return cast(State, state)
    return "finished" if counts else "queued"


def refresh_sweep(connection: Connection, id: str, now: float) -> None:
    """Set the state and progress of a sweep by those of its children; a parent of another kind has its own."""
    row = connection.execute(select(runs).where(runs.c.id == id, runs.c.kind == "sweep")).mappings().first()
    if row is None:
        return
    by_state = select(runs.c.state, func.count()).where(runs.c.parent == id).group_by(runs.c.state)
    counts: dict[str, int] = {state: count for state, count in connection.execute(by_state)}
    state, done = _state_of_sweep(counts), sum(n for s, n in counts.items() if s in ENDED)
    live = json.dumps({"progress": {"done": done, "total": sum(counts.values()), "unit": "runs"}})
    values: dict[str, Any] = {"live": live}
    if state == "running" and row["started_at"] is None:
        values["started_at"] = now
    if state == "queued":
        values["cancel_asked_at"] = None
    if state != row["state"]:
        parts = [f"{count} {s}" for s, count in counts.items()]
        change(connection, row, now, state, ", ".join(parts) if state in ENDED else None, **values)
    elif live != row["live"]:
        connection.execute(update(runs).where(runs.c.number == row["number"]).values(values))
        tell(connection, id, now, "progress", **json.loads(live)["progress"])

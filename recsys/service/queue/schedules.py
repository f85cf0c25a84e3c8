"""Runs that are submitted at set times: each after the one before has ended, missed ones in order."""

import difflib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from recsys.errors import ConfigError, RecsysError, in_one_line, printable
from recsys.service.queue.records import ENDED, Needs, NewRun, QueuedRun, Schedule
from recsys.service.queue.rows import from_json, read
from recsys.service.queue.sql import SqlQueue
from recsys.service.queue.submission import SCHEDULED, add, check_new
from recsys.service.queue.tables import clock, runs, schedules

__all__ = ["Every", "Make", "add_schedule", "list_schedules", "local_zone", "remove_schedule", "submit_due"]

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_WANTED = "day@03:00, monday@02:00, hour@15 (minutes past), or an interval such as 6h, 90m or 2d"
_COLUMNS = ("id", "every", "zone", "created_at", "next_at", "last_run", "problem")
_NAMED = 5  # schedules in a message
_MOST = 100  # submissions of one call, so that it ends

Make = Callable[[Schedule, datetime, str | None], NewRun]
"""(schedule, time at which it was due, id of its last run that finished) → the run to submit."""


@dataclass(frozen=True)
class Every:
    """The times of a schedule.

    Args:
        day: `day`, a name of a weekday, `hour`, or empty for an interval.
        hour: Hour of the day, 0 to 23.
        minute: Minute of the hour, 0 to 59.
        seconds: Length of an interval, at least 60.
        zone: Time zone in which days begin, such as `Europe/Berlin`.
    """

    day: str
    hour: int
    minute: int
    seconds: int
    zone: str

    @classmethod
    def parse(cls, text: str, zone: str) -> "Every":
        """Read `day@03:00`, `every monday@02:00`, `hour@15`, `6h`.

        Raises:
            ConfigError: If it is none of these, or there is no such time zone.
        """
        _zone(zone)
        plain = text.strip().lower().removeprefix("every ").strip()
        if (match := re.fullmatch(r"(\d{1,4})([mhd])", plain)) and (seconds := int(match[1]) * _UNITS[match[2]]) >= 60:
            return cls("", 0, 0, seconds, zone)
        if (match := re.fullmatch(r"hour(?:@(\d{1,2}))?", plain)) and int(match[1] or 0) < 60:
            return cls("hour", 0, int(match[1] or 0), 0, zone)
        match = re.fullmatch(r"(\w+)@(\d{1,2}):(\d\d)", plain)
        if match and match[1] in ("day", *_DAYS) and int(match[2]) < 24 and int(match[3]) < 60:
            return cls(match[1], int(match[2]), int(match[3]), 0, zone)
        raise ConfigError(f"every: expected {_WANTED}, got {printable(text, 60)!r}")

    def following(self, time: float) -> float:
        """The first time after this one, in seconds since 1970.

        A time that the clock skips in spring is moved by that hour; of one that comes twice in autumn the first counts.
        """
        if not self.day:
            return time + self.seconds
        local = datetime.fromtimestamp(time, _zone(self.zone)).replace(second=0, microsecond=0)
        if self.day == "hour":
            return self._next_hour(local)
        first = local.replace(hour=self.hour, minute=self.minute, fold=0)
        days = (first + timedelta(days=d) for d in range(-1, 9))
        fits = (d for d in days if self.day == "day" or _DAYS[d.weekday()] == self.day)
        return next(d.timestamp() for d in fits if d.timestamp() > time)

    def _next_hour(self, local: datetime) -> float:
        next_one, zone = local.astimezone(UTC), local.tzinfo
        while True:  # twice, if clocks are moved by half an hour meanwhile
            minutes = (self.minute - next_one.astimezone(zone).minute - 1) % 60 + 1
            next_one += timedelta(minutes=minutes)
            if next_one.astimezone(zone).minute == self.minute:
                return next_one.timestamp()


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown, a path, a folder
        near = difflib.get_close_matches(name, available_timezones(), n=3)
        hint = f"the nearest are {', '.join(near)}" if near else "such as UTC or Europe/Berlin"
        raise ConfigError(f"zone: expected the name of a time zone, got {printable(name, 60)!r}: {hint}") from error


def local_zone() -> str:
    """Name of this machine's time zone: TZ, else what /etc/localtime links to, else UTC."""
    linked = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    for name in (os.environ.get("TZ", "").removeprefix(":"), linked):
        try:
            return ZoneInfo(name).key
        except (KeyError, ValueError, OSError):
            continue
    return "UTC"


def add_schedule(queue: SqlQueue, id: str, every: str, template: NewRun, zone: str | None = None) -> Schedule:
    """Submit a run at set times from now on; the same call twice is one schedule.

    Args:
        queue: The queue.
        id: Name of the schedule, unique.
        every: `day@03:00`, `monday@02:00`, `hour@15`, or an interval such as `6h`.
        template: The run; its id and client key are set anew each time.
        zone: Time zone in which days begin; this machine's by default.

    Raises:
        ConfigError: If there is another schedule of that name, or `every` or `zone` is invalid.
    """
    zone = zone or local_zone()
    parsed = Every.parse(every, zone)
    if not re.fullmatch(r"[\w.-]{1,100}", id):
        raise ConfigError(f"schedule: expected a name of letters, digits, '.', '-' and '_', got {printable(id, 100)!r}")
    check_new(template)
    with queue.changing(durable=True) as connection:
        row = connection.execute(select(schedules).where(schedules.c.id == id)).mappings().first()
        if row is not None:
            known = _schedule(row)
            others = [
                f"its {name} is {printable(str(before), 100)}, not {printable(str(asked), 100)}"
                for name, before, asked in (("time", known.every, every), ("zone", known.zone, zone))
                if before != asked
            ]
            others += _differences(known.template, template)
            if others:
                raise ConfigError(
                    f"schedule {id} is there already, and {'; '.join(others)}: give another --name, or remove it first"
                )
            return known
        now = clock(connection)
        columns = {"id": id, "every": every, "zone": zone, "template": json.dumps(asdict(template))}
        times = {"created_at": now, "next_at": parsed.following(now)}
        added = connection.execute(insert(schedules).values(**columns, **times).returning(*schedules.c))
        return _schedule(added.mappings().one())


def _differences(known: NewRun, asked: NewRun) -> list[str]:
    """In what two templates differ, but for the time, the person and the commit of their submission."""
    if (known.digest, known.config) != (asked.digest, asked.config):
        return ["it has another configuration"]
    before, now = _compared(known), _compared(asked)
    return [
        f"its {k} is {printable(str(before[k]), 100)}, not {printable(str(now[k]), 100)}"
        for k in before
        if before[k] != now[k]
    ]


def _compared(template: NewRun) -> dict[str, Any]:
    left_out = ("id", "overrides", "config", "client_key", "git", "user", "needs")
    return {k: v for k, v in {**asdict(template), **asdict(template.needs)}.items() if k not in left_out}


def _schedule(row: RowMapping) -> Schedule:
    stored: dict[str, Any] = from_json(row["template"])
    stored["needs"] = Needs(**stored["needs"])
    same: dict[str, Any] = {key: row[key] for key in _COLUMNS}
    return Schedule(template=NewRun(**stored), **same)


def list_schedules(queue: SqlQueue) -> list[Schedule]:
    """All schedules, by name."""
    with queue.reading() as connection:
        return [_schedule(r) for r in connection.execute(select(schedules).order_by(schedules.c.id)).mappings()]


def remove_schedule(queue: SqlQueue, id: str) -> Schedule:
    """End a schedule; its runs stay → what it was.

    Raises:
        ConfigError: If there is none; the message names the nearest.
    """
    with queue.changing(durable=True) as connection:
        row = connection.execute(select(schedules).where(schedules.c.id == id)).mappings().first()
        if row is None:
            names = list(connection.scalars(select(schedules.c.id).order_by(schedules.c.id)))
            near, more = difflib.get_close_matches(id, names, n=1, cutoff=0.3), ", …" * (len(names) > _NAMED)
            listed = f"there are {', '.join(names[:_NAMED])}{more}" if names else "there are none"
            hint = f"the nearest is {near[0]}" if near else listed
            raise ConfigError(f"expected the name of a schedule, got {printable(id, 100)!r}: {hint}")
        connection.execute(delete(schedules).where(schedules.c.id == id))
        return _schedule(row)


def _from_template(schedule: Schedule, due: datetime, last_good: str | None) -> NewRun:
    return schedule.template


def submit_due(queue: SqlQueue, make: Make = _from_template) -> list[QueuedRun]:
    """Submit what is due, each after the one before has ended, however it ended; to be called every few seconds.

    Any number of processes may do so at once: a due time is submitted once, by its client key `schedule:ID:TIME`.

    Args:
        queue: The queue.
        make: The run of a due time; by default the template. Its id begins with the due time in any case.
    """
    submitted: list[QueuedRun] = []
    for schedule in list_schedules(queue):
        for _ in range(_MOST):
            try:
                run = _submit_one(queue, schedule.id, make)
            except RecsysError as error:
                _note(queue, schedule.id, in_one_line(error))
                break
            if run is None:
                break
            submitted.append(run)
    return submitted


def _submit_one(queue: SqlQueue, id: str, make: Make) -> QueuedRun | None:
    with queue.reading() as connection:
        row = _due(connection, id)
        good: str | None = connection.scalar(_of(id).where(runs.c.state == "finished").order_by(runs.c.number.desc()))
    if row is None:
        return None
    schedule = _schedule(row)
    due = datetime.fromtimestamp(schedule.next_at, _zone(schedule.zone))
    new = make(schedule, due, good)
    name = re.sub(r"^\d{8}-\d{6}-", "", new.id)
    key = f"{SCHEDULED}{id}:{due.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    new = replace(new, id=f"{due:%Y%m%d-%H%M%S}-{name}", client_key=key)
    with queue.changing(durable=True) as connection:
        now = _due(connection, id)
        if now is None or now["next_at"] != schedule.next_at:
            return None  # another process has submitted it
        (number,) = add(connection, [new])
        (run,) = read(connection, [number])
        following = Every.parse(schedule.every, schedule.zone).following(schedule.next_at)
        values = {"next_at": following, "last_run": run.id, "problem": None}
        connection.execute(update(schedules).where(schedules.c.id == id).values(values))
        return run


def _of(id: str) -> Any:
    """Ids of all runs of a schedule."""
    return select(runs.c.id).where(runs.c.client_key.startswith(f"{SCHEDULED}{id}:", autoescape=True))


def _due(connection: Connection, id: str) -> RowMapping | None:
    """The row of a schedule that is due, and none of whose runs waits or runs."""
    row = connection.execute(select(schedules).where(schedules.c.id == id)).mappings().first()
    if row is None or row["next_at"] > clock(connection):
        return None
    return None if connection.scalar(_of(id).where(runs.c.state.not_in(ENDED))) else row


def _note(queue: SqlQueue, id: str, problem: str) -> None:
    """Keep why a schedule could not be submitted; it is tried again."""
    with queue.changing() as connection:
        changed = (schedules.c.id == id, schedules.c.problem.is_distinct_from(problem))
        connection.execute(update(schedules).where(*changed).values(problem=problem))

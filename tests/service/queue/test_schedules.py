"""Runs at set times: what is due when, and that each time is submitted once and in order."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from recsys.errors import ConfigError
from recsys.service.queue.records import Needs, NewRun, Schedule
from recsys.service.queue.schedules import (
    Every,
    add_schedule,
    list_schedules,
    local_zone,
    remove_schedule,
    submit_due,
)
from recsys.service.queue.sql import SqlQueue

ROOM = Needs(4, 8 << 30)
New = Callable[..., NewRun]


def times(every: str, start: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    parsed, time = Every.parse(every, zone), datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).timestamp()
    out: list[str] = []
    for _ in range(count):
        time = parsed.following(time)
        out.append(datetime.fromtimestamp(time, ZoneInfo(zone)).strftime("%m-%d %H:%M %z"))
    return out


@pytest.mark.parametrize(
    ("every", "start", "expected"),
    [
        ("day@03:00", "2026-01-31T03:00", ["02-01 03:00 +0100", "02-02 03:00 +0100"]),
        ("every day@03:00", "2026-01-31T02:59:59", ["01-31 03:00 +0100", "02-01 03:00 +0100"]),
        ("Monday@02:00", "2026-11-29T12:00", ["11-30 02:00 +0100", "12-07 02:00 +0100"]),
        ("sunday@12:00", "2026-11-29T12:00", ["12-06 12:00 +0100"]),
        ("hour@15", "2026-01-31T23:14:59", ["01-31 23:15 +0100", "02-01 00:15 +0100"]),
        ("hour", "2026-01-31T23:00", ["02-01 00:00 +0100"]),
        ("90m", "2026-01-31T23:00", ["02-01 00:30 +0100", "02-01 02:00 +0100"]),
        ("2d", "2026-01-31T23:00", ["02-02 23:00 +0100"]),
        # the clock goes from 2:00 to 3:00 on March 29, and from 3:00 back to 2:00 on October 25
        ("day@02:30", "2026-03-28T02:30", ["03-29 03:30 +0200", "03-30 02:30 +0200"]),
        ("day@02:30", "2026-10-24T02:30", ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        ("hour@00", "2026-10-25T01:30", ["10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"]),
    ],
)
def test_times(every: str, start: str, expected: list[str]) -> None:
    assert times(every, start, len(expected)) == expected


def test_times_always_ascend() -> None:
    for every in ("day@02:30", "hour@15", "sunday@02:30"):
        for zone in ("Europe/Berlin", "Australia/Lord_Howe"):
            parsed, time = Every.parse(every, zone), datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).timestamp()
            end, count = time + 366 * 86400, 0
            while time < end:
                after = parsed.following(time)
                assert time < after <= time + 8 * 86400
                time, count = after, count + 1
            assert count >= {"d": 365, "h": 8760, "s": 52}[every[0]]


@pytest.mark.parametrize(
    "every", ["", "day", "day@24:00", "day@3", "hour@60", "0h", "30s", "noday@03:00", "6h 1", "9" * 99 + "h"]
)
def test_a_time_that_cannot_be_read_says_what_may_stand_there(every: str) -> None:
    with pytest.raises(ConfigError, match=r"every: expected day@03:00, monday@02:00, hour@15"):
        Every.parse(every, "UTC")


def test_a_time_zone_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"zone: expected .* got 'Europe/Berln': the nearest are Europe/Berlin"):
        Every.parse("6h", "Europe/Berln")
    for zone in ("../etc/passwd", "", "/"):
        with pytest.raises(ConfigError, match="zone: expected"):
            Every.parse("6h", zone)


def test_the_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert local_zone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "nonsense")
    assert ZoneInfo(local_zone()).key == local_zone()


def jump(queue: SqlQueue, seconds: float) -> None:
    with queue.changing() as connection:
        connection.exec_driver_sql(
            f"UPDATE schedules SET next_at = next_at - {seconds}, created_at = created_at - {seconds}"
        )


def end(queue: SqlQueue, state: str = "finished") -> str:
    claim = queue.claim("w", "h", ROOM)
    assert claim is not None
    queue.end(claim, state, 0, None)  # type: ignore[arg-type]
    return claim.run.id


def test_missed_times_are_caught_up_in_order_and_never_two_at_once(queue: SqlQueue, new: New) -> None:
    schedule = add_schedule(queue, "nightly", "day@03:00", new("20260101-000000-daily-0"), "Europe/Berlin")
    assert add_schedule(queue, "nightly", "day@03:00", new("20260101-000000-daily-0"), "Europe/Berlin") == schedule
    assert submit_due(queue) == []
    jump(queue, 3 * 86400)
    good: list[str | None] = []

    def make(schedule: Schedule, due: datetime, last_good: str | None) -> NewRun:
        good.append(last_good)
        return replace(schedule.template, overrides=[*schedule.template.overrides, f"after={last_good}"])

    (first,) = submit_due(queue, make)
    assert first.new.client_key is not None and first.new.client_key.startswith("schedule:nightly:20")
    assert first.id.endswith("-030000-daily-0") and first.state == "queued"
    assert submit_due(queue, make) == []  # the first has not ended
    end(queue)
    (second,) = submit_due(queue, make)
    end(queue, "failed")  # a failed one does not stop the next, which goes on from the last good one
    (third,) = submit_due(queue, make)
    assert good == [None, first.id, first.id] and third.new.overrides[-1] == f"after={first.id}"
    assert first.id < second.id < third.id
    with pytest.raises(ConfigError, match=f"run {second.id}: {third.id} of the same schedule is not done"):
        queue.resume(second.id)
    queue.cancel(third.id)
    assert submit_due(queue, make) == []  # the next is due tomorrow
    assert queue.resume(second.id).state == "queued"
    (listed,) = list_schedules(queue)
    day = timedelta(days=3).total_seconds()
    assert listed.last_run == third.id and abs(listed.next_at - schedule.next_at) <= 3600 + 1 < day


def test_one_of_many_processes_submits_a_time(queue: SqlQueue, new: New) -> None:
    add_schedule(queue, "s", "6h", new("a"), "UTC")
    jump(queue, 6 * 3600)
    other: list[int] = []

    def make(schedule: Schedule, due: datetime, last_good: str | None) -> NewRun:
        if not other:  # while this process prepares its run, another submits it
            other.append(0)
            other[0] = len(submit_due(queue))
        return schedule.template

    assert submit_due(queue, make) == [] and other == [1] and len(queue.find()) == 1


def test_what_cannot_be_submitted_is_noted_and_tried_again(queue: SqlQueue, new: New) -> None:
    add_schedule(queue, "s", "6h", new("a", needs=Needs(99)), "UTC")
    queue.attend("w", "h", ROOM)
    jump(queue, 6 * 3600)
    assert submit_due(queue) == []
    assert "needs 99 cores" in (list_schedules(queue)[0].problem or "")
    queue.attend("w2", "h2", Needs(99, 8 << 30))
    assert len(submit_due(queue)) == 1 and list_schedules(queue)[0].problem is None


def test_names_of_schedules(queue: SqlQueue, new: New) -> None:
    add_schedule(queue, "nightly", "6h", new("a"), "UTC")
    with pytest.raises(ConfigError, match="nightly is there already, and its time is 6h, not 7h: give another --name"):
        add_schedule(queue, "nightly", "7h", new("a"), "UTC")
    with pytest.raises(ConfigError, match="it has another configuration"):
        add_schedule(queue, "nightly", "6h", new("a", digest="1" * 16), "UTC")
    with pytest.raises(ConfigError, match="its cores is 1, not 2: give"):
        add_schedule(queue, "nightly", "6h", new("a", needs=Needs(2)), "UTC")
    assert add_schedule(queue, "nightly", "6h", new("a", user="another"), "UTC").template.user == ""
    with pytest.raises(ConfigError, match=r"schedule: expected a name of letters"):
        add_schedule(queue, "a:b", "6h", new("a"), "UTC")
    with pytest.raises(ConfigError, match="the nearest is nightly"):
        remove_schedule(queue, "nigtly")
    assert remove_schedule(queue, "nightly").id == "nightly" and list_schedules(queue) == []
    with pytest.raises(ConfigError, match="there are none"):
        remove_schedule(queue, "nightly")

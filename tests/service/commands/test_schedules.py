"""`recsys submit --every` and `recsys schedules` through the command line."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

from sqlalchemy import update

from recsys.service.queue.records import Needs
from recsys.service.queue.schedules import list_schedules, submit_due
from recsys.service.scheduled import of_schedule


def test_a_schedule_is_added_once_listed_and_removed(recsys, queue, refused):
    typed = ["submit", "experiment=demo", "--every", "day@03:00", "--name", "nightly"]
    code, printed, said = recsys(*typed)
    assert (code, printed) == (0, ["nightly"]) and said.startswith("every day@03:00") and "03:00:00" in said
    assert recsys(*typed)[:2] == (0, ["nightly"])
    refused(recsys(*typed, "seed=9"), "nightly", "another configuration", "--name")
    _, lines, _ = recsys("schedules")
    assert lines[0].startswith("nightly  every day@03:00") and lines[-1].split() == ["recsys", *typed[:2]]
    assert queue.find() == [], "it is not due yet"
    refused(recsys("schedules", "remove", "nightl"), "the nearest is nightly")
    refused(recsys("schedules", "remove", "shopp"), "there are nightly")
    refused(recsys("schedules", "remove"), "with an ID")
    refused(recsys("schedules", "list", "nightly"), "with an ID")
    assert recsys("schedules", "remove", "nightly")[0] == 0
    assert recsys("schedules", "list")[1] == ["no schedules yet: recsys submit experiment=daily --every day@03:00"]


def test_what_no_schedule_can_have_is_refused(recsys, refused):
    refused(recsys("submit", "experiment=demo", "--every", "noon"), "expected day@03:00", "'noon'")
    refused(recsys("submit", "experiment=demo", "--every", "6h", "-m", "seed=1,2"), "got a sweep")
    refused(recsys("submit", "experiment=demo", "--every", "6h", "--key", "a"), "a key of its own")
    refused(recsys("submit", "experiment=demo", "--every", "6h", "--after", "a"), "waits for none")
    refused(recsys("submit", "experiment=demo", "--every", "6h", "--cores", "9999"), "cores", "from 1 to 4096")
    refused(recsys("submit", "experiment=dmo", "--every", "6h"), "no option 'dmo'")


def test_a_schedule_of_another_version_says_how_to_renew_it(recsys, queue, monkeypatch):
    """Its configuration lacks what a later version of recsys added."""
    from recsys.service.queue import schedules as of_queue

    assert recsys("submit", "experiment=demo", "--every", "6h", "--name", "n")[0] == 0
    (schedule,) = list_schedules(queue)
    config = {k: v for k, v in schedule.template.config.items() if k != "device"}
    with queue.changing() as connection:
        template = json.dumps(asdict(replace(schedule.template, config=config)))
        connection.execute(update(of_queue.schedules).values(template=template))
    monkeypatch.setattr(of_queue, "clock", lambda connection: schedule.next_at + 1.0)
    assert submit_due(queue, of_schedule) == []
    said = " ".join(recsys("schedules")[1])
    assert "device" in said and "recsys schedules remove n, then: recsys submit experiment=demo --every 6h" in said, (
        said
    )


def test_each_day_goes_on_from_the_last_good_one(recsys, queue, monkeypatch):
    """The first trains a model; the next takes it over, also if the one between failed. Due times are kept in order."""
    from recsys.service.queue import schedules as of_queue

    assert recsys("submit", "experiment=daily", "--every", "day@03:00")[0] == 0
    (schedule,) = list_schedules(queue)
    now = [schedule.next_at + 1.0]
    monkeypatch.setattr(of_queue, "clock", lambda connection: now[0])
    (first,) = submit_due(queue, of_schedule)
    assert first.new.config["from_run"] is None and "train" in first.new.config["stages"]
    ended = [("finished", 0), ("failed", 1), ("finished", 0)]
    runs = [first]
    for state, code in ended:
        now[0] += 86_400.0
        claim = queue.claim("w", "box", Needs(64, 1 << 40, 0))
        queue.end(claim, state, code, None)
        runs += submit_due(queue, of_schedule)
    assert len(runs) == 4
    for run, before in zip(runs[1:], (first.id, first.id, runs[2].id), strict=True):
        config = queue.get(run.id).new.config
        assert (config["from_run"], config["daily"]["after"], config["stages"]) == (before, before, ["daily"])
        assert f"daily.after={before}" in run.new.overrides and run.new.digest != first.new.digest
    days = [datetime.fromtimestamp(schedule.next_at + 86_400 * i, UTC).strftime("%Y%m%d") for i in range(4)]
    assert [run.id[:8] for run in runs] == days

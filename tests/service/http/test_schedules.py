"""Schedules over HTTP: an admin's alone, since they last."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from recsys.commands.cli import main
from recsys.service.http.settings import Settings
from recsys.service.pages.site import make_site
from recsys.service.queue.schedules import add_schedule
from recsys.service.queue.sql import SqlQueue
from recsys.service.queue.tables import schedules
from tests.service.http.conftest import Caller, new_run


def test_a_schedule_is_added_listed_and_removed_by_an_admin(
    guarded: Callable[[str | None], Caller], place: Path
) -> None:
    admin, sent = guarded("admin"), {"overrides": ["experiment=demo"], "every": "day@03:00", "name": "nightly"}
    assert guarded("submit").post("/api/runs", json=sent).status_code == 403
    answer = admin.post("/api/runs", json=sent)
    assert answer.status_code == 201 and answer.json()["runs"] == [], answer.text
    (listed,) = guarded("view").get("/api/schedules").json()["schedules"]
    assert listed == answer.json()["schedule"] and listed["id"] == "nightly" and listed["every"] == "day@03:00"
    for wrong in ({"every": "sometimes"}, {"multirun": True}, {"name": "../x"}, {"client_key": "k"}, {"after": ["x"]}):
        assert admin.post("/api/runs", json={**sent, **wrong}).status_code == 422
    assert guarded("submit")("DELETE", "/api/schedules/nightly").status_code == 403
    assert admin("DELETE", "/api/schedules/nightly").status_code == 200
    assert admin("DELETE", "/api/schedules/nightly").status_code == 404
    assert admin.get("/api/schedules").json()["schedules"] == []


def test_nobody_but_a_schedule_submits_its_runs(guarded: Callable[[str | None], Caller]) -> None:
    """A run with such a key would stop the schedule while it waits, and be what the next run goes on from."""
    sent = {"overrides": ["experiment=demo"], "client_key": "schedule:nightly:x"}
    answer = guarded("submit").post("/api/runs", json=sent)
    assert answer.status_code == 422 and "give another key" in answer.json()["error"]
    assert guarded("view").get("/api/runs").json()["runs"] == []


def test_a_schedule_that_cannot_be_submitted_is_seen_wherever_people_look(
    queue: SqlQueue,
    place: Path,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Caller(make_site(queue, settings))
    add_schedule(queue, "nightly", "6h", new_run(place))
    assert "recsys_schedules_broken 0.0" in site.get("/metrics").text and "nightly" not in site.get("/").text
    with queue.changing() as connection:
        connection.execute(update(schedules).values(problem="there is no such file"))
    assert "recsys_schedules_broken 1.0" in site.get("/metrics").text
    assert "Schedules that cannot be submitted: nightly; recsys schedules says why." in site.get("/").text
    monkeypatch.delenv("RECSYS_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["doctor", "--service"]) == 0
    assert "cannot be submitted: nightly" in capsys.readouterr().out

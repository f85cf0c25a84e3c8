"""Schedules over HTTP: an admin's alone, since they last."""

from collections.abc import Callable
from pathlib import Path

from tests.service.http.conftest import Caller


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

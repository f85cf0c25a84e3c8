"""Each endpoint, through the application, on a real queue."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.lock import locked
from recsys.service.http.app import make_app
from recsys.service.http.settings import Limits, Settings
from recsys.service.queue.folders import read_folders
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Live, Needs
from recsys.service.queue.sql import SqlQueue
from recsys.service.wire import row_from
from tests.service.begun import begun_by_run
from tests.service.http.conftest import Caller, new_run

ROOM = Needs(4, 8 << 30)
ONE = "/api/runs/20260101-000000-demo-0"


def test_a_run_is_submitted_listed_and_shown(here: Caller, place: Path) -> None:
    sent = {"overrides": ["experiment=demo", "seed=3"], "name": "mine", "priority": 2, "client_key": "k"}
    answer = here.post("/api/runs", json=sent)
    assert answer.status_code == 201, answer.text
    (row,) = answer.json()["runs"]
    assert row["state"] == "queued" and row["new"]["name"] == "mine" and row["new"]["priority"] == 2
    assert row["new"]["user"] == "http:admin" and row["new"]["config"] == {}
    again = here.post("/api/runs", json=sent).json()["runs"]
    assert [r["id"] for r in again] == [row["id"]]  # the same key is the same run
    listed = here.get("/api/runs").json()
    assert [r["id"] for r in listed["runs"]] == [row["id"]] and listed["counts"]["queued"] == 1
    whole = here.get(f"/api/runs/{row['id']}").json()
    assert whole["new"]["config"]["seed"] == 3 and row_from(whole).new.config["train"]["embedding_dropout"] == 0.4
    assert not list((place / "runs").glob("2*"))  # the worker makes the folder


def test_a_sweep_is_a_parent_and_its_runs(here: Caller) -> None:
    sent = {"overrides": ["experiment=demo", "seed=1,2"], "multirun": True}
    parent, *children = here.post("/api/runs", json=sent).json()["runs"]
    assert parent["new"]["kind"] == "sweep"
    assert [c["id"] for c in children] == [f"{parent['id']}/0", f"{parent['id']}/1"]
    assert here.get(f"/api/runs/{children[1]['id']}").json()["new"]["config"]["seed"] == 2
    listed = here.get("/api/runs", params={"parent": parent["id"]}).json()["runs"]
    assert {r["id"] for r in listed} == {c["id"] for c in children}
    assert [r["id"] for r in here.get("/api/runs", params={"top": "true"}).json()["runs"]] == [parent["id"]]
    assert len(here.get("/api/runs").json()["runs"]) == 3
    cancelled = here.post(f"/api/runs/{children[0]['id']}/cancel")
    assert cancelled.json()["state"] == "cancelled"
    retried = here.post(f"/api/runs/{children[0]['id']}/retry")
    assert retried.status_code == 201 and retried.json()["state"] == "queued"


def test_what_is_wrong_with_overrides_is_said_before_anything_is_queued(here: Caller) -> None:
    wrong = here.post("/api/check", json={"overrides": ["experiment=demo", "train.batch_sise=3"]}).json()
    assert "train.batch_sise" in wrong["error"] and "batch_size" in wrong["error"]
    good = here.post("/api/check", json={"overrides": ["experiment=demo"]}).json()
    assert good["error"] is None and good["configs"][0]["name"] == "demo"
    refused = here.post("/api/runs", json={"overrides": ["experiment=demo", "train.batch_sise=3"]})
    assert refused.status_code == 422 and "batch_size" in refused.json()["error"]
    assert here.get("/api/runs").json()["runs"] == []


def test_pages_of_the_list(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, f"r{i}", name=f"n{i % 2}") for i in range(7)])
    first = here.get("/api/runs", params={"limit": 3}).json()["runs"]
    rest = here.get("/api/runs", params={"before": first[-1]["number"]}).json()["runs"]
    assert [r["id"] for r in first + rest] == [f"r{i}" for i in reversed(range(7))]
    assert len(here.get("/api/runs", params={"text": "n1"}).json()["runs"]) == 3
    assert len(here.get("/api/runs", params={"state": ["finished", "queued"]}).json()["runs"]) == 7
    assert here.get("/api/runs", params={"state": "sleeping"}).status_code == 422
    assert here.get("/api/runs", params={"limit": 10**6}).status_code == 422


def test_a_run_that_cannot_be_changed_answers_why(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place)])
    assert here.post(f"{ONE}/resume").status_code == 409
    claim = queue.claim("w", "h", ROOM)
    assert claim
    asked = here.post(f"{ONE}/cancel")
    assert asked.status_code == 200 and asked.json()["cancel_asked_at"] and asked.json()["state"] == "running"
    queue.end(claim, "cancelled", -15, "somebody stopped it")
    again = here.post(f"{ONE}/cancel")
    assert again.status_code == 409 and "cancelled" in again.json()["error"]
    assert here.post(f"{ONE}/resume", json={"dead": False}).json()["state"] == "queued"
    assert here.post("/api/runs/absent/cancel").status_code == 404
    assert here.get("/api/runs/absent").status_code == 404


def test_the_queue_goes_on_with_a_run_of_recsys_run(here: Caller, queue: Queue, place: Path) -> None:
    folder = begun_by_run("experiment=demo", "train.lr=0.002")
    assert isinstance(queue, SqlQueue) and read_folders(queue, place / "runs") == 1
    one = f"/api/runs/{folder.name}"
    assert here.get(one).json()["state"] == "killed"
    with locked(folder / ".lock"):
        busy = here.post(f"{one}/resume")
    assert busy.status_code == 409 and "is being run" in busy.json()["error"]
    assert here.post(f"{one}/resume").json()["state"] == "queued"
    claim = queue.claim("w", "h", ROOM)
    assert claim and claim.run.id == folder.name and claim.run.new.config["train"]["lr"] == 0.002


def test_a_run_of_recsys_run_whose_code_is_not_ours_is_not_taken_over_http(
    here: Caller, queue: Queue, place: Path
) -> None:
    folder = begun_by_run("experiment=demo")
    (place / "model").mkdir()
    (place / "model" / "mine.yaml").write_text("_target_: my_ctr.model.Linear\n_partial_: true\n")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "overrides": ["experiment=demo", "model=mine"]}))
    assert isinstance(queue, SqlQueue)
    read_folders(queue, place / "runs")
    refused = here.post(f"/api/runs/{folder.name}/resume")
    assert refused.status_code == 409 and not (folder / "frozen.json").exists(), refused.text


def test_events_by_id(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place), new_run(place, "other")])
    claim = queue.claim("w", "h", ROOM)
    assert claim
    queue.note(claim, Live("train", None, {"train": {"step": 3.0, "valid_auc": 0.7}}))
    events = here.get("/api/events").json()["events"]
    ids = [e["id"] for e in events]
    assert ids == sorted(ids) and {"state", "claim", "stage", "metrics"} <= {e["kind"] for e in events}
    later = here.get("/api/events", params={"after": ids[1], "run": claim.run.id}).json()["events"]
    assert later and all(e["id"] > ids[1] and e["run"] == claim.run.id for e in later)


def test_log_and_files(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place)])
    assert here.get(f"{ONE}/log").content == b""
    folder = place / "runs" / "20260101-000000-demo-0"
    (folder / "train").mkdir(parents=True)
    log = "übung 1\nübung 2\n".encode()
    (folder / "log.txt").write_bytes(log + "ü".encode()[:1])
    (folder / "train" / "history.json").write_text("[]")
    (folder / "evaluation.html").write_text("<script>alert(1)</script>")
    answer = here.get(f"{ONE}/log")
    assert answer.content == log and answer.headers["x-log-start"] == "0"
    assert here.get(f"{ONE}/log", params={"from": 9}).content == log[9:]
    assert here.get(f"{ONE}/log", params={"from": -9}).content == log[-8:]  # of 18 bytes, one is half a letter
    assert here.get(f"{ONE}/log", params={"from": 10**6}).headers["x-log-start"] == "0"  # it has become shorter
    entries = here.get(f"{ONE}/files/").json()["entries"]
    assert [e["name"] for e in entries] == ["evaluation.html", "log.txt", "train"]
    assert here.get(f"{ONE}/files/train/history.json").json() == []
    page = here.get(f"{ONE}/files/evaluation.html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox") and "allow-same-origin" not in policy and "connect-src" not in policy


def test_a_full_queue_and_a_full_disk_take_nothing(queue: Queue, place: Path) -> None:
    queue.submit([new_run(place)])
    small = Caller(make_app(queue, Settings(place / "runs", place, limits=Limits(queued=1))))
    assert small.post("/api/runs", json={"overrides": []}).status_code == 503
    for change in ("retry", "resume"):
        answer = small.post(f"{ONE}/{change}")
        assert answer.status_code == 503 and "1 runs wait" in answer.text, answer.text
    assert len(queue.find()) == 1
    full = Caller(make_app(queue, Settings(place / "runs", place, limits=Limits(free_bytes=1 << 60))))
    answer = full.post("/api/runs", json={"overrides": []})
    assert answer.status_code == 507 and "free" in answer.json()["error"]


def test_a_crowd_at_the_composer_is_sent_away(queue: Queue, place: Path) -> None:
    busy = Caller(make_app(queue, Settings(place / "runs", place, limits=Limits(composing=0))))
    for path in ("/api/check", "/api/runs"):
        answer = busy.post(path, json={"overrides": ["experiment=demo"]})
        assert answer.status_code == 503 and answer.headers["retry-after"]
    folder = begun_by_run("experiment=demo")
    assert isinstance(queue, SqlQueue) and read_folders(queue, place / "runs") == 1
    assert busy.post(f"/api/runs/{folder.name}/resume").status_code == 503
    assert not (folder / "frozen.json").exists()


def test_the_description_names_every_endpoint(here: Caller) -> None:
    paths = here.get("/openapi.json").json()["paths"]
    for path in ("/api/runs", "/api/check", "/api/events", "/api/runs/{id}/cancel", "/api/runs/{id}/log"):
        assert path in paths
    assert json.dumps(paths).count('"summary"') >= 10
    assert here.get("/health").json() == {"status": "ok"}
    missing = here.get("/nothing")
    assert missing.status_code == 404 and "openapi" in missing.json()["error"]


def test_head_answers_as_get_without_a_body(here: Caller, guarded: Callable[[str | None], Caller]) -> None:
    (row,) = here.post("/api/runs", json={"overrides": ["experiment=demo"]}).json()["runs"]
    for path in ("/health", "/metrics", "/api/runs", f"/api/runs/{row['id']}", "/api/runs/absent", "/nothing"):
        whole, head = here.get(path), here("HEAD", path)
        assert head.status_code == whole.status_code and head.content == b"" and whole.content, path
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert "content-length" in head.headers and "content-security-policy" in head.headers
    assert here("HEAD", "/api/events/stream").status_code == 200  # and it ends
    assert here("HEAD", "/api/check").status_code == 405
    assert guarded(None)("HEAD", "/api/runs").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/api/runs", "/nothing", "/login"])
def test_every_answer_has_safe_headers(here: Caller, path: str) -> None:
    headers = here.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"


def test_figures_that_are_no_numbers_are_null(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place)])
    claim = queue.claim("w", "h", ROOM)
    assert claim
    figures = {"step": 3.0, "valid_logloss": float("nan"), "train_loss": float("inf"), "valid_auc": 0.5}
    queue.note(claim, Live("train", {"done": 1, "total": 2, "per_second": float("nan")}, {"train": figures}))
    (other,) = queue.submit([new_run(place, "other")])
    both = here.get(f"/api/compare?ids={claim.run.id}&ids={other.id}").json()
    assert {run["id"] for run in both["runs"]} == {claim.run.id, other.id}
    form = here("POST", "/api/runs", content=b"{}", headers={"content-type": "application/x-www-form-urlencoded"})
    assert form.status_code == 403 and "the header Content-Type: application/json" in form.text
    for path in ("/api/runs", ONE, "/api/events", f"/api/compare?ids={claim.run.id}"):
        answer = here.get(path)
        assert answer.status_code == 200, path

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        json.loads(answer.text, parse_constant=refuse)

"""Streams of events and logs, which a client may leave and take up again."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from recsys.service.http.app import make_app
from recsys.service.http.settings import Limits, Settings
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Live, Needs
from tests.service.http.conftest import new_run

QUICK = Limits(heartbeat_seconds=0.2, poll_seconds=0.02, streams=2)


@pytest.fixture
def app(queue: Queue, place: Path) -> FastAPI:
    return make_app(queue, Settings(place / "runs", place, limits=QUICK))


class Stream:
    """An open stream: what has come, as it comes."""

    def __init__(self) -> None:
        self.text, self.status, self.left = "", 0, asyncio.Event()
        self.more = asyncio.Event()

    async def until(self, wanted: str) -> str:
        async with asyncio.timeout(10):
            while wanted not in self.text:
                self.more.clear()
                await self.more.wait()
        return self.text

    @property
    def events(self) -> list[dict[str, Any]]:
        blocks = [
            dict(line.split(": ", 1) for line in b.splitlines() if line[0] != ":") for b in self.text.split("\n\n")
        ]
        return [{**b, "data": json.loads(b["data"])} for b in blocks if "data" in b]


def follow(
    app: FastAPI, path: str, act: Callable[[Stream], Awaitable[None]], seen: str = "", query: str = ""
) -> Stream:
    """Open a stream, do something, and leave."""
    stream = Stream()

    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if body:
            return body.pop()
        await stream.left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        stream.status = message.get("status", stream.status)
        stream.text += message.get("body", b"").decode()
        stream.more.set()

    headers = [(b"host", b"127.0.0.1"), *([(b"last-event-id", seen.encode())] if seen else [])]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
             "raw_path": path.encode(), "query_string": query.encode(), "headers": headers, "scheme": "http",
             "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": ""}  # fmt: skip

    async def main() -> None:
        task = asyncio.create_task(app(scope, receive, send))
        try:
            await act(stream)
        finally:
            stream.left.set()
            await asyncio.wait_for(task, 10)

    asyncio.run(main())
    return stream


def test_a_client_that_reconnects_misses_nothing(app: FastAPI, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, "a")])

    async def watch(stream: Stream) -> None:
        await stream.until('"run": "a"')
        await asyncio.to_thread(queue.submit, [new_run(place, "b")])
        await stream.until('"run": "b"')

    first = follow(app, "/api/events/stream", watch, query="after=0")
    last = first.events[-1]["id"]
    queue.submit([new_run(place, "c")])  # while nobody listens
    again = follow(app, "/api/events/stream", lambda s: _(s.until('"run": "c"')), seen=last)
    runs = [e["data"]["run"] for e in first.events + again.events]
    assert list(dict.fromkeys(runs)) == ["a", "b", "c"]
    ids = [int(e["id"]) for e in first.events + again.events]
    assert ids == sorted(set(ids)) == [e["data"]["id"] for e in first.events + again.events]


async def _(waiting: Awaitable[str]) -> None:
    await waiting


def test_a_new_client_begins_now_and_hears_that_the_service_lives(app: FastAPI, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, "old")])

    async def watch(stream: Stream) -> None:
        await stream.until("still here")
        await asyncio.to_thread(queue.submit, [new_run(place, "new")])
        await stream.until('"run": "new"')

    stream = follow(app, "/api/events/stream", watch)
    assert {e["data"]["run"] for e in stream.events} == {"new"}
    assert "id: " in stream.text.split("still here")[0]  # so that it can come back even before the first event


def test_one_run_alone(app: FastAPI, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, "a"), new_run(place, "b"), new_run(place, "c")])
    stream = follow(app, "/api/events/stream", lambda s: _(s.until('"run": "b"')), query="after=0&run=b")
    assert {e["data"]["run"] for e in stream.events} == {"b"}


def test_a_log_grows_until_its_run_has_ended(app: FastAPI, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, "a")])
    claim = queue.claim("w", "h", Needs(4, 8 << 30))
    assert claim
    (place / "runs" / "a").mkdir()
    log = place / "runs" / "a" / "log.txt"
    log.write_text("one\n")

    async def watch(stream: Stream) -> None:
        await stream.until("one")
        with log.open("a") as file:
            file.write("two: ü\n")
        await stream.until("two")
        await asyncio.to_thread(queue.end, claim, "finished", 0, None)
        await stream.until("event: end")

    stream = follow(app, "/api/runs/a/log/stream", watch)
    assert "".join(e["data"] for e in stream.events) == "one\ntwo: ü\n"
    assert stream.events[0]["id"] == "4"
    again = follow(app, "/api/runs/a/log/stream", lambda s: _(s.until("event: end")), seen="4")
    assert "".join(e["data"] for e in again.events) == "two: ü\n"


def test_a_figure_that_is_no_number_is_null(app: FastAPI, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, "a")])
    claim = queue.claim("w", "h", Needs(4, 8 << 30))
    assert claim
    queue.note(claim, Live("train", None, {"train": {"step": 1.0, "valid_logloss": float("nan")}}))
    stream = follow(app, "/api/events/stream", lambda s: _(s.until("valid_logloss")), query="after=0")
    assert '"valid_logloss": null' in stream.text and "NaN" not in stream.text


def test_no_more_streams_than_allowed_and_a_place_is_given_back(app: FastAPI, queue: Queue, place: Path) -> None:
    async def crowd(stream: Stream) -> None:
        await stream.until("from now on")

    for _round in range(4):  # twice as many as may be open at once
        assert follow(app, "/api/events/stream", crowd).status == 200


def test_a_log_of_no_run_is_no_stream(app: FastAPI) -> None:
    stream = follow(app, "/api/runs/absent/log/stream", lambda s: _(s.until("}")))
    assert stream.status == 404

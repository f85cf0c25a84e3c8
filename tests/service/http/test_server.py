"""The real server in a process of its own, asked by the client that users copy."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.service.client import Client, Refused
from recsys.service.http.server import settings_for
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Needs
from tests.service.http.conftest import new_run

TOKEN = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).parents[3]
SERVE = """
import time
from pathlib import Path
from recsys.service.http.app import make_app
from recsys.service.http.server import serve, settings_for
from recsys.service.queue.open import address, open_queue
queue = open_queue(address("runs"))
def slow():
    Path("begun").touch()
    time.sleep(1.5)
def make(queue, settings):
    app = make_app(queue, settings)
    app.add_api_route("/api/slow", slow)
    return app
serve(queue, settings_for(Path("runs"), "127.0.0.1"), "127.0.0.1", 0, lambda url: print(url, flush=True), make,
      lambda: Path("ends").touch())
"""


@pytest.fixture
def url(place: Path, database: str) -> Generator[str]:
    """A service on that database, which the environment names → its address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RECSYS_TOKEN": TOKEN}
    log = (place / "service.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
    )
    assert server.stdout
    (place / "service.pid").write_text(str(server.pid))
    try:
        yield server.stdout.readline().strip()
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(20)
        server.stdout.close()
        log.close()
    said = (place / "service.log").read_text()
    assert code in (0, -signal.SIGTERM), said
    assert all("event" in json.loads(line) for line in said.splitlines()), said  # nothing else is written


def test_a_client_submits_follows_and_cancels(url: str, queue: Queue, place: Path) -> None:
    service = Client(url, TOKEN)
    (row,) = service.submit(["experiment=demo", "seed=5"], name="ours")
    assert [r["id"] for r in service.runs(text="ours")] == [row["id"]]
    assert service.run(row["id"])["new"]["config"]["seed"] == 5
    claim = queue.claim("w", "h", Needs(4, 8 << 30))  # another process of the same database
    assert claim and claim.run.id == row["id"]
    folder = place / "runs" / row["id"]
    folder.mkdir()
    (folder / "log.txt").write_text("begun\n")
    pieces: list[bytes] = []
    follower = threading.Thread(target=lambda: pieces.extend(service.follow(row["id"], every=0.05)))
    follower.start()
    assert service.cancel(row["id"])["cancel_asked_at"]
    queue.end(claim, "cancelled", -15, "stopped")
    follower.join(20)
    assert b"".join(pieces) == b"begun\n" and service.wait(row["id"])["state"] == "cancelled"
    kinds = [e["kind"] for e in service.events(run=row["id"])]
    assert kinds[0] == "state" and "claim" in kinds
    many = ",".join(f"20260101-000000-a-name-of-a-sweep/{i}" for i in range(500))
    with pytest.raises(Refused, match="expected the id of a run"):  # and not: the address is too long
        service._json("GET", "/api/compare", query={"ids": many})
    with pytest.raises(Refused, match="Bearer"):
        Client(url, "another").runs()
    with pytest.raises(Refused, match="experiment: no option") as caught:
        service.submit(["experiment=dem"])
    assert caught.value.status == 422
    lines = [json.loads(line) for line in (place / "service.log").read_text().splitlines()]
    assert {"submitted", "cancel"} <= {line["event"] for line in lines if line.get("run") == row["id"]}
    assert TOKEN not in (place / "service.log").read_text()


def test_an_open_stream_does_not_hold_up_the_end(url: str, place: Path) -> None:
    from urllib.request import Request, urlopen

    asked = Request(f"{url}/api/events/stream", headers={"Authorization": f"Bearer {TOKEN}"})
    stream = urlopen(asked, timeout=20)
    assert stream.readline().startswith(b": from now on")
    pid = int((place / "service.pid").read_text())
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    rest = stream.read()  # to its end, which is in order
    stream.close()
    assert b"event" not in rest and time.monotonic() - began < 2.5


def test_workers_are_told_before_the_service_waits_for_its_requests(url: str, place: Path) -> None:
    """A request on a disk that does not answer may take for ever: no worker begins a run meanwhile."""
    asked = threading.Thread(target=lambda: Client(url, TOKEN)._json("GET", "/api/slow"))
    asked.start()
    end = time.monotonic() + 30
    while not (place / "begun").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(int((place / "service.pid").read_text()), signal.SIGTERM)
    while not (place / "ends").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert (place / "ends").exists() and asked.is_alive()
    asked.join(10)


def test_where_others_reach_it_a_service_needs_a_token(place: Path) -> None:
    with pytest.raises(ConfigError, match="RECSYS_TOKEN"):
        settings_for(place / "runs", "0.0.0.0", environment={})
    open_to_this_machine = settings_for(place / "runs", "127.0.0.1", environment={})
    assert open_to_this_machine.hosts and "127.0.0.1" in open_to_this_machine.hosts
    shared = settings_for(
        place / "runs", "0.0.0.0", environment={"RECSYS_TOKEN": TOKEN, "MLFLOW_TRACKING_URI": "http://m"}
    )
    assert shared.hosts is None and shared.mlflow == "http://m"
    secret = settings_for(place, "::1", environment={"MLFLOW_TRACKING_URI": "http://user:secret@m"})
    assert secret.mlflow is None


def test_a_run_of_recsys_run_appears_by_itself(queue: Queue, place: Path) -> None:
    """The application looks into the folders while it lives; see `make_app`."""
    import asyncio

    from recsys.results import Process, Run, write_run
    from recsys.service.http.app import make_app
    from recsys.service.http.settings import Settings

    (place / "runs" / "by-hand").mkdir()
    write_run(place / "runs" / "by-hand", Run("0" * 32, {"seed": 0, "name": "x"}, "d" * 16, ["seed=0"],
                                              Process(1, 1.0), "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00",
                                              "finished"))  # fmt: skip
    queue.submit([new_run(place)])
    app = make_app(queue, Settings(place / "runs", place))

    async def live() -> None:
        async with app.router.lifespan_context(app), asyncio.timeout(10):
            while not await asyncio.to_thread(queue.find, text="by-hand"):
                await asyncio.sleep(0.02)

    asyncio.run(live())
    assert queue.get("by-hand").new.kind == "direct"

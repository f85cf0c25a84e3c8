"""A database for each test, on SQLite and on a Postgres server that this session starts on a Unix socket."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from recsys.service.queue.open import open_queue
from recsys.service.queue.records import Needs, NewRun
from recsys.service.queue.sql import SqlQueue

ROOM = Needs(4, 8 << 30, 1)


class Server:
    """A Postgres server in a temporary folder; it runs as `nobody` if the tests run as root, which it refuses."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg."))
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        make = ["initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-D", str(self.folder / "data")]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self._user)
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self.folder}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers; processes of a killed server may need a moment to see that it is gone."""
        settings = ["-F", "-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}"]
        settings += ["-c", "max_connections=60", "-c", "shared_buffers=16MB"]
        import psycopg

        command = ["postgres", "-D", str(self.folder / "data"), *settings]
        until = time.monotonic() + 60
        while True:
            if self.process is None or self.process.poll() is not None:
                with (self.folder / "log").open("a") as log:
                    self.process = subprocess.Popen(command, stderr=log, cwd=self.folder, **self._user)
            try:
                return psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres").close()
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self.folder / "log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a crash would; its other processes end once they see that it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # "fast": connections are ended
        self.process.wait(30)
        shutil.rmtree(self.folder)

    def clear(self) -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public")


@pytest.fixture(scope="session")
def server() -> Generator[Server]:
    pytest.importorskip("psycopg")
    if shutil.which("initdb") is None:
        pytest.skip("Postgres is not installed")
    server = Server()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    server: Server = request.getfixturevalue("server")
    server.clear()
    return server.url


@pytest.fixture
def queue(url: str) -> Generator[SqlQueue]:
    queue = open_queue(url)
    yield queue
    queue.close()


@pytest.fixture
def new(tmp_path: Path) -> Callable[..., NewRun]:
    return lambda id="demo", **changes: new_run(id, str(tmp_path / "runs"), **changes)


def new_run(id: str, runs: str, **changes: Any) -> NewRun:
    config = {"name": id, "train": {"epochs": 2}}
    settings: dict[str, Any] = {"overrides": [f"name={id}"], "config": config, "digest": "0" * 16, "name": id}
    return NewRun(**{"id": id, "runs": runs, "cwd": "/", **settings, **changes})


@pytest.fixture
def jump(url: str) -> Callable[[SqlQueue, float], None]:
    """Moves the database's clock, as seen from the times in its tables."""

    def move(queue: SqlQueue, seconds: float) -> None:
        with queue.changing() as connection:
            for name in ("lease_until", "heartbeat_at", "cancel_asked_at", "submitted_at", "started_at", "ended_at"):
                connection.exec_driver_sql(f"UPDATE runs SET {name} = {name} - {float(seconds)}")
            connection.exec_driver_sql(f"UPDATE workers SET heartbeat_at = heartbeat_at - {float(seconds)}")

    return move

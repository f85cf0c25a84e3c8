"""What the test of chaos breaks: it kills processes by their ids, moves clocks, fills the disk, cuts the database."""

import hashlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from recsys.service.client import Client
from tests.service.worker.fakes import begin_service, begin_worker

STEPS, LEASE = 40, 3.0
CHAIN = f"""
import fcntl, hashlib
lock = open(folder / '.lock', 'a')
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    (folder.parent / 'overlaps').mkdir(exist_ok=True)
    sys.exit(3)
file, new = folder / 'chain.json', folder / 'chain.new'
i, x = json.loads(file.read_text()) if file.exists() else (0, '')
while i < {STEPS}:
    if (folder / 'cancel').exists():
        state('cancelled', note='stopped by the file cancel')
        sys.exit(2)
    i, x = i + 1, hashlib.sha256(x.encode()).hexdigest()
    if i % 5 == 0:
        new.write_text(json.dumps([i, x]))
        new.replace(file)
        state('running', stage='train', progress={{'done': i, 'total': {STEPS}, 'unit': 'steps'}})
    time.sleep(0.05)
if json.loads((folder / 'owner.json').read_text())['token'] != os.environ['RECSYS_RUN_TOKEN']:
    sys.exit(4)
result = folder / 'result'
if not result.exists():
    new.write_text(x)
    os.link(new, result)
state('finished')
"""  # a training in small: each step needs the one before, and every fifth is kept


def chain() -> str:
    """The result of CHAIN."""
    x = ""
    for _ in range(STEPS):
        x = hashlib.sha256(x.encode()).hexdigest()
    return x


class Chaos:
    """A service and two workers beside it, of which one thing breaks at a time.

    Args:
        url: Address of the queue.
        folder: Where `runs` is.
        small_disk: Whether `runs` is a small disk of its own.
    """

    def __init__(self, url: str, folder: Path, small_disk: bool):
        self.url, self.folder, self.random = url, folder, random.Random(7)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.service: subprocess.Popen[bytes] | None = None
        self.done: dict[str, int] = {}
        self._ways: dict[str, Callable[[], bool]] = {
            "service": self._kill_service, "worker": self._kill_worker, "run": self._kill_run,
            "child": self._kill_child, "clock": self._move_clock, "stop": self._stop_one,
            "database": self._cut_database,
        }  # fmt: skip
        if small_disk:
            self._ways["disk"] = self._fill_disk
        (folder / "clock").write_text("0")

    def keep(self) -> None:
        """Start again what has ended."""
        for gone in [w for w in self.workers if w.poll() is not None]:
            self.workers.remove(gone)
            assert gone.stdout is not None
            gone.stdout.close()
        settings: dict[str, Any] = {"cores": 3, "lease": LEASE, "grace": 1.0, "most_deaths": 10**6, "pause": 1.0}
        while len(self.workers) < 2:
            self.workers.append(begin_worker(self.url, self.folder, **settings))
        if self.service is None or self.service.poll() is not None:
            self.service = begin_service(self.url, self.folder, **settings)

    def client(self) -> Client | None:
        """A client of the service; None until it has said where it listens."""
        said = (self.folder / "service.out").read_text()
        addresses = re.findall(r"recsys service on (http://\S+)\n", said)
        return Client(addresses[-1], timeout=10.0) if addresses else None

    def strike(self) -> None:
        """Break one thing, chosen at random, and count it."""
        way = self.random.choice(list(self._ways))
        if self._ways[way]():
            self.done[way] = self.done.get(way, 0) + 1

    def end(self) -> None:
        """Stop all, and wait until no process is left."""
        (self.folder / "clock").write_text("0")
        for each in [*self.workers, *filter(None, [self.service])]:
            each.terminate()
            each.wait(60)
            if each.stdout is not None:
                each.stdout.close()
        until = time.monotonic() + 60
        while left := [*self._processes(b"-c"), *self.leaders()]:  # workers of services that were killed, too
            assert time.monotonic() < until, left
            time.sleep(0.1)

    def _processes(self, word: bytes) -> Iterator[int]:
        """Python processes that have a word in their command, and our folder."""
        mark = str(self.folder).encode()
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                if word in words.split(b"\0") and mark in words:
                    yield int(name)

    def leaders(self) -> list[int]:
        """The small processes above the runs."""
        return list(self._processes(b"recsys.service.worker.child"))

    def _kill(self, victims: list[int]) -> bool:
        if not victims:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.random.choice(victims), signal.SIGKILL)
        return True

    def _kill_service(self) -> bool:
        assert self.service is not None
        self.service.kill()
        self.service.wait()
        return True

    def _kill_worker(self) -> bool:
        """Kill a worker, perhaps that of the service."""
        assert self.service is not None
        return self._kill([p for p in self._processes(b"-c") if p != self.service.pid])

    def _stop_one(self) -> bool:
        """End a worker, or the service with its worker, in order."""
        with suppress(ProcessLookupError):
            os.kill(self.random.choice(list(self._processes(b"-c"))), signal.SIGTERM)
        return True

    def _kill_child(self) -> bool:
        return self._kill(self.leaders())

    def _kill_run(self) -> bool:
        below = list[int]()
        for leader in self.leaders():
            with suppress(OSError):
                below += map(int, Path(f"/proc/{leader}/task/{leader}/children").read_text().split())
        return self._kill(below)

    def _move_clock(self) -> bool:
        (self.folder / "clock").write_text(str(self.random.choice([-3600, -60, 0, 60, 3600])))
        return True

    def _fill_disk(self) -> bool:
        filler = self.folder / "runs" / ".filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        time.sleep(self.random.uniform(0.5, 3.0))
        filler.unlink()
        return True

    def _cut_database(self) -> bool:
        """Hold SQLite's lock for longer than a lease; of Postgres end all connections, or kill one by its id."""
        if self.url.startswith("sqlite"):
            path = self.url.removeprefix("sqlite:///")
            with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(self.random.uniform(0.5, LEASE + 2))
                connection.execute("ROLLBACK")
            return True
        import psycopg

        host = self.url.partition("host=")[2]
        ours = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = 'recsys'"
        with psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True) as connection:
            if self.random.random() < 0.5:
                connection.execute(f"SELECT pg_terminate_backend(pid) {ours}")
                return True
            victims = [pid for (pid,) in connection.execute(f"SELECT pid {ours}")]
        return self._kill(victims)  # Postgres ends all other connections then, and recovers as after a crash

"""Chaos: workers and runs are killed at random, the clock is moved, the disk filled, the database cut off.

Every run must end in its right state, with its result once and with the very numbers of a run that nobody disturbed.
RECSYS_CHAOS_MINUTES says how long, shared by SQLite and Postgres (2; for ten: -o faulthandler_timeout=0 too).
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.service.queue.errors import QueueDown
from recsys.service.queue.open import open_queue
from recsys.service.queue.sql import SqlQueue
from tests.pipeline.small import SMALL, recsys
from tests.service.queue.conftest import Server, server  # noqa: F401  # fixture
from tests.service.worker.fakes import begin_worker, new, pids, wait
from tests.service.worker.test_launched import submitted, weights

pytestmark = pytest.mark.slow  # minutes, by design

MINUTES = float(os.environ.get("RECSYS_CHAOS_MINUTES", "2"))
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
    x = ""
    for _ in range(STEPS):
        x = hashlib.sha256(x.encode()).hexdigest()
    return x


class Chaos:
    """Breaks one thing at a time.

    Args:
        url: Address of the queue.
        folder: Where `runs` is.
        small_disk: Whether `runs` is a small disk of its own.
    """

    def __init__(self, url: str, folder: Path, small_disk: bool):
        self.url, self.folder, self.random = url, folder, random.Random(7)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.done: dict[str, int] = {}
        self.ways: dict[str, Callable[[], bool]] = {
            "worker": self._kill_worker, "run": self._kill_run, "child": self._kill_child, "clock": self._move_clock,
            "stop": self._stop_worker, "database": self._cut_database,
        }  # fmt: skip
        if small_disk:
            self.ways["disk"] = self._fill_disk
        (folder / "clock").write_text("0")

    def keep(self, count: int) -> None:
        """Have so many workers."""
        for gone in [w for w in self.workers if w.poll() is not None]:
            self.workers.remove(gone)
            assert gone.stdout is not None
            gone.stdout.close()
        while len(self.workers) < count:
            self.workers.append(
                begin_worker(self.url, self.folder, 3, lease=LEASE, grace=1.0, most_deaths=10**6, pause=1.0)
            )

    def strike(self) -> None:
        way = self.random.choice(list(self.ways))
        if self.ways[way]():
            self.done[way] = self.done.get(way, 0) + 1

    def _kill_worker(self) -> bool:
        victim = self.random.choice(self.workers)
        victim.kill()
        victim.wait()
        return True

    def _stop_worker(self) -> bool:
        self.random.choice(self.workers).send_signal(signal.SIGTERM)
        return True

    def _leaders(self) -> list[int]:
        mark = str(self.folder).encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                if b"recsys.service.worker.child" in words and mark in words:
                    found.append(int(name))
        return found

    def _kill_child(self) -> bool:
        leaders = self._leaders()
        with suppress(ProcessLookupError):
            if leaders:
                os.kill(self.random.choice(leaders), signal.SIGKILL)
        return bool(leaders)

    def _kill_run(self) -> bool:
        for leader in self.random.sample(leaders := self._leaders(), len(leaders)):
            with suppress(OSError):
                below = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
                if below:
                    os.kill(int(below[0]), signal.SIGKILL)
                    return True
        return False

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
        if self.url.startswith("sqlite"):
            with sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=10) as connection:
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(self.random.uniform(0.5, LEASE + 2))
            connection.close()
            return True
        import psycopg

        host = self.url.partition("host=")[2]
        with psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND application_name = 'recsys'"
            )
        return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[bool]:
    """`runs` as a disk of 96 MiB, if this user may mount one."""
    (tmp_path / "runs").mkdir()
    mounted = (
        bool(shutil.which("mount"))
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(tmp_path / "runs")], capture_output=True
        ).returncode
    )
    yield mounted
    if mounted:
        subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)


def _try(work: Callable[[], object]) -> None:
    """Do what a person does; a database that is cut off just then is asked again later."""
    with suppress(QueueDown):
        work()


def _rage(chaos: Chaos, queue: SqlQueue, seconds: float) -> set[str]:
    """Submit, cancel and break things → ids of those that were asked to stop."""
    until, number, stopped = time.monotonic() + seconds, 0, set[str]()
    while time.monotonic() < until:
        chaos.keep(3)
        if number < 10 * seconds / 6:
            _try(lambda n=number: queue.submit([new(chaos.folder, f"r{n}", CHAIN)]))
            number += 1
        if chaos.random.random() < 0.1 and number:
            id = f"r{chaos.random.randrange(number)}"
            with suppress(ConfigError):  # it has ended
                _try(lambda i=id: (queue.cancel(i), stopped.add(i)))
        time.sleep(chaos.random.uniform(0.1, 0.8))
        chaos.strike()
    return stopped


def _settle(chaos: Chaos, queue: SqlQueue, seconds: float = 200.0) -> None:
    """Let everything end; what a full disk made fail is resumed, as its message says."""
    (chaos.folder / "clock").write_text("0")

    def over() -> bool:
        chaos.keep(2)
        for run in queue.find(["failed"], limit=10_000):
            text = f"{run.reason} {_log(chaos.folder, run.id)}"
            assert "No space left" in text or run.exit == 120, (run.id, run.exit, text)  # 120: nor write why
            queue.resume(run.id)
        counts = queue.counts()
        return not any(counts.get(state) for state in ("queued", "running", "unknown", "failed"))

    wait(over, seconds)


def _log(folder: Path, id: str) -> str:
    file = folder / "runs" / id / "log.txt"
    return file.read_text(errors="replace")[-3000:] if file.exists() else ""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_whatever_is_broken_each_run_ends_right_once(
    kind: str, tmp_path: Path, small_disk: bool, place: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pg: Server | None = request.getfixturevalue("server") if kind == "postgres" else None
    if pg is not None:
        pg.clear()
    url = pg.url if pg is not None else f"sqlite:///{tmp_path / 'service.db'}"
    short = [*SMALL, "stages=[train]", "train.checkpoint_steps=5", "seed=21"]
    done = recsys(place, "run", *short)
    assert done.returncode == 0, done.stderr
    other = Path(done.stdout.splitlines()[-1]).parent.name
    shutil.copy(place / "clicks.parquet", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_CLOCK", str(tmp_path / "clock"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    chaos, queue = Chaos(url, tmp_path, small_disk), open_queue(url, LEASE)
    try:
        training = submitted(queue, *short)
        stopped = _rage(chaos, queue, 30 * MINUTES)
        _settle(chaos, queue)
        runs = queue.find(limit=10_000)
        print(f"{kind}: {len(runs)} runs, {sum(r.attempt for r in runs)} attempts, struck {chaos.done}")
        _check(runs, stopped, tmp_path, training)
        ours, theirs = weights(tmp_path, training), weights(place, other)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
    finally:
        for each in chaos.workers:
            each.terminate()
        for each in chaos.workers:
            each.wait(60)
            assert each.stdout is not None
            each.stdout.close()
        queue.close()
    wait(lambda: not chaos._leaders(), 30)


def _check(runs: list, stopped: set[str], folder: Path, training: str) -> None:  # type: ignore[type-arg]
    assert not (folder / "runs" / "overlaps").exists(), "two processes ran one run"
    assert len(runs) > 5 and sum(r.attempt for r in runs) > len(runs)
    for run in runs:
        assert run.state == "finished" or (run.state == "cancelled" and run.id in stopped), (run.id, run.state)
        result = folder / "runs" / run.id / "result"
        if run.id == training:
            continue
        assert (run.state == "finished") <= result.exists(), run.id
        assert not result.exists() or result.read_text() == chain()
        assert len(pids(folder, run.id)) <= run.attempt, "no more processes than claims"
        assert (
            json.loads((folder / "runs" / run.id / "owner.json").read_text())["attempt"] <= run.attempt
            if (folder / "runs" / run.id / "owner.json").exists()
            else run.state == "cancelled"
        )

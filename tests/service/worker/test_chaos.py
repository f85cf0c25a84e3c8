"""Chaos: service, workers and runs are killed at random, the clock is moved, the disk filled, the database cut off.

Every run must end in its right state, with its result once; trainings with the very weights of one that nobody
disturbed. RECSYS_CHAOS_MINUTES says how long, shared by SQLite and Postgres (2; if it is longer, with
-o faulthandler_timeout=0).
"""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.service.client import Refused, Unreachable
from recsys.service.queue.errors import QueueDown
from recsys.service.queue.open import open_queue
from recsys.service.queue.records import ENDED, QueuedRun
from recsys.service.queue.sql import SqlQueue
from tests.pipeline.small import SMALL, recsys
from tests.service.queue.conftest import Server, server  # noqa: F401  # fixture
from tests.service.worker.chaos import CHAIN, LEASE, Chaos, chain
from tests.service.worker.fakes import new, pids, wait
from tests.service.worker.test_launched import submitted, weights

pytestmark = pytest.mark.slow  # minutes, by design

MINUTES = float(os.environ.get("RECSYS_CHAOS_MINUTES", "2"))
SHORT = [*SMALL, "stages=[train]", "train.checkpoint_steps=5", "seed=21"]
TRAININGS = 12  # at most, one after the other


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[bool]:
    """`runs` as a disk of 192 MiB, if this user may mount one."""
    (tmp_path / "runs").mkdir()
    mounted = (
        bool(shutil.which("mount"))
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(tmp_path / "runs")], capture_output=True
        ).returncode
    )
    yield mounted
    if mounted:
        subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)


class People:
    """Who submits, cancels and watches, by the database and by the service; what does not answer is asked later.

    Args:
        chaos: What breaks meanwhile.
        queue: The queue.
    """

    def __init__(self, chaos: Chaos, queue: SqlQueue):
        self.chaos, self.queue = chaos, queue
        self.runs, self.trainings = list[str](), list[str]()
        self.asked = set[str]()  # ids of runs that were asked to stop
        self.events = list[dict[str, Any]]()  # as the service tells them
        self.answers = Counter[str]()

    def act(self) -> None:
        """Do one round of what people do."""
        with suppress(QueueDown):
            if not self.trainings or (
                len(self.trainings) < TRAININGS and self.queue.get(self.trainings[-1]).state in ENDED
            ):
                self.trainings.append(submitted(self.queue, *SHORT))
        with suppress(QueueDown):
            if self.queue.counts().get("queued", 0) < 10:
                (run,) = self.queue.submit([new(self.chaos.folder, f"r{len(self.runs)}", CHAIN)])
                self.runs.append(run.id)
        if self.runs and self.chaos.random.random() < 0.1:
            self._cancel(self.chaos.random.choice(self.runs))
        self.look()

    def _cancel(self, id: str) -> None:
        self.asked.add(id)  # whether or not an answer comes
        client = self.chaos.client() if self.chaos.random.random() < 0.5 else None
        with suppress(ConfigError, QueueDown, Refused, Unreachable):  # ConfigError, Refused: it has ended
            if client is None:
                self.queue.cancel(id)
            else:
                client.cancel(id)
                self.answers["cancelled by HTTP"] += 1

    def look(self) -> bool:
        """Read the events that are new, from the service → whether it answered."""
        if (client := self.chaos.client()) is None:
            return False
        try:
            self.events += client.events(self.events[-1]["id"] if self.events else 0)
        except (Refused, Unreachable):
            self.answers["no answer"] += 1
            return False
        self.answers["events"] += 1
        return True


def _rage(chaos: Chaos, people: People, seconds: float) -> None:
    """Let people work while things break, from when all are there."""
    wait(lambda: chaos.keep() or people.look(), 120)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        chaos.keep()
        people.act()
        time.sleep(chaos.random.uniform(0.1, 0.8))
        chaos.strike()


def _settle(chaos: Chaos, people: People) -> None:
    """Let everything end, in minutes; what a full disk made fail is resumed, as its message says."""
    (chaos.folder / "clock").write_text("0")
    queue = people.queue

    def over() -> bool:
        chaos.keep()
        try:
            for run in queue.find(["failed"], limit=10_000):
                text = f"{run.reason} {_log(chaos.folder, run.id)}"
                assert "No space left" in text or run.exit == 120, (run.id, run.exit, text)  # 120: nor write why
                queue.resume(run.id)
            counts = queue.counts()
        except QueueDown:
            return False
        return not any(counts.get(state) for state in ("queued", "running", "unknown", "failed"))

    wait(over, 600)
    last = queue.load().newest_event
    wait(lambda: chaos.keep() or (people.look() and people.events[-1]["id"] == last))


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
    url = pg.url if pg is not None else f"sqlite:///{tmp_path / 'runs' / 'service.db'}"
    done = recsys(place, "run", *SHORT)
    assert done.returncode == 0, done.stderr
    undisturbed = weights(place, Path(done.stdout.splitlines()[-1]).parent.name)
    shutil.copy(place / "clicks.parquet", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_CLOCK", str(tmp_path / "clock"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    chaos, queue = Chaos(url, tmp_path, small_disk), open_queue(url, LEASE)
    people = People(chaos, queue)
    try:
        _rage(chaos, people, 30 * MINUTES)
        print(f"{kind}: struck {chaos.done}; {dict(people.answers)}")
        _settle(chaos, people)
        runs = queue.find(limit=10_000)
        print(f"{len(runs)} runs, {len(people.trainings)} of them trainings, {sum(r.attempt for r in runs)} attempts")
        _check(runs, people, tmp_path)
        _check_events(queue, people)
        for id in people.trainings:
            ours = weights(tmp_path, id)
            assert ours.keys() == undisturbed.keys() and all(np.array_equal(ours[k], undisturbed[k]) for k in ours)
    finally:
        chaos.end()
        queue.close()


def _check(runs: list[QueuedRun], people: People, folder: Path) -> None:
    assert not (folder / "runs" / "overlaps").exists(), "two processes ran one run"
    assert {*people.runs, *people.trainings} <= {run.id for run in runs}, "what was accepted is there"
    assert len(runs) > 5 and sum(r.attempt for r in runs) > len(runs)
    for run in runs:
        assert run.state == "finished" or (run.state == "cancelled" and run.id in people.asked), (run.id, run.state)
        if run.id in people.trainings:
            continue
        result, owner = (folder / "runs" / run.id / name for name in ("result", "owner.json"))
        assert (run.state == "finished") <= result.exists(), run.id
        assert not result.exists() or result.read_text() == chain()
        assert len(pids(folder, run.id)) <= run.attempt, "no more processes than claims"
        assert owner.exists() or run.state == "cancelled"
        assert not owner.exists() or json.loads(owner.read_text())["attempt"] <= run.attempt


def _check_events(queue: SqlQueue, people: People) -> None:
    """A reader who asks the service for what comes after the last event that it saw has seen each, once, in order."""
    seen, after = [event["id"] for event in people.events], 0
    assert seen == sorted(set(seen))
    stored = list[int]()
    while events := queue.events(after):
        stored += [event.id for event in events]
        after = stored[-1]
    assert set(stored) <= set(seen), "of progress only the newest is stored"
    finished = [event["run"] for event in people.events if event["payload"].get("state") == "finished"]
    assert len(finished) == len(set(finished)), "each finished once"

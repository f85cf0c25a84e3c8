"""Many processes at once: nothing is lost, and nothing is run twice."""

import faulthandler
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from recsys.service.queue.open import open_queue
from recsys.service.queue.records import Needs
from recsys.service.queue.sql import SqlQueue
from tests.service.queue.conftest import new_run

CROWD = 8
COUNT = 10_000
ROOM = Needs(1, 8 << 30)


@pytest.fixture(scope="module")
def processes() -> Generator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(CROWD, multiprocessing.get_context("spawn")) as pool:
        yield pool


def everyone(pool: ProcessPoolExecutor, work: Callable[..., Any], url: str, *settings: Any) -> tuple[list[Any], float]:
    started = time.monotonic()
    futures = [pool.submit(work, url, number, *settings) for number in range(CROWD)]
    return [future.result() for future in futures], time.monotonic() - started


def submit_many(url: str, number: int, count: int, runs: str) -> list[str]:
    """Submit one by one; all choose the same names, and some submit again, as after a lost answer."""
    queue, ids = open_queue(url), list[str]()
    for i in range(count):
        new = new_run(f"20260101-0000{i % 60:02}-demo-0", runs, client_key=f"{number}/{i}")
        (run,) = queue.submit([new])
        if i % 10 == 0:
            assert queue.submit([new])[0].id == run.id
        ids.append(run.id)
    queue.close()
    return ids


def claim_many(url: str, number: int) -> list[tuple[str, int]]:
    """Claim and end until nothing is left → id and attempt of each."""
    queue, claimed = open_queue(url), list[tuple[str, int]]()
    while claim := queue.claim(f"w{number}", f"h{number % 4}", Needs(8, 64 << 30)):
        claimed.append((claim.run.id, claim.run.attempt))
        queue.end(claim, "finished", 0, None)
    queue.close()
    return claimed


def claim_one(url: str, number: int, host: str) -> bool:
    queue = open_queue(url)
    claim = queue.claim(f"w{number}", host, ROOM)
    queue.close()
    return claim is not None


@pytest.fixture
def patience() -> None:
    """More time than a test has: ten thousand fsyncs, one after the other, take minutes on a slow or busy disk."""
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.slow
def test_ten_thousand_submissions_of_eight_clients(
    queue: SqlQueue, url: str, processes: ProcessPoolExecutor, tmp_path: Any, patience: None, capsys: Any
) -> None:
    submitted, seconds = everyone(processes, submit_many, url, COUNT // CROWD, str(tmp_path / "runs"))
    ids = [id for each in submitted for id in each]
    assert len(ids) == len(set(ids)) == COUNT
    assert queue.counts() == {"queued": COUNT}
    with capsys.disabled():
        print(f"\n{queue.engine.dialect.name}: {COUNT} submitted in {seconds:.1f} s")


@pytest.mark.slow
def test_eight_workers_claim_ten_thousand_runs_each_once(
    queue: SqlQueue, url: str, processes: ProcessPoolExecutor, tmp_path: Any, patience: None, capsys: Any
) -> None:
    ids = [run.id for run in queue.submit([new_run(f"r{i}", str(tmp_path)) for i in range(COUNT)])]
    claimed, seconds = everyone(processes, claim_many, url)
    assert Counter(pair for each in claimed for pair in each) == {(id, 1): 1 for id in ids}
    assert queue.counts() == {"finished": COUNT}
    assert len(queue.events(limit=10 * COUNT)) == 4 * COUNT  # queued, claim, running, finished
    with capsys.disabled():
        print(f"\n{queue.engine.dialect.name}: {COUNT} claimed and ended in {seconds:.1f} s")


@pytest.mark.slow
def test_slots_hold_though_all_workers_of_a_machine_claim_at_once(
    queue: SqlQueue, url: str, processes: ProcessPoolExecutor, tmp_path: Any
) -> None:
    for round in range(5):
        queue.submit([new_run(f"r{round}-{i}", str(tmp_path), needs=Needs(1, 0)) for i in range(CROWD)])
        claimed, _ = everyone(processes, claim_one, url, f"h{round}")
        assert sum(claimed) == 1  # of one core


@pytest.mark.slow
def test_events_are_seen_in_order_while_others_write(
    queue: SqlQueue, url: str, processes: ProcessPoolExecutor, tmp_path: Any
) -> None:
    """A reader that goes on after the last id that it saw misses nothing."""
    futures = [processes.submit(submit_many, url, n, 60, str(tmp_path / "runs")) for n in range(CROWD)]
    seen: list[int] = []
    while not all(future.done() for future in futures):
        seen += [event.id for event in queue.events(after=seen[-1] if seen else 0)]
    seen += [event.id for event in queue.events(after=seen[-1] if seen else 0)]
    assert seen == [event.id for event in queue.events(limit=100_000)] and len(seen) == CROWD * 60


def test_quick_crowd(queue: SqlQueue, url: str, tmp_path: Any) -> None:
    """The same with two threads and few runs, for `make test`."""
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(submit_many, url, n, 12, str(tmp_path / "runs")) for n in range(2)]
        ids = [id for future in work for id in future.result()]
        claimed = [pair for future in [pool.submit(claim_many, url, n) for n in range(2)] for pair in future.result()]
    assert len(set(ids)) == 24 and sorted(claimed) == sorted((id, 1) for id in ids)

"""A worker and its runs: each ends once in its right state, whatever is killed."""

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.service.queue.records import Claim, Needs
from recsys.service.queue.sql import SqlQueue
from recsys.service.worker.attempt import prepare
from recsys.service.worker.worker import Settings, Worker
from tests.service.worker.fakes import DEAF, LOG, alive, command, ended, new, opened, pids, state_of, wait, worker

ROOM = Needs(2, 1 << 40, 0)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqlQueue]:
    _, queue = opened(tmp_path)
    yield queue
    queue.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'service.db'}"


@pytest.fixture
def here(queue: SqlQueue, tmp_path: Path) -> Iterator[Worker]:
    """A worker in a thread of this process."""
    settings = Settings(command(tmp_path), grace=1.6, look=0.1, claim=0.1, overdue=0.3, pause=0.3)
    works = Worker(queue, ROOM, settings, "here")
    thread = threading.Thread(target=works.run)
    thread.start()
    yield works
    works.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_run_ends_once_with_its_exit_code_and_reason(
    queue: SqlQueue, here: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("RECSYS_TOKEN", "RECSYS_TOKEN_SUBMIT", "RECSYS_TOKEN_VIEW", "RECSYS_DATABASE", "RECSYS_URL")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    does = {
        "well": f"{LOG}; work(3); (folder / 'environment').write_text(json.dumps(dict(os.environ))); state('finished')",
        "error": "state('failed', error='fields: expected some, got none'); sys.exit(2)",
        "bug": "state('running'); print('error: it is broken'); sys.exit(1)",
        "early": "raise ValueError('no such thing')",
        "by-hand": "state('cancelled', note='stopped by SIGINT'); sys.exit(130)",
    }
    submitted = time.monotonic()
    queue.submit([new(tmp_path, id, what) for id, what in does.items()])
    first = wait(lambda: queue.get("well").started_at and time.monotonic())
    assert first - submitted < 2
    rows = {id: ended(queue, id) for id in does}
    assert {id: (r.state, r.exit) for id, r in rows.items()} == {
        "well": ("finished", 0),
        "error": ("failed", 2),
        "bug": ("failed", 1),
        "early": ("failed", 1),
        "by-hand": ("cancelled", 130),
    }
    reasons = [rows[id].reason for id in ("well", "error", "bug", "early", "by-hand")]
    assert reasons == [
        None,
        "fields: expected some, got none",
        "it is broken",
        "ValueError: no such thing",
        "stopped by SIGINT",
    ]
    assert rows["well"].live.metrics == {"train": {"step": 2.0, "auc": 0.5}} and rows["well"].attempt == 1
    assert "it is broken" in (tmp_path / "runs" / "bug" / "log.txt").read_text()
    assert json.loads((tmp_path / "runs" / "well" / "frozen.json").read_text())["id"] == "well"
    assert (tmp_path / "runs" / "ran").read_text() == "well\n"
    environment = json.loads((tmp_path / "runs" / "well" / "environment").read_text())
    assert "RECSYS_RUN_TOKEN" in environment and not environment.keys() & set(secrets)


def test_what_a_run_started_ends_with_it(queue: SqlQueue, here: Worker, tmp_path: Path) -> None:
    leaves = "p = subprocess.Popen(['sleep', '600'], start_new_session=True); (folder / 'left').write_text(str(p.pid))"
    queue.submit([new(tmp_path, "a", f"{leaves}; state('finished')")])
    assert ended(queue, "a").state == "finished"
    assert not alive(int((tmp_path / "runs" / "a" / "left").read_text()))


def test_a_run_that_is_cancelled_leaves_its_checkpoint_and_no_process(
    queue: SqlQueue, here: Worker, tmp_path: Path
) -> None:
    leaves = "p = subprocess.Popen(['sleep', '600']); (folder / 'left').write_text(str(p.pid))"
    queue.submit([new(tmp_path, "polite", f"{leaves}; work(9999, slow=0.9)"), new(tmp_path, "deaf", DEAF)])
    wait(lambda: queue.get("polite").live.progress and (tmp_path / "runs" / "deaf" / "run.json").exists())
    for id in ("polite", "deaf"):
        queue.cancel(id)
    polite, deaf = (ended(queue, id) for id in ("polite", "deaf"))
    assert (polite.state, polite.exit, deaf.state, deaf.exit) == ("cancelled", 2, "cancelled", -9)
    assert int((tmp_path / "runs" / "polite" / "checkpoint").read_text()) > 0
    left = [*pids(tmp_path, "polite"), *pids(tmp_path, "deaf"), int((tmp_path / "runs/polite/left").read_text())]
    assert len(left) == 3 and not any(alive(p) for p in left)
    queue.resume("polite")
    wait(lambda: len(pids(tmp_path, "polite")) == 2)
    queue.cancel("polite")
    assert ended(queue, "polite").attempt == 2


def test_a_run_whose_process_is_killed_goes_on_and_fails_in_the_end(
    queue: SqlQueue, here: Worker, tmp_path: Path
) -> None:
    kill = "os.kill(os.getpid(), 9)"
    queue.submit([
        new(tmp_path, "once", f"len((folder / 'pids').open().readlines()) > 1 or {kill}; state('finished')"),
        new(tmp_path, "ever", kill),
        new(tmp_path, "lost", "len((folder / 'pids').open().readlines()) > 1 or sys.exit(75); state('finished')"),
    ])  # fmt: skip
    once, ever, lost = (ended(queue, id) for id in ("once", "ever", "lost"))
    assert (once.state, once.attempt, lost.state, lost.attempt) == ("finished", 2, "finished", 2)
    assert (ever.state, ever.attempt, ever.exit) == ("failed", 5, -9)
    assert ever.reason and "died 5 times: last its process ended with -9" in ever.reason


@pytest.mark.slow
def test_slots_are_shared_by_the_workers_of_a_machine(url: str, queue: SqlQueue, here: Worker, tmp_path: Path) -> None:
    does = "lock = folder.parent / folder.name[0]; (lock.parent / 'most').open('a').write(f'{len(list(lock.parent.glob("
    does += "\"*.on\")))} '); on = lock.parent / f'{folder.name}.on'; on.touch(); time.sleep(0.4); on.unlink(); state("
    does += "'finished')"
    with worker(url, tmp_path, cores=2):
        queue.submit([new(tmp_path, f"r{i}", does) for i in range(5)])
        queue.submit([new(tmp_path, "wide", does, Needs(2, 0, 0))])
        assert all(ended(queue, f"r{i}").state == "finished" for i in range(5))
        assert ended(queue, "wide").state == "finished"
    assert max(map(int, (tmp_path / "runs" / "most").read_text().split())) <= 1, "one beside it at most"
    assert len({queue.get(f"r{i}").owner for i in range(5)} | {queue.get("wide").owner}) >= 1


def test_a_worker_that_is_killed_takes_its_run_along_and_another_goes_on_with_it(
    url: str, queue: SqlQueue, tmp_path: Path
) -> None:
    more = f"{LOG}; (folder / 'checkpoint').exists() or work(9999); state('finished')"
    queue.submit([new(tmp_path, "a", more)])
    with worker(url, tmp_path) as first:
        wait(lambda: queue.get("a").live.progress)
        (mine,) = pids(tmp_path, "a")
        os.kill(first.pid, signal.SIGKILL)
        killed = time.monotonic()
        wait(lambda: not alive(mine), 10)
        assert time.monotonic() - killed < 5
    assert state_of(queue, "a") == "running"
    with worker(url, tmp_path):
        row = ended(queue, "a")
    assert (row.state, row.attempt, row.exit) == ("finished", 2, 0)
    assert (tmp_path / "runs" / "ran").read_text() == "a\na\n"
    assert [e.payload["worker"] for e in queue.events() if e.kind == "lost"], "the lease was lost once"


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_gives_its_runs_back(url: str, queue: SqlQueue, tmp_path: Path) -> None:
    queue.submit([new(tmp_path, "a", "(folder / 'checkpoint').exists() or work(9999); state('finished')")])
    with worker(url, tmp_path) as first:
        wait(lambda: queue.get("a").live.progress)
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
    row = queue.get("a")
    assert row.state == "queued" and row.reason and "was stopped: goes on from its checkpoint" in row.reason
    assert not queue.load().workers and (tmp_path / "runs" / "a" / "checkpoint").exists()
    with worker(url, tmp_path):
        assert ended(queue, "a").state == "finished"


def test_a_run_that_was_taken_away_is_ended_and_its_end_does_not_count(
    queue: SqlQueue, here: Worker, tmp_path: Path
) -> None:
    queue.submit([new(tmp_path, "a", "work(9999); state('finished')"), new(tmp_path, "wide", needs=Needs(2, 0, 0))])
    wait(lambda: queue.get("a").live.progress)
    (mine,) = pids(tmp_path, "a")
    # as if another worker had seen it dead, wrongly; again if a heartbeat came in between
    wait(lambda: queue.take_back(queue.get("a"), True, 1).state == "failed")
    wait(lambda: not alive(mine), 10)
    assert ended(queue, "wide").state == "finished", "its slot is free"
    row = queue.get("a")
    assert (row.state, row.attempt) == ("failed", 1) and "died 1 times" in (row.reason or "")


def test_what_cannot_start_fails_with_the_reason(queue: SqlQueue, here: Worker, tmp_path: Path) -> None:
    queue.submit([new(tmp_path / "gone", "gone"), new(tmp_path, "well")])
    assert "is not here: submit it again" in (ended(queue, "gone").reason or "")
    assert ended(queue, "well").state == "finished"


def test_a_worker_waits_while_the_disk_is_full(
    queue: SqlQueue, here: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives the run back, and takes it again later."""
    full = [OSError(errno.ENOSPC, "No space left on device", "frozen.json")]

    def prepare_if_there_is_room(claim: Claim) -> Path:
        if full:
            raise full.pop()
        return prepare(claim)

    monkeypatch.setattr("recsys.service.worker.worker.prepare", prepare_if_there_is_room)
    queue.submit([new(tmp_path, "a")])
    row = ended(queue, "a")
    assert (row.state, row.attempt) == ("finished", 2)
    assert any("No space left on device" in str(e.payload.get("reason")) for e in queue.events(run="a"))


@pytest.mark.slow
def test_workers_go_on_while_the_database_is_locked(queue: SqlQueue, here: Worker, tmp_path: Path) -> None:
    """A heartbeat that cannot be written ends no run: the lease counts by the clock of the database."""
    queue.submit([new(tmp_path, "a", "work(60); state('finished')")])
    wait(lambda: queue.get("a").live.progress)
    with queue.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        connection.rollback()
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.execute("BEGIN IMMEDIATE")
        time.sleep(2.5)  # longer than the lease
        raw.execute("ROLLBACK")
    row = ended(queue, "a")
    assert (row.state, row.attempt) == ("finished", 1)

"""What the queue's database refuses, and what happens if it is busy, full or away."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.service.queue import open as opening
from recsys.service.queue.errors import LeaseLost, QueueDown
from recsys.service.queue.open import address, open_queue
from recsys.service.queue.records import Needs, NewRun
from recsys.service.queue.sql import SqlQueue
from tests.service.queue.conftest import Server

ROOM = Needs(4, 8 << 30)
New = Callable[..., NewRun]


def test_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECSYS_DATABASE", raising=False)
    assert address(tmp_path) == f"sqlite:///{tmp_path}/service.db"
    monkeypatch.setenv("RECSYS_DATABASE", "postgresql://h/d")
    assert address(tmp_path) == "postgresql://h/d"


def test_a_second_one_finds_the_same_runs(url: str, queue: SqlQueue, new: New) -> None:
    queue.submit([new("a")])
    other = open_queue(url)
    assert [run.id for run in other.find()] == ["a"]
    other.close()


def test_many_may_open_a_new_database_at_once(url: str) -> None:
    opened: list[SqlQueue] = []
    threads = [threading.Thread(target=lambda: opened.append(open_queue(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for queue in opened:
        assert queue.counts() == {}
        queue.close()


def test_an_index_of_some_runs_holds_no_others(url: str, queue: SqlQueue) -> None:
    sqlite = url.startswith("sqlite")
    made = "SELECT sql FROM sqlite_master WHERE type = 'index'" if sqlite else "SELECT indexdef FROM pg_indexes"
    with queue.reading() as connection:
        indexes = [text for (text,) in connection.exec_driver_sql(made) if text and " WHERE " in text]
    for name in ("runs_ready", "runs_active", "run_events_lost"):
        assert sum(f"INDEX {name} ON" in text for text in indexes) == 1, indexes


def test_another_version_is_refused_and_left_alone(url: str, queue: SqlQueue) -> None:
    with queue.changing() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '99'")
    with pytest.raises(
        ConfigError, match=r"expected a queue of version 1, got version 99: use the recsys that made it"
    ):
        open_queue(url)


def test_an_older_version_is_brought_up_to_date_with_its_rows(
    url: str, queue: SqlQueue, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit([new("a")])
    steps = {1: "ALTER TABLE runs ADD COLUMN extra TEXT", 2: "UPDATE runs SET extra = id"}
    monkeypatch.setattr(
        opening, "MIGRATIONS", {n: lambda c, sql=sql: c.exec_driver_sql(sql) for n, sql in steps.items()}
    )
    monkeypatch.setattr(opening, "VERSION", 4)
    with pytest.raises(ConfigError, match="got version 3"):
        open_queue(url)
    with queue.reading() as connection:  # a step is missing: nothing has been changed
        assert connection.exec_driver_sql("SELECT value FROM meta").scalar_one() == "1"
    monkeypatch.setattr(opening, "VERSION", 3)
    for _ in range(2):
        other = open_queue(url)
        with other.reading() as connection:
            assert connection.exec_driver_sql("SELECT extra FROM runs").scalar_one() == "a"
            assert connection.exec_driver_sql("SELECT value FROM meta").scalar_one() == "3"
        other.close()


def test_the_database_of_another_program_is_refused(url: str, queue: SqlQueue) -> None:
    with queue.changing() as connection:
        connection.exec_driver_sql("ALTER TABLE meta RENAME TO alembic_version")
    with pytest.raises(ConfigError, match=r"tables of another program .*runs.*: give the queue a database of its own"):
        open_queue(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:secret@h/d", r"got mysql://…"),
        ("nonsense", "got something else"),
        ("sqlite://", "of a file, got none"),
        ("sqlite:///:memory:", "of a file, got none"),
    ],
)
def test_an_address_of_another_kind_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_queue(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("text " * 1000)
    with pytest.raises(ConfigError, match="got another file: remove it, or name another place"):
        open_queue(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises((ConfigError, QueueDown), match="folder"):
        open_queue(f"sqlite:///{tmp_path / 'x.db' / 'y.db'}")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre"])
def test_sqlite_on_a_network_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    network, local = tmp_path / "a disk" / "far", tmp_path / "a disk" / "far" / "near"
    lines = ["1 0 0:1 / / rw - ext4 /dev/a rw"]
    for place, name in ((network, kind), (local, "xfs")):
        place.mkdir(parents=True)
        escaped = str(place).replace(" ", "\\040")
        lines.append(f"2 1 0:2 / {escaped} rw,relatime shared:1 - {name} server:/x rw")
    mounts = tmp_path / "mountinfo"
    mounts.write_text("\n".join(lines))
    monkeypatch.setattr(opening, "_MOUNTS", mounts)
    (tmp_path / "link").symlink_to(network)
    for folder in (network, network / "runs", tmp_path / "link" / "runs"):
        with pytest.raises(ConfigError, match=rf"got {kind}, a network file system.*RECSYS_DATABASE"):
            open_queue(f"sqlite:///{folder}/service.db")
    open_queue(f"sqlite:///{local}/service.db").close()
    open_queue(f"sqlite:///{tmp_path}/service.db").close()


def test_a_database_that_another_program_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new: New) -> None:
    monkeypatch.setattr(opening, "_BUSY", 0.1)
    queue = open_queue(f"sqlite:///{tmp_path / 'service.db'}")
    holder = sqlite3.connect(tmp_path / "service.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(QueueDown, match="database is locked: another program holds it for more than 30 seconds"):
        queue.submit([new("a")])
    assert queue.find() == []  # reading goes on
    holder.close()
    assert queue.submit([new("a")])[0].id == "a"
    queue.close()


def test_a_full_disk_loses_nothing(tmp_path: Path, new: New) -> None:
    queue = open_queue(f"sqlite:///{tmp_path / 'service.db'}")
    queue.submit([new("a")])
    claim = queue.claim("w", "h", ROOM)
    assert claim is not None
    with queue.engine.connect() as connection:  # the pool has one connection: SQLite believes that its disk ends here
        connection.exec_driver_sql("PRAGMA max_page_count = 10")
    with pytest.raises(QueueDown, match="is full: make room on its disk"):
        queue.submit([new(f"b{i}", config={"x": "y" * 50_000}) for i in range(20)])
    assert [run.id for run in queue.find()] == ["a"] and queue.beat(claim) is False
    with queue.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert len(queue.submit([new(f"b{i}") for i in range(20)])) == 20
    assert queue.end(claim, "finished", 0, None).state == "finished"
    queue.close()


def test_a_server_that_does_not_answer(tmp_path: Path, server: Server) -> None:
    with pytest.raises(QueueDown, match="to answer, got: .*: look whether it runs") as caught:
        open_queue(f"postgresql://me:secret@/db?host={tmp_path}")
    assert "secret" not in str(caught.value) and caught.value.code == 75
    with pytest.raises(QueueDown, match='database "none" does not exist: create that database first'):
        open_queue(server.url.replace("/postgres?", "/none?"))


def test_postgres_is_killed_and_comes_back(server: Server, new: New) -> None:
    server.clear()
    queue = open_queue(server.url)
    queue.submit([new("a"), new("b")])
    claim = queue.claim("w", "h", ROOM)
    assert claim is not None
    with pytest.raises(QueueDown, match="look whether it runs, then do this again"), queue.changing() as connection:
        connection.exec_driver_sql("UPDATE runs SET state = 'failed'")  # half-way: the server forgets it
        server.kill()
        connection.exec_driver_sql("SELECT 1")
    for call in (lambda: queue.beat(claim), lambda: queue.submit([new("c")]), queue.find):
        with pytest.raises(QueueDown):
            call()
    server.start()
    assert queue.beat(claim) is False
    assert {run.id: run.state for run in queue.find()} == {"a": "running", "b": "queued"}
    assert queue.end(claim, "finished", 0, None).state == "finished"
    with pytest.raises(LeaseLost):
        queue.beat(claim)
    queue.close()

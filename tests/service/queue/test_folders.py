"""Runs of `recsys run` in the table, read from run.json as the pipeline writes it."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.frozen import Frozen, write_frozen
from recsys import results
from recsys.errors import ConfigError
from recsys.lock import locked
from recsys.results import Amount, Process, Run, write_run
from recsys.service.queue import folders
from recsys.service.queue.folders import read_folders
from recsys.service.queue.records import Needs, NewRun, QueuedRun
from recsys.service.queue.sql import SqlQueue

START = "2026-01-01T00:00:00+00:00"
END = "2026-01-01T01:00:00+00:00"
RUN = Run("0" * 32, {"name": "käufer"}, "d" * 16, ["experiment=demo", "seed=1"], Process(os.getpid(), 1.0), START, END)
ROOM = Needs(8, 64 << 30)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def write(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder, replace(RUN, **changes))  # type: ignore[arg-type]
    return folder


def listed(queue: SqlQueue) -> dict[str, QueuedRun]:
    return {run.id: run for run in queue.find(limit=1000)}


def test_the_format_is_that_of_the_pipeline() -> None:
    assert folders.LOCK == results.LOCK


def test_a_run_is_followed_from_its_start_to_its_end(queue: SqlQueue, home: Path) -> None:
    folder = write(home / "a")
    with locked(folder / ".lock", wait=False):
        assert read_folders(queue, home) == 1
        run = queue.get("a")
        assert (run.state, run.new.kind, run.new.name, run.new.experiment) == ("running", "direct", "käufer", "demo")
        assert (run.pid, run.new.config, run.new.overrides) == (os.getpid(), RUN.config, RUN.overrides)
        assert run.started_at == run.submitted_at == 1767225600.0
        assert read_folders(queue, home) == 0
        write(folder, stage="train", progress=Amount(3, 9, "steps"), metrics={"train": {"step": 3.0, "auc": 0.7}})
        assert read_folders(queue, home) == 1
        assert queue.get("a").live.metrics == {"train": {"step": 3.0, "auc": 0.7}}
        with pytest.raises(ConfigError, match="begun by `recsys run` and is running: recsys cancel a stops it"):
            queue.resume("a")
        assert queue.cancel("a").cancel_asked_at is not None and (folder / "cancel").exists()
    assert read_folders(queue, home) == 1  # no process holds its lock
    assert (queue.get("a").state, queue.get("a").reason) == ("killed", "its process was killed: recsys run resume=a")
    (waiting,) = queue.submit([NewRun("b", [], {}, "", str(home), "/", "b", after=["a"])])
    assert waiting.reason == "waits for a, which is killed: recsys run resume=a"
    with locked(folder / ".lock", wait=False):
        write(folder)
        read_folders(queue, home)
        assert queue.get("a").state == "running" and queue.get("a").cancel_asked_at is None
    write(folder, state="finished")
    read_folders(queue, home)
    assert queue.get("a").state == "finished" and queue.get("a").ended_at is not None
    assert queue.claim("w", "h", ROOM).run.id == "b"  # type: ignore[union-attr]
    kinds = [event.kind for event in queue.events(run="a")]
    assert kinds == ["state", "stage", "metrics", "progress", "cancel", "state", "stage", "state", "state"]


def test_a_run_waits_until_all_before_it_have_finished_however_often(
    queue: SqlQueue, home: Path, new: Callable[..., NewRun]
) -> None:
    """Runs of `recsys run` may finish, go on, and finish again."""

    def goes_on() -> None:
        with locked(home / "d" / ".lock", wait=False):
            write(home / "d", updated=next(times))
            read_folders(queue, home)
        assert queue.get("d").state == "running"

    def finishes() -> None:
        write(home / "d", state="finished", updated=next(times))
        read_folders(queue, home)

    times = (f"2026-01-0{day}T00:00:00+00:00" for day in range(2, 9))
    finishes()
    queue.submit([new("b", priority=9), new("c", after=["d", "b"])])
    first = queue.claim("w", "h", ROOM)
    assert first is not None and first.run.id == "b"
    goes_on()
    assert queue.get("c").reason == "waits for d; b"
    finishes()
    assert queue.get("c").reason == "waits for b" and queue.claim("w", "h", ROOM) is None
    queue.end(first, "finished", 0, None)
    second = queue.claim("w", "h", ROOM)
    assert second is not None and second.run.id == "c"
    goes_on()
    queue.end(second, "failed", 1, "x")
    finishes()
    queue.resume("c")
    third = queue.claim("w", "h", ROOM)
    assert third is not None and third.run.id == "c"


def test_a_run_that_waits_for_a_folder_that_was_removed_says_so(
    queue: SqlQueue, home: Path, new: Callable[..., NewRun]
) -> None:
    write(home / "d", state="failed", error="x")
    read_folders(queue, home)
    queue.submit([new("c", after=["d"])])
    shutil.rmtree(home / "d")
    assert read_folders(queue, home) == 1 and read_folders(queue, home) == 0
    assert queue.get("c").reason == (
        "waits for d, whose folder was removed: cancel this run, and submit it without --after d"
    )
    assert (queue.get("d").state, queue.get("d").reason) == ("failed", "its folder was removed")
    assert queue.claim("w", "h", ROOM) is None
    write(home / "d", state="finished")  # it comes back
    read_folders(queue, home)
    assert queue.get("c").reason is None
    shutil.rmtree(home / "d")
    assert read_folders(queue, home) == 1 and sorted(listed(queue)) == ["c"]
    claim = queue.claim("w", "h", ROOM)
    assert claim is not None and claim.run.id == "c"


def test_ended_runs_say_why_and_folders_that_go_are_forgotten(queue: SqlQueue, home: Path) -> None:
    write(home / "f", state="failed", error="no\x1b[31m disk")
    write(home / "c", state="cancelled", note="stopped by SIGINT")
    (home / "damaged").mkdir()
    (home / "damaged" / "run.json").write_text("{")
    write(home / "old")
    (home / "old" / "run.json").write_text(json.dumps({"version": 1}))
    (home / "empty").mkdir()
    (home / "file").write_text("")
    write(home / ".hidden", state="finished")
    assert read_folders(queue, home) == 4
    reasons = {id: (run.state, run.reason) for id, run in listed(queue).items()}
    assert reasons["f"] == ("failed", "no\\x1b[31m disk") and reasons["c"] == ("cancelled", "stopped by SIGINT")
    assert reasons["damaged"][0] == "unknown" and "is damaged" in reasons["damaged"][1]
    assert "expected the settings of a run of version 2, got 1" in reasons["old"][1]
    shutil.rmtree(home / "f")
    assert read_folders(queue, home) == 1 and sorted(listed(queue)) == ["c", "damaged", "old"]
    assert read_folders(queue, home / "none") == 0


def test_runs_of_sweeps_are_found_inside(queue: SqlQueue, home: Path) -> None:
    write(home / "20260101-demo-sweep", state="finished")  # of recsys sweep
    write(home / "20260101-demo-sweep" / "0", state="finished")
    write(home / "multirun" / "1", state="finished")  # of recsys run -m, which writes no run.json of its own
    assert read_folders(queue, home) == 3
    assert [run.id for run in queue.find(parent="20260101-demo-sweep")] == ["20260101-demo-sweep/0"]
    assert queue.get("multirun/1").new.parent == "multirun"


def test_runs_of_the_queue_and_of_other_folders_are_left_alone(queue: SqlQueue, home: Path, tmp_path: Path) -> None:
    queue.submit([NewRun("a", [], {"x": 1}, "", str(home), "/", "a"), NewRun("o", [], {}, "", "/elsewhere", "/", "o")])
    claim = queue.claim("w", "h", ROOM)
    assert claim is not None
    write(home / "a", state="finished")
    write(home / "o", state="failed")
    assert read_folders(queue, home) == 0 and queue.get("a").state == "running"
    queue.end(claim, "failed", 1, "x")
    assert read_folders(queue, home) == 0 and queue.get("a").state == "failed"
    os.utime(home / "a" / "run.json", (time.time() + 60, time.time() + 60))  # recsys run resume=a, a minute later
    assert read_folders(queue, home) == 1 and queue.get("a").state == "finished"
    assert read_folders(queue, home) == 0


def test_the_table_is_rebuilt_from_the_folders(queue: SqlQueue, home: Path) -> None:
    """What the queue began, in a database that is gone, can be resumed and retried as before."""

    def freeze(id: str, sweep: str | None = None) -> Frozen:
        return Frozen(id, ["a=1"], {"whole": True}, "f" * 16, str(home), "/", "frozen", 0, "demo", sweep, 2, 1)

    for id, sweep, state in (("f", None, "failed"), ("s/0", "s", "finished"), ("s/1", "s", "running")):
        write(write_frozen(freeze(id, sweep)), state=state)
    write(home / "direct", state="finished")
    alive = write(write_frozen(freeze("alive")))
    with locked(alive / ".lock", wait=False):
        read_folders(queue, home)
    states = {id: (run.state, run.new.kind) for id, run in listed(queue).items()}
    assert states == {
        "f": ("failed", "run"),
        "s": ("failed", "sweep"),
        "s/0": ("finished", "run"),
        "s/1": ("failed", "run"),
        "direct": ("finished", "direct"),
        "alive": ("running", "direct"),  # nobody knows its worker
    }
    write(alive, state="finished")
    read_folders(queue, home)
    ours = queue.get("alive").new
    assert (ours.kind, ours.cwd, ours.needs.cores, ours.name) == ("run", "/", 2, "frozen")
    assert queue.retry("alive").new.config == {"whole": True}
    run = queue.get("f")
    assert (run.new.needs.cores, run.new.needs.gpus, run.new.cwd, run.attempt) == (2, 1, "/", 1)
    assert queue.resume("f").state == "queued" and queue.resume("s").state == "running"
    assert read_folders(queue, home) == 0


@pytest.mark.slow
def test_ten_thousand_folders_cost_a_look_each(queue: SqlQueue, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (write(home / "x", state="finished") / "run.json").read_text()
    for i in range(10_000):
        (home / f"r{i}").mkdir()
        (home / f"r{i}" / "run.json").write_text(text)
    began: Callable[[], float] = time.process_time
    first = began()
    assert read_folders(queue, home) == 10_001
    second = began()
    assert read_folders(queue, home) == 0
    third = began()
    with capsys.disabled():
        print(f"\n10,001 folders: {second - first:.2f} s of the processor at first, {third - second:.3f} s again")
    assert third - second < 0.5

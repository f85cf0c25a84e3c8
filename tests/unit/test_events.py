"""run.json says how a run stands, and how it ended, whatever ended it."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest

from pipelines.benchmark import _search
from pipelines.retrains import retrain
from pipelines.run import execute
from pipelines.stage import Stage
from recsys.errors import Cancelled, ConfigError, DataError
from recsys.events import CANCEL, Reporters, RunFile, raise_if_cancelled, run_file
from recsys.lock import locked
from recsys.results import LOCK, Amount, Process, Run, read_run, write_run
from tests.configs import run_config

STOP = Mock(cancelled=Mock(return_value=True))
BEGUN = Run("0" * 32, {"seed": 0}, "d" * 16, None, Process.this(), "2026-01-01T00:00:00+00:00", "")


def end(error: BaseException | None = None) -> None:
    if error:
        raise error


@pytest.mark.parametrize(
    ("error", "state", "line", "note"),
    [
        (None, "finished", None, None),
        (ConfigError("expected a,\n  got b"), "failed", "expected a, got b", None),
        (ZeroDivisionError("x"), "failed", "x", None),
        (Cancelled("asked"), "cancelled", None, "stopped by the program that runs it"),
        (SystemExit(143), "cancelled", None, "stopped by SIGTERM"),
        (SystemExit(1), "cancelled", None, "stopped by exit 1"),
        (KeyboardInterrupt(), "cancelled", None, "stopped by SIGINT"),
    ],
)
def test_run_json_tells_how_the_run_ended(tmp_path, error, state, line, note):
    raises = pytest.raises(type(error)) if error else nullcontext()
    with raises, locked(tmp_path / LOCK), run_file(tmp_path, BEGUN) as file:
        assert read_run(tmp_path).state == "running"
        file.stage("train")
        assert read_run(tmp_path).stage == "train"
        end(error)
    ended = read_run(tmp_path)
    stage = None if state == "finished" else "train"
    assert (ended.state, ended.error, ended.stage, ended.note) == (state, line, stage, note)
    assert ended.config == {"seed": 0} and ended.mark == "0" * 32 and ended.updated > ended.started


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    """Its lock tells, whatever number the process has here, and whatever the clock says."""
    code = "import sys; from pathlib import Path; from recsys.lock import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout and other.stdout.readline() == b"held\n"
    write_run(tmp_path, replace(BEGUN, process=Process(-5, 0.0)))
    assert read_run(tmp_path).state == "running"
    with pytest.raises(BlockingIOError), locked(tmp_path / LOCK, wait=False):
        pass
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie still
    assert read_run(tmp_path).state == "killed"
    other.communicate()
    write_run(tmp_path, replace(BEGUN, state="failed"))
    assert read_run(tmp_path).state == "failed"


def test_who_reads_a_run_stops_none_that_begins(tmp_path):
    write_run(tmp_path, BEGUN)
    assert read_run(tmp_path).state == "killed" and not (tmp_path / LOCK).exists(), "reading makes no file"
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)  # as `is_held` does
        threading.Timer(0.1, lambda: fcntl.flock(reader, fcntl.LOCK_UN)).start()
        with locked(tmp_path / LOCK, wait=False):
            assert read_run(tmp_path).state == "running"


def test_updates_are_few_and_the_newest_is_written(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("recsys.events.time.monotonic", lambda: clock[0])
    written: list[Run] = []
    monkeypatch.setattr("recsys.events.write_run", lambda _, run: written.append(run))
    with run_file(tmp_path, BEGUN) as file:
        every = Reporters(file)
        file.stage("train")
        for step in range(1, 1001):
            clock[0] += 0.01
            every.progress(step, 1000, "rows")
            if step % 100 == 0:
                every.metrics({"auc": step / 1000}, step)
    running = [r for r in written if r.progress]
    assert 18 <= len(running) <= 20, "ten seconds, two a second"
    assert running[0].progress == Amount(50, 1000, "rows") and running[-1].progress.done > 940
    assert written[-1].metrics == {"train": {"step": 1000.0, "auc": 1.0}} and written[-1].state == "finished"


def test_a_full_disk_ends_no_training_and_the_end_is_written_if_it_can_be(tmp_path, monkeypatch, capfd):
    full = OSError(errno.ENOSPC, "No space left on device")
    tries = Mock(side_effect=[tmp_path, full, full, full, full, tmp_path])
    monkeypatch.setattr("recsys.events.write_run", tries)
    with run_file(tmp_path, BEGUN) as file:
        for name in ("train", "evaluate", "export"):
            file.stage(name)
    assert tries.call_count == 6 and tries.call_args.args[1].state == "finished"
    (said,) = capfd.readouterr().err.splitlines()
    assert "run.json cannot be written, the run goes on without it: No space left on device" in said


def test_a_file_cancels_a_run_and_not_the_next_attempt(tmp_path):
    with pytest.raises(Cancelled, match="asked to stop"), run_file(tmp_path, BEGUN) as file:
        raise_if_cancelled(file)
        (tmp_path / CANCEL).touch()
        file._looked = 0  # a quarter of a second later
        raise_if_cancelled(Reporters(Reporters(), file))
    assert (read_run(tmp_path).state, read_run(tmp_path).note) == ("cancelled", "stopped by the file cancel")
    with run_file(tmp_path, BEGUN) as file:
        raise_if_cancelled(file)
    (tmp_path / CANCEL).mkdir()
    with pytest.raises(ConfigError, match="cancel: expected a file or nothing, got a folder: remove it"):
        RunFile(tmp_path, BEGUN)


def test_a_run_that_is_to_stop_begins_no_stage(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.tracking.Tracker", MagicMock())
    with pytest.raises(Cancelled):
        execute(run_config(runs=str(tmp_path), stages=["prepare"]), tmp_path / "one", STOP)
    assert read_run(tmp_path / "one").state == "cancelled" and not (tmp_path / "one" / "prepare").exists()
    stage = Stage(run_config(runs=str(tmp_path)), tmp_path / "benchmark", {}, STOP)
    for work in (lambda: retrain(stage, [], 0), lambda: _search(stage, "leap", {}, 0, tmp_path, 1)):
        with pytest.raises(Cancelled):
            work()


def test_run_json_of_another_shape_is_one_line(tmp_path: Path):
    write_run(tmp_path, BEGUN)
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"pid": ', '"pid": "x", "was": '))
    with pytest.raises(DataError, match=r"run.json is damaged: .* process\.pid is missing or of another type: begin"):
        read_run(tmp_path)

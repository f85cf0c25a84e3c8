"""Which processes belong to a run: by boot, process id, start and token, so that a number used again fools none."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.service.worker.processes import ALIVE, Identity, boot, identity, living, mark, verdict
from tests.service.worker.fakes import ROOT, alive, wait

TOKEN = "f" * 32


@pytest.fixture
def leader() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group, with a child of the same group and one of a session of its own."""
    script = "sleep 600 & setsid sleep 601 & sleep 602"
    env = {**os.environ, "RECSYS_RUN_TOKEN": TOKEN}
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True, env=env)
    wait(lambda: len(living(process.pid, _start(process.pid), mark(TOKEN))) == 4)
    yield process
    process.kill()
    process.wait()
    for pid in living(process.pid, 0, mark(TOKEN)):
        os.kill(pid, signal.SIGKILL)


def _start(pid: int) -> int:
    who = identity(pid)
    assert who is not None
    return who.start


def test_the_whole_group_counts_also_without_its_leader(leader: subprocess.Popen[bytes], tmp_path: Path) -> None:
    who = identity(leader.pid)
    assert who and who.group == who.pid == leader.pid and verdict(who, True, tmp_path, "") == "alive"
    assert len(living(who.group, who.start, "")) == 3, "without the token, the one of another session is not seen"
    leader.kill()
    leader.wait()
    assert verdict(who, True, tmp_path, "") == "alive" and verdict(who, True, tmp_path, mark(TOKEN)) == "alive"
    for pid in living(who.group, who.start, ""):
        os.kill(pid, signal.SIGKILL)
    wait(lambda: not living(who.group, who.start, ""))
    assert verdict(who, True, tmp_path, "") == "dead"
    (other,) = living(who.group, who.start, mark(TOKEN))
    assert verdict(who, True, tmp_path, mark(TOKEN)) == "alive", "the token says so"
    os.kill(other, signal.SIGKILL)
    wait(lambda: verdict(who, True, tmp_path, mark(TOKEN)) == "dead")


def test_a_number_that_is_used_again_is_another_process(leader: subprocess.Popen[bytes], tmp_path: Path) -> None:
    who = identity(leader.pid)
    assert who
    before = replace(who, start=who.start - 100)  # a run that had the same number, and has ended
    assert verdict(before, True, tmp_path, mark("0" * 32)) == "dead"
    assert alive(leader.pid)


def test_what_cannot_be_seen_is_unknown(tmp_path: Path) -> None:
    who = identity(os.getpid())
    assert who
    assert verdict(who, False, tmp_path, "") == "unknown"
    assert verdict(None, False, tmp_path, "") == "dead", "nothing had been started"
    assert verdict(replace(who, boot="another:1"), True, tmp_path, "") == "dead", "the machine was started again"
    container = replace(who, boot=f"{boot().partition(':')[0]}:1")
    assert verdict(container, True, tmp_path, "") == "unknown"
    (tmp_path / ALIVE).touch()
    assert verdict(container, True, tmp_path, "") == "dead"
    with (tmp_path / ALIVE).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for seen in (container, Identity(1, 1, "another:1", 1)):
            assert verdict(seen, True, tmp_path, "") == verdict(seen, False, tmp_path, "") == "alive"


def _child(folder: Path, *command: str) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = os.pipe()
    lock = os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT)
    words = [sys.executable, "-m", "recsys.service.worker.child", str(folder), str(ours), str(lock), "1", *command]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, pass_fds=[ours, lock], start_new_session=True, env=env)
    os.close(ours)
    os.close(lock)
    return process, theirs


def test_nothing_begins_without_a_word_of_the_worker(tmp_path: Path) -> None:
    process, pipe = _child(tmp_path, "touch", str(tmp_path / "begun"))
    os.close(pipe)
    assert process.wait(20) == 0 and not (tmp_path / "begun").exists()


def test_the_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    for script, code in (("exit 7", 7), ("kill -9 $$", -9), ("kill -15 $$", -15)):
        process, pipe = _child(tmp_path, "sh", "-c", script)
        os.write(pipe, b"g")
        assert process.wait(20) == code
        os.close(pipe)


def test_a_child_that_is_killed_takes_the_run_along(tmp_path: Path) -> None:
    process, pipe = _child(tmp_path, "sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    os.write(pipe, b"g")
    pid = int(wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    process.kill()
    process.wait()
    wait(lambda: not alive(pid), 5)
    os.close(pipe)


def test_a_process_lives_until_its_last_thread_has_ended() -> None:
    script = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); "
    exit_of_one_thread = {"x86_64": 60, "aarch64": 93}[os.uname().machine]  # a system call's number
    ends = f"ctypes.CDLL(None).syscall({exit_of_one_thread}, 0)"
    process = subprocess.Popen([sys.executable, "-c", script + ends], start_new_session=True)
    try:
        stat = Path(f"/proc/{process.pid}/stat")
        wait(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        assert living(process.pid, _start(process.pid), "") == [process.pid], "a thread holds its memory and its locks"
    finally:
        os.kill(process.pid, signal.SIGKILL)
    wait(lambda: not living(process.pid, _start(process.pid), ""))
    assert process.wait() == -signal.SIGKILL

"""Which processes belong to a run, and whether any lives: by boot, process id, start and a token, never by a clock.

Imports next to nothing: it is part of the small process that stands above each run.
"""

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.launchers.contract import TOKEN

__all__ = [
    "ALIVE",
    "Identity",
    "Verdict",
    "adopt_orphans",
    "boot",
    "die_with_parent",
    "identity",
    "living",
    "mark",
    "verdict",
]

Verdict = Literal["alive", "dead", "unknown"]
ALIVE = ".alive"  # a file in the run's folder, whose lock the run's first two processes hold from before they start
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_PROC = Path("/proc")


@dataclass(frozen=True)
class Identity:
    """One process for ever, since a process id is used again.

    Args:
        pid: Process id.
        group: Its process group.
        boot: As `boot` says.
        start: When it started, in clock ticks since that boot.
    """

    pid: int
    group: int
    boot: str
    start: int


def boot() -> str:
    """The boot of this machine and the name space of process ids, such as `9cd690f9-…:4026531836`."""
    return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"


def _stat(pid: int) -> tuple[str, int, int, int] | None:
    """State, threads, process group and start of a process; None if there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
    return words[0], int(words[17]), int(words[2]), int(words[19])


def identity(pid: int) -> Identity | None:
    """The identity of a process of this machine; None if there is none."""
    stat = _stat(pid)
    return None if stat is None else Identity(pid, stat[2], boot(), stat[3])


def _environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty if this user may not read it."""
    with suppress(OSError):
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return []


def _each() -> Iterator[tuple[int, tuple[str, int, int, int]]]:
    """The processes of this machine, without those that have ended and are not waited for yet.

    A killed process has ended with its last thread, which gives back its memory and its locks. Its first thread may
    have ended before: half a second with 1.5 GB.
    """
    for name in os.listdir(_PROC):
        if name.isdigit() and (stat := _stat(int(name))) is not None and (stat[0] not in "ZX" or stat[1] > 1):
            yield int(name), stat


def mark(token: str | None) -> str:
    """What stands in the environment of each process of an attempt at a run; "" without a token."""
    return f"{TOKEN}={token}" if token else ""


def living(group: int, start: int, mark: str, but: int = 0) -> list[int]:
    """The processes of a run that live here: of its process group, or of any other with its mark.

    Args:
        group: The process group; that of its first process.
        start: When that process started.
        mark: `NAME=VALUE` in the environment of all its processes, such as a token; "" if it is not known.
        but: A process that does not count.
    """
    wanted, leader = mark.encode(), _stat(group)
    reused = leader is not None and leader[3] != start  # a new process has the number: the old group is gone
    members: list[int] = []
    for pid, (_, _, its_group, its_start) in _each():
        in_group = its_group == group and not reused and its_start >= start
        if pid != but and (in_group or (wanted and wanted in _environment(pid))):
            members.append(pid)
    return members


def _locked(path: Path) -> bool:
    """Whether a process of this kernel, in any container, holds the lock of a file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def verdict(leader: Identity | None, same_machine: bool, folder: Path, mark: str) -> Verdict:
    """Whether a process of a run lives.

    Args:
        leader: Its first process; None if none was ever started: what waits to start does nothing without its worker.
        same_machine: Whether that machine is this one.
        folder: The run's.
        mark: As for `living`.
    """
    if leader is None:
        return "dead"
    if any(_locked(folder / name) for name in (ALIVE, ".lock")):
        return "alive"  # of another machine too, if the disk that they share keeps locks
    if not same_machine:
        return "unknown"
    here = boot()
    if leader.boot.partition(":")[0] != here.partition(":")[0]:
        return "dead"  # the machine was started again
    if leader.boot != here:  # another container of this machine: only the lock can be seen
        return "dead" if (folder / ALIVE).exists() else "unknown"
    return "alive" if living(leader.group, leader.start, mark) else "dead"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal once its parent has ended."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)

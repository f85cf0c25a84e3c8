"""What a machine gives to runs: cores, memory, GPUs; and which GPUs a run gets."""

import fcntl
import os
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from recsys.errors import ConfigError
from recsys.service.queue.records import Needs

__all__ = ["GPUS", "machine", "take_gpus"]

GPUS = "CUDA_VISIBLE_DEVICES"
_CGROUP = Path("/sys/fs/cgroup")
_KEPT = 0.1  # share of the memory that stays for the system and the service
_WAIT = 5.0  # seconds that a GPU may take to come free after its run has ended


def gpus() -> list[str]:
    """The GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if GPUS in os.environ:
        return [g.strip() for g in os.environ[GPUS].split(",") if g.strip() not in ("", "-1", "NoDevFiles")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def _number(file: str) -> list[int]:
    """The numbers in a file of the control group; empty if it sets no limit."""
    with suppress(OSError):
        words = (_CGROUP / file).read_text().split()
        return [int(w) for w in words] if all(w.isdigit() for w in words) else []
    return []


def machine(cores: int | None = None, memory: int | None = None, count: int | None = None) -> Needs:
    """What this machine gives to runs: by default its cores, nine tenths of its memory and all its GPUs.

    Limits of a container count.

    Args:
        cores: Cores, instead; may be more than there are.
        memory: Bytes, instead.
        count: GPUs, instead.

    Raises:
        ConfigError: If there are fewer GPUs.
    """
    quota = _number("cpu.max")
    cpus = len(os.sched_getaffinity(0))
    cpus = min(cpus, max(1, quota[0] // quota[1])) if len(quota) == 2 else cpus
    total = min([psutil.virtual_memory().total, *_number("memory.max")])
    devices = len(gpus())
    if count is not None and count > devices:
        raise ConfigError(f"gpus: expected at most {devices}, which are there, got {count}: see nvidia-smi")
    return Needs(
        cpus if cores is None else cores,
        int(total * (1 - _KEPT)) if memory is None else memory,
        devices if count is None else count,
    )


def _folder() -> Path:
    """A folder of this user that all workers of this machine share."""
    folder = Path(tempfile.gettempdir()) / f"recsys-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigError(f"{folder}: expected a folder of this user, got one of another: remove it")
    return folder


def take_gpus(count: int) -> tuple[list[str], list[int]]:
    """Reserve GPUs for a run → their names, and handles to hand down to it: they are free once all are closed.

    Raises:
        ConfigError: If other runs hold too many of them.
    """
    names: list[str] = []
    handles: list[int] = []
    until = time.monotonic() + _WAIT
    while len(names) < count:
        for name in (g for g in gpus() if g not in names and len(names) < count):
            handle = os.open(_folder() / name.replace("/", "_"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            names.append(name)
            handles.append(handle)
        if len(names) < count and time.monotonic() > until:
            for handle in handles:
                os.close(handle)
            raise ConfigError(f"expected {count} free GPUs, got {len(names)}: a run that has ended may still hold one")
        time.sleep(0 if len(names) == count else 0.2)
    return names, handles

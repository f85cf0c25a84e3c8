"""One attempt at a run: its folder, its processes, and how they are told to stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.frozen import Frozen, write_frozen, write_owner
from pipelines.launchers.contract import TOKEN
from recsys.errors import ConfigError
from recsys.lock import take
from recsys.service.inside import LOGS
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Claim, NewRun
from recsys.service.worker.child import GO, KILL, PATIENCE, STOP
from recsys.service.worker.processes import ALIVE, Identity, identity, living, mark
from recsys.service.worker.slots import GPUS, take_gpus
from recsys.service.worker.watch import Watch, Why

__all__ = ["COMMAND", "Attempt", "prepare"]

COMMAND = (sys.executable, "-P", "-m", "recsys.commands.frozen")  # and the run's folder
_CHILD = (sys.executable, "-P", "-m", "recsys.service.worker.child")
_SECRETS = ("RECSYS_TOKEN", "RECSYS_DATABASE", "RECSYS_URL")  # variables that begin so are not for runs
_MORE = 15.0  # seconds after SIGKILL within which the child must have ended all


def frozen_of(new: NewRun) -> Frozen:
    """What the run executes."""
    return Frozen(
        new.id, new.overrides, new.config, new.digest, new.runs, new.cwd, new.name, int(new.config.get("seed", 0)),
        new.experiment, new.parent, new.needs.cores, new.needs.gpus,
    )  # fmt: skip


def prepare(claim: Claim) -> Path:
    """Make the run's folder → the folder.

    Raises:
        ConfigError: If the folder is that of another run, or the folder that it was submitted in is gone.
        OSError: If it cannot be written.
    """
    if not Path(claim.run.new.cwd).is_dir():
        raise ConfigError(f"{claim.run.new.cwd}, the folder that it was submitted in, is not here: submit it again")
    return write_frozen(frozen_of(claim.run.new))


def _environment(claim: Claim, devices: Sequence[str]) -> dict[str, str]:
    """The variables of the run's processes: no secrets of the service, its threads, its GPUs, its token."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(_SECRETS)}
    launcher = claim.run.new.config.get("launcher") or {}
    if not str(launcher.get("_target_", "")).endswith((".Ray", ".Slurm")):  # those count their own
        threads = str(max(1, claim.run.new.needs.cores // int(launcher.get("processes", 1))))
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    return env | {TOKEN: claim.token, GPUS: ",".join(devices)}


class Attempt:
    """The processes of a run that this worker holds.

    Args:
        claim: The hold.
        folder: The run's, as `prepare` made it.
        command: What to run, and the folder after it.
        grace: Seconds from the wish to stop to SIGTERM, > 0.

    Raises:
        ConfigError: If its GPUs are not free.
        OSError: If the processes cannot be started.
    """

    def __init__(self, claim: Claim, folder: Path, command: Sequence[str], grace: float):
        self.claim, self.folder, self.watch = claim, folder, Watch(folder)
        self.why: Why | None = None
        self.lost = False  # whether another worker has the run now
        self.looked = 0.0  # when run.json was read last
        self._patience, self._stop_at = PATIENCE * grace, 0.0
        devices, handles = take_gpus(claim.run.new.needs.gpus)
        ours, self._pipe = os.pipe()
        lock = os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        handles += [ours, lock]
        try:
            self._lock(lock)
            log = os.open(folder / LOGS[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            handles.append(log)
            self.process = subprocess.Popen(
                [*_CHILD, str(folder), str(ours), str(lock), str(grace), *command, str(folder)],
                cwd=claim.run.new.cwd,
                env=_environment(claim, devices),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[h for h in handles if h != log],
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            for handle in handles:
                os.close(handle)
        leader = identity(self.process.pid)
        assert leader is not None  # it is not waited for yet
        self.leader: Identity = leader

    def _lock(self, lock: int) -> None:
        try:
            take(lock)
        except BlockingIOError as error:
            raise ConfigError("processes of an earlier attempt at the run live: end them, then resume it") from error

    def begin(self, queue: Queue) -> None:
        """Tell the queue which process it is; then let it begin, and nothing begins without that.

        Raises:
            LeaseLost: If another worker has the run now; so do others that the queue raises.
        """
        leader = self.leader
        queue.began(self.claim, leader.pid, leader.group, leader.boot, leader.start)
        write_owner(self.folder, self.claim.token, self.claim.run.attempt)
        self._say(GO)

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # it has ended
            os.write(self._pipe, word)

    def stop(self, why: Why) -> None:
        """Let it stop at a checkpoint; by force after the grace time."""
        if self.why is None or why == "cancel":
            self.why = why
        if not self._stop_at:
            self._stop_at = time.monotonic()
            self._say(STOP)

    def kill(self) -> None:
        """End all its processes at once."""
        self._stop_at = self._stop_at or time.monotonic() - self._patience
        self._say(KILL)

    def ended(self) -> int | None:
        """None while one of its processes lives, then the exit code, or −signal."""
        if self.process.poll() is None:
            if self._stop_at and time.monotonic() - self._stop_at > self._patience + _MORE:
                self._kill_group()
            return None
        if self._kill_group():  # the child was killed, and these are left
            return None
        return self.process.returncode

    def _kill_group(self) -> bool:
        """Send SIGKILL to each of its processes → whether there was one."""
        left = living(self.leader.group, self.leader.start, mark(self.claim.token))
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(left)

    def close(self) -> None:
        """Let go of it; a process that still lives stops, since the pipe ends."""
        os.close(self._pipe)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0)

"""Processes of a Slurm job, submitted by submitit."""

import logging
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.launchers.contract import extra, first_failure
from recsys.config.ranges import Count, Many, Natural
from recsys.errors import ConfigError
from recsys.files import write_text

__all__ = ["Slurm"]


_ASK = 10  # seconds between two questions to Slurm
_ENDS = 120  # seconds that a job of before gets to end
_NOTE = "job"  # file in `.slurm` of the run's folder: id of the job that runs it, until that has ended
_NAME = "recsys"  # of the jobs
_LIVES = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD"),
    *("RESIZING", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
}
"""States of squeue(1) in which a job runs or may still run."""


def _run(command: list[str]) -> int:
    """Run the command as the rank that this task of the job is → its exit code, or −signal."""
    submitit = extra("submitit", "slurm")
    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


@dataclass
class _Launched:
    """A job of submitit.

    Args:
        job: The job.
        tasks: One for each rank.
        cluster: Of `Slurm`.
        note: File that holds the id of the job until it has ended.
    """

    job: Any
    tasks: list[Any]
    cluster: str
    note: Path
    asked: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """None while all that have ended did well and some still run."""
        gone = self._gone()  # before the results are read, which a job writes last
        ended = [task for task in self.tasks if task.done()]
        codes = [1 if task.exception() else int(task.result()) for task in ended]
        failed = first_failure(codes)
        if not failed and len(ended) < len(self.tasks):
            return self._ended(1) if gone else None
        if failed:
            self.cancel()
        return self._ended(failed)

    def _ended(self, code: int) -> int:
        self.note.unlink(missing_ok=True)
        return code

    def _gone(self) -> bool:
        """Whether Slurm lists the job no longer; submitit itself asks Slurm's accounts, which not every Slurm keeps."""
        if self.cluster != "slurm" or time.monotonic() - self.asked < _ASK:
            return False
        self.asked = time.monotonic()
        return _gone(self.job.job_id)

    def cancel(self) -> None:
        """Cancel the job."""
        if any(not task.done() for task in self.tasks):
            self.job.cancel(check=False)
        self.note.unlink(missing_ok=True)


def _gone(job: str) -> bool:
    """Whether Slurm lists a job no longer as one that may run."""
    command = ["squeue", "--noheader", "--states=all", f"--name={_NAME}", "--format=%T", f"--jobs={job}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode and "Invalid job id" not in listed.stderr:
        return False  # Slurm does not answer now
    return not _LIVES & set(listed.stdout.split())


def _end_earlier(note: Path) -> None:
    """End the job that a launcher which was killed has left behind: it would go on with the same run.

    Raises:
        ConfigError: If it does not end.
    """
    if not note.exists():
        return
    job, until = note.read_text(encoding="utf-8").strip(), time.monotonic() + _ENDS
    while job.isdigit() and not _gone(job):
        subprocess.run(["scancel", f"--name={_NAME}", job], capture_output=True, check=False)
        if time.monotonic() > until:
            raise ConfigError(f"launcher: expected Slurm's job {job} of this run to end, it has not: scancel {job}")
        time.sleep(1)
    note.unlink(missing_ok=True)


@dataclass(frozen=True)
class Slurm:
    """The processes of one Slurm job, and of another if one of them dies.

    Args:
        processes: Count of processes.
        nodes: Count of machines, with equally many processes each.
        restarts: Most jobs after the first.
        minutes: After which Slurm ends a job.
        cpus: Processors of each process.
        gpus: GPUs of each process.
        memory_gb: Memory of each machine; None is Slurm's default.
        partition: Its name, or several with commas between; None is Slurm's default.
        cluster: `slurm`, or `local` for processes on this machine that submitit starts itself.

    Raises:
        ConfigError: If the processes cannot be shared out to the machines, or no partition can have that name.
    """

    processes: Many = 2
    nodes: Many = 1
    restarts: Natural = 3
    minutes: Count = 60
    cpus: Count = 1
    gpus: Natural = 0
    memory_gb: Count | None = None
    partition: str | None = None
    cluster: Literal["slurm", "local"] = "slurm"

    def __post_init__(self) -> None:
        if self.partition is not None and not re.fullmatch(r"[A-Za-z0-9_,.-]+", self.partition):  # part of a script
            raise ConfigError(
                f"launcher.partition: expected letters, digits, _ , . and - alone, got {self.partition!r}: see sinfo"
            )
        if self.processes % self.nodes:
            raise ConfigError(
                f"launcher.processes: expected a multiple of launcher.nodes ({self.nodes}), got {self.processes}: "
                f"give {self.nodes * max(1, self.processes // self.nodes)}"
            )

    @property
    def attempts(self) -> int:
        """The first job, and each restart."""
        return 1 + self.restarts

    def start(self, command: Sequence[str], folder: Path) -> _Launched:
        """Submit a job, once one of before has ended; its script, id and output stand in `.slurm` in the run's folder.

        Raises:
            ConfigError: If submitit or Slurm is not installed, or Slurm refuses the job.
        """
        submitit, note = extra("submitit", "slurm"), folder / ".slurm" / _NOTE
        if self.cluster == "slurm":
            _end_earlier(note)
        logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it warns where Slurm keeps no accounts
        try:
            executor = submitit.AutoExecutor(folder=folder / ".slurm", cluster=self.cluster)
            executor.update_parameters(**self._parameters())
            job = executor.submit(_run, list(command))
        except (RuntimeError, subprocess.SubprocessError, submitit.core.utils.FailedJobError) as error:
            raise ConfigError(f"launcher: Slurm took no job: {error}: see sinfo, or set launcher=torchrun") from error
        tasks = [job.task(i) for i in range(self.processes)] if self.processes > 1 else [job]
        write_text(note, job.job_id)
        return _Launched(job, tasks, self.cluster, note)

    def _parameters(self) -> dict[str, Any]:
        each = self.processes // self.nodes
        wanted = {
            "name": _NAME,
            "nodes": self.nodes,
            "tasks_per_node": each,
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus * each or None,
            "mem_gb": self.memory_gb,
            "slurm_partition": self.partition,
        }
        return {key: value for key, value in wanted.items() if value is not None}

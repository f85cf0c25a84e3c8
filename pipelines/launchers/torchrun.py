"""Processes on this machine, under torchrun."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.config.ranges import Many, Natural

__all__ = ["Torchrun"]

_PATIENCE = 60  # seconds; torchrun waits 30 s for its processes before it kills them


@dataclass(frozen=True)
class _Launched:
    """torchrun, which has started the processes."""

    agent: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        return self.agent.poll()

    def cancel(self) -> None:
        """Tell torchrun to end, which ends the processes first."""
        if self.agent.poll() is not None:
            return
        self.agent.terminate()
        try:
            self.agent.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            self.agent.wait()


@dataclass(frozen=True)
class Torchrun:
    """`torchrun --nproc-per-node=processes --max-restarts=restarts` on this machine.

    If a process dies, torchrun ends the others, and starts all of them again.

    Args:
        processes: Count of processes.
        restarts: Most restarts.
    """

    processes: Many = 2
    restarts: Natural = 3

    @property
    def attempts(self) -> int:
        """1: torchrun itself starts them again."""
        return 1

    def start(self, command: Sequence[str], folder: Path) -> _Launched:
        """Start torchrun, whose own output goes to launcher.log in the run's folder.

        Args:
            command: `PYTHON -m MODULE …`, as torchrun takes it.
            folder: The run's folder.
        """
        options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={self.processes}"]
        options += [f"--max-restarts={self.restarts}", "--monitor-interval=0.5"]
        threads = str(max(1, (os.cpu_count() or 1) // self.processes))
        with (folder / "launcher.log").open("ab") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *options, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"OMP_NUM_THREADS": threads, **os.environ},
            )
        return _Launched(agent)

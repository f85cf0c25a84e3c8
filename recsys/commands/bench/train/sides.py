"""Measured processes from outside: start them, let them take turns one at a time, end them."""

import json
import os
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recsys
from recsys.errors import DataError
from recsys.files import write_text

__all__ = ["Job", "Side", "Turn", "interleaved", "started"]

Job = Mapping[str, Any]
_WARM_STEPS = 3  # the first steps of a process choose kernels and fill caches
_PROBE_STEPS = 2
_FEWEST_STEPS = 2


@dataclass(frozen=True)
class Turn:
    """One turn.

    Args:
        steps: Steps taken.
        seconds: Time that they took.
        peak_bytes: Peak of the process's resident memory so far.
        anonymous_bytes: Memory after the turn, without files that are mapped.
        loss: Loss of the last step; 0 if it has none.
    """

    steps: int
    seconds: float
    peak_bytes: int
    anonymous_bytes: int
    loss: float


class Side:
    """A process that trains when it is asked to.

    Args:
        name: As the table names it.
        command: Its command line, without the job.
        job: What it trains.
        environment: Variables beside this process's.
    """

    def __init__(self, name: str, command: Sequence[str], job: Job, environment: Mapping[str, str]):
        self.name, self.job = name, job
        self._noise = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "job.json"
        write_text(path, json.dumps(job))
        threads = {f"{library}_NUM_THREADS": str(job["threads"]) for library in ("OMP", "MKL", "OPENBLAS")}
        self._process = subprocess.Popen(
            [*command, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            text=True,
            cwd=self._folder.name,
            env={**os.environ, **threads, **environment},
        )
        self.cannot, self.about = "", dict[str, Any]()

    def ready(self) -> bool:
        """Wait until it is ready → whether it can train this job; `cannot` says why it cannot."""
        said = self._answer()
        self.cannot, self.about = said.get("cannot", ""), said.get("about", {})
        self.modes: list[str] = said.get("modes", [])
        return not self.cannot

    def turn(self, mode: str, steps: int) -> Turn:
        """Let it take so many steps, and wait for it.

        Raises:
            DataError: If it died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"mode": mode, "steps": steps}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise DataError(f"{self.name} ended before its turn: {self._last_words()}") from error
        return Turn(steps, **self._answer())

    def steps_in(self, mode: str, seconds: float, steps: int | None = None) -> int:
        """The steps of a turn: those given, or as many as take so long, 2 at least; after a few that warm it up."""
        self.turn(mode, _WARM_STEPS)
        if steps is not None:
            return steps
        probe = self.turn(mode, _PROBE_STEPS)
        return max(_FEWEST_STEPS, round(seconds * probe.steps / probe.seconds))

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DataError(f"{self.name} failed: {self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        self._process.wait()
        self._noise.seek(0)
        lines = self._noise.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}, and no message"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # of a request that nobody read
            self._process.stdin.close()
        self._process.stdout.close()
        self._noise.close()
        self._folder.cleanup()


@contextmanager
def started(
    commands: Mapping[str, Sequence[str]], jobs: Mapping[str, Job]
) -> Generator[tuple[list[Side], dict[str, str]]]:
    """The processes that can train their job, by name, all started at once; and why the others cannot.

    Args:
        commands: Side → its command line.
        jobs: Side → what it trains.
    """
    home = {"PYTHONPATH": os.pathsep.join([str(Path(recsys.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    with ExitStack() as stack:
        sides: list[Side] = []
        for name, command in commands.items():
            sides.append(Side(name, command, jobs[name], home))
            stack.callback(sides[-1].close)
        missing: dict[str, str] = {}
        for side in sides:
            try:
                if not side.ready():
                    missing[side.name] = side.cannot
            except DataError as error:
                missing[side.name] = str(error)
        yield [s for s in sides if s.name not in missing], missing


def interleaved(
    sides: Sequence[Side], steps: Mapping[tuple[str, str], int], turns: int
) -> dict[tuple[str, str], list[Turn]]:
    """Let every side take a turn in every mode, again and again: A B C A B C …, one at a time.

    Args:
        sides: The processes.
        steps: (side, mode) → steps of each of its turns; others are left out.
        turns: Turns of each.

    Raises:
        DataError: If one of them dies.
    """
    taken: dict[tuple[str, str], list[Turn]] = {pair: [] for pair in steps}
    by_name = {side.name: side for side in sides}
    for _ in range(turns):
        for name, mode in steps:
            taken[name, mode].append(by_name[name].turn(mode, steps[name, mode]))
    return taken

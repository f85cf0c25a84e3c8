"""What runs the trials of a sweep: this process, one after another, or another `Executor`, several at once."""

import math
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from omegaconf import OmegaConf

from pipelines.config import RunConfig
from recsys.errors import ConfigError, RecsysError
from recsys.events import Pace, Reporter
from recsys.files import write_text

__all__ = ["Begun", "Executor", "Here", "NotOfTheTrial", "Ready", "Several", "Watch", "at_once"]

T = TypeVar("T")
_MOST = 64  # trials at once: each has a thread that waits for it
_PAUSE = 1.0  # seconds between two looks at how many may run


class Watch:
    """A `Reporter` that times the steps of a training, and asks at each look whether to stop it.

    Args:
        look: Rows learned, validation logloss, median seconds of a step → whether to stop.
        other: A reporter that is told too, and can stop the run.
    """

    def __init__(self, look: Callable[[int, float, float], bool], other: Reporter):
        self.stopped, self.step_seconds = False, math.nan
        self._look, self._other, self._pace = look, other, Pace()

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Training in this process calls this with its rows after each step."""
        self._pace.progress(done, unit)
        self.step_seconds = self._pace.step_seconds
        self._other.progress(done, total, unit)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Training in this process calls this at each look."""
        if "valid_logloss" in values:
            self.looked(self._pace.rows, values["valid_logloss"], self.step_seconds)
            self._pace.looked()
        self._other.metrics(values, step)

    def looked(self, rows: int, logloss: float, step_seconds: float) -> None:
        """Take in a look of a training, which may run in another process that has timed its own steps."""
        self.step_seconds = step_seconds
        self.stopped |= self._look(rows, logloss, step_seconds)

    def note(self, text: str) -> None:
        self._other.note(text)

    def cancelled(self) -> bool:
        return self.stopped or self._other.cancelled()


@dataclass(frozen=True)
class Ready:
    """A trial that can start.

    Args:
        config: Its checked configuration.
        overrides: What leads to it after `recsys run`.
        folder: Its folder: that of the sweep, and its name.
    """

    config: RunConfig
    overrides: list[str]
    folder: Path


@dataclass(frozen=True)
class Several:
    """How many trials an executor takes at once.

    Args:
        room: Gives how many trials may be begun and not ended now, at least 1.
        leave: Called if the sweep ends early: whoever waits for a trial stops waiting, by an error.
    """

    room: Callable[[], int]
    leave: Callable[[], None]


class NotOfTheTrial(ConfigError):
    """Every trial would fail likewise: the sweep stops, and goes on with this trial once that is mended."""


class Executor(Protocol):
    """Runs trials."""

    @property
    def several(self) -> Several | None:
        """How many trials it takes at once; None if they run in this process, one at a time."""
        ...

    def run(self, trial: Ready, watch: Watch) -> Path:
        """Run a trial, or go on with it → its result.json.

        Args:
            trial: The trial.
            watch: Is told of each look at validation, and can stop the trial.

        Raises:
            Cancelled: If the watch stops it.
            NotOfTheTrial: If it cannot run, through no fault of its own.
            Exception: If it fails.
        """
        ...


@dataclass(frozen=True)
class Begun:
    """A sweep that begins or goes on, for whoever makes its executor.

    Args:
        folder: Its folder.
        runs: The folder of runs, absolute.
        id: Path of its folder below that.
        mark: 32 hexadecimal digits that identify it; a sweep that goes on keeps them.
        timed: Whether seconds count in what it searches for.
    """

    folder: Path
    runs: Path
    id: str
    mark: str
    timed: bool


class Here:
    """Runs trials in this process; what they print goes into log.txt of their folders."""

    several: Several | None = None

    def run(self, trial: Ready, watch: Watch) -> Path:
        from pipelines.run import execute  # MLflow and torch take seconds

        folder = trial.folder
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        noted = OmegaConf.to_yaml(OmegaConf.create(trial.overrides))
        write_text(folder / ".hydra" / "overrides.yaml", noted)  # as Hydra notes them: resume=ID/3
        with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
            try:
                return execute(trial.config, folder, watch)
            except RecsysError as error:
                print(f"error: {error}", file=log)
                raise
            except Exception:
                traceback.print_exc()
                raise


def at_once(jobs: Iterator[Callable[[], T]], several: Several | None) -> Generator[T]:
    """Do jobs, several at once → their results, each as soon as it is there; the first error ends it.

    The next job is asked for only when there is room for it, so that it may depend on earlier results.

    Args:
        jobs: Jobs, which the calling thread asks for.
        several: How many at once; None does each in the calling thread.
    """
    if several is None:
        for job in jobs:
            yield job()
        return
    running: set[Future[T]] = set()
    more = True
    with ThreadPoolExecutor(_MOST) as threads:
        try:
            while more or running:
                while more and len(running) < min(several.room(), _MOST):
                    if more := (job := next(jobs, None)) is not None:
                        running.add(threads.submit(job))
                done, running = wait(running, _PAUSE, FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:  # or the caller closes this
            several.leave()
            raise

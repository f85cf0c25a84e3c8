"""A run on several processes: rank 0 drives it, and the others compute with it each stage that trains or scores.

In such a stage every rank runs the same function on the same earlier folders. It writes to a folder of its own: only
the files and messages of rank 0 count. Thereby no stage asks which rank it runs on.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed import DistError

from pipelines.stage import Result, Stage
from pipelines.stages import STAGES
from recsys.config.factory import trust
from recsys.data.ranks import Ranks
from recsys.errors import Cancelled, ProcessLost, RecsysError, in_one_line
from recsys.events import SILENT, Reporter

__all__ = ["Together"]

Function = Callable[[Stage], Result]
_STOPPED = "stopped by "
_SECONDS = 5.0  # that a process waits for the reason why another one has left
_LEFT = ("onnection closed", "onnection reset", "roken pipe")
"""In errors of torch.distributed if a process has ended; names of its parts stand in errors of any kind."""


@dataclass(frozen=True)
class _Task:
    """A stage for all ranks; its folder is that of rank 0."""

    name: str
    stage: Stage


class _Agreed:
    """The reporter of rank 0, which says to all ranks at the same point whether to stop.

    Args:
        reporter: Is told of progress.
        ranks: The processes.
    """

    def __init__(self, reporter: Reporter, ranks: Ranks):
        self._reporter, self._ranks = reporter, ranks

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        self._reporter.progress(done, total, unit)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._reporter.metrics(values, step)

    def note(self, text: str) -> None:
        self._reporter.note(text)

    def cancelled(self) -> bool:
        return self._ranks.maximum(int(self._reporter.cancelled())) > 0


class Together:
    """The processes of a run.

    Args:
        ranks: As torchrun started them.
    """

    def __init__(self, ranks: Ranks):
        self.ranks, self._failed = ranks, False

    def lead(self, work: Callable[[], int]) -> int:
        """Run the pipeline as rank 0, then let the others end.

        Args:
            work: Runs the pipeline → exit code.
        """
        try:
            return work()
        finally:
            if not self._failed:
                with suppress(RuntimeError):  # another process has ended already
                    self.ranks.broadcast(None)

    def follow(self, find: Callable[[str], Function]) -> int:
        """Compute what rank 0 says until it ends → exit code, 0 even if a stage fails: rank 0 says why, and fails.

        Args:
            find: Name of a stage → its function.
        """
        try:
            with open(os.devnull, "w") as nowhere:
                while (task := self._next()) is not None:
                    with TemporaryDirectory() as place, redirect_stdout(nowhere), redirect_stderr(nowhere):
                        stage = replace(task.stage, folder=Path(place) / task.name)
                        stage.folder.mkdir()
                        trust(stage.config.trusted)
                        self._compute(find(task.name), stage)
        except Exception as error:
            if not self._failed and not (isinstance(error, RuntimeError) and _has_left(error)):
                raise
        return 0

    def _next(self) -> _Task | None:
        nothing: _Task | None = None
        return self.ranks.broadcast(nothing)

    def call(self, name: str, function: Function, stage: Stage) -> Result:
        """Compute a stage on all ranks, as rank 0, if it trains or scores; else here alone.

        Raises:
            RecsysError: If the function does on any rank.
            ProcessLost: If a process has ended.
        """
        if self.ranks.world == 1 or not STAGES[name].together:
            return function(stage)
        self.ranks.broadcast(_Task(name, replace(stage, reporter=SILENT)))
        return self._compute(function, stage)

    def _compute(self, function: Function, stage: Stage) -> Result:
        """Run a stage's function on this rank."""
        sharding = stage.config.distributed.sharding
        with replace(self.ranks, sharding=sharding).as_current() as ranks:
            try:
                return function(replace(stage, reporter=_Agreed(stage.reporter, ranks)))
            except BaseException as error:
                self._failed = True
                left = isinstance(error, RuntimeError) and _has_left(error)
                reason = ranks.fail("" if left else _reason(error), _SECONDS if left else 0)
                known = isinstance(error, RecsysError | SystemExit | KeyboardInterrupt) or (left and reason)
                if not known:  # perhaps it only sounds as if another process had ended
                    print(f"rank {ranks.rank}:", file=sys.__stderr__)
                    traceback.print_exc(file=sys.__stderr__)
                if left and ranks.first:
                    raise _explained(reason) from error
                raise


def _reason(error: BaseException) -> str:
    """Why a process leaves, for the others."""
    if isinstance(error, KeyboardInterrupt):
        return f"{_STOPPED}SIGINT"
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(code, int) and code - 128 in set(signal.Signals):
        return f"{_STOPPED}{signal.Signals(code - 128).name}"
    return in_one_line(error)


def _explained(reason: str) -> RecsysError:
    """Why this process lost the others."""
    if _STOPPED in reason:  # torchrun tells every process, and another one obeyed first
        return Cancelled(reason)
    if reason:
        return RecsysError(reason)
    return ProcessLost("a process of this run was killed, or its machine was lost: resume the run")


def _has_left(error: RuntimeError) -> bool:
    """Whether another process has ended, as torch.distributed tells it."""
    return isinstance(error, DistError) or any(sign in str(error) for sign in _LEFT)

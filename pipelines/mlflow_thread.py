"""Tells MLflow of a run in a thread of its own, which begins with the run's first progress.

MLflow takes three seconds to import and to open its store. What it is to be told waits until then, in order, so that
neither the first step of a training nor a look at validation waits for it. No trouble with MLflow ends a run.
"""

import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from recsys.results import Tracking
from recsys.store import default_uri, masked, reach, warn_untold

if TYPE_CHECKING:
    from recsys.tracking import Tracker

__all__ = ["MLflowThread"]

_Task = Callable[["Tracker"], object]
_SOON = 10.0  # seconds after which a person is told what a run that is done waits for
_PATIENCE = 20.0  # seconds that a run which is stopped, or fails, still waits for MLflow


class MLflowThread:
    """A `Reporter`; all other calls are made in its thread, one after another.

    As a context manager it waits at the end until MLflow has been told all; at most `_PATIENCE` seconds if the block
    ends by an error, since MLflow itself waits minutes for a server that hangs, and the process may be killed first.

    Args:
        uri: A tracking server, `sqlite:///…`, or None for the default store.
        experiment: Name of the MLflow experiment.
        runs: Folder of runs.

    Raises:
        ConfigError: If the server cannot be reached, or the file is no database. What else MLflow cannot do is one
            warning, later, and the run goes on.
    """

    def __init__(self, uri: str | None, experiment: str, runs: Path):
        self._place = (uri or default_uri(runs), experiment, runs)
        reach(self._place[0])
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)  # a hanging one ends no later
        self._run_id: str | None = None
        self._left = False  # whether nobody waits for the thread any more

    @property
    def tracking(self) -> Tracking:
        """The run in MLflow, as far as its thread has come."""
        uri, experiment, _ = self._place
        return Tracking(masked(uri), experiment, self._run_id)

    def _work(self) -> None:
        try:
            from recsys.tracking import Tracker

            tracker = Tracker(*self._place)
            while (task := self._tasks.get()) is not None:
                task(tracker)
                self._run_id = tracker.ids.get("parent")
        except Exception as error:  # from a task: a disk that is full
            if not self._left:  # else the interpreter ends, and breaks it
                warn_untold(error, self._place[0])

    def later(self, task: _Task) -> None:
        """Call the task with the tracker, in the thread."""
        self._tasks.put(task)

    @contextmanager
    def during(self, enter: Callable[["Tracker"], AbstractContextManager[None]]) -> Generator[None]:
        """Enter a context of the tracker, and leave it as the block ends, by an error or without."""
        stack = ExitStack()
        self.later(lambda tracker: stack.enter_context(enter(tracker)))
        try:
            yield
        except BaseException as error:
            reason = error

            def leave(_: "Tracker") -> None:
                try:
                    stack.__exit__(type(reason), reason, reason.__traceback__)
                except BaseException as same:
                    if same is not reason:
                        raise

            self.later(leave)
            raise
        self.later(lambda _: stack.close())

    def __enter__(self) -> "MLflowThread":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._begin()
        self._tasks.put(None)
        try:
            self._thread.join(_PATIENCE if kind else _SOON)
            if kind and self._thread.is_alive():
                warn_untold(TimeoutError(f"no answer within {_PATIENCE:.0f} seconds"), self._place[0])
            elif self._thread.is_alive():
                uri = masked(self._place[0])
                print(f"all stages are done; waiting for MLflow at {uri}: Ctrl-C stops that", file=sys.stderr)
                self._thread.join()
        finally:  # by a signal too
            self._left = True

    def _begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Start the thread: the first step is done."""
        self._begin()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of the running stage."""
        copied: dict[str, Any] = dict(values)
        self.later(lambda tracker: tracker.metrics(copied, step))

    def note(self, text: str) -> None:
        """Do nothing: a stage's tags are logged with its result."""

    def cancelled(self) -> bool:
        """False."""
        return False

"""Tells MLflow of a run in a thread of its own, which begins with the run's first progress.

MLflow takes three seconds to import and to open its store. What it is to be told waits until then, in order, so that
neither the first step of a training nor a look at validation waits for it.
"""

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

from recsys.results import Tracking
from recsys.store import default_uri, masked, reach

if TYPE_CHECKING:
    from recsys.tracking import Tracker

__all__ = ["MLflowThread"]

_Task = Callable[["Tracker"], object]


class MLflowThread:
    """A `Reporter`; all other calls are made in its thread, one after another.

    Args:
        uri: A tracking server, `sqlite:///…`, or None for the default store.
        experiment: Name of the MLflow experiment.
        runs: Folder of runs.

    Raises:
        ConfigError: If the server cannot be reached. If its store cannot be used, a later call raises it.
    """

    def __init__(self, uri: str | None, experiment: str, runs: Path):
        self._place = (uri or default_uri(runs), experiment, runs)
        reach(self._place[0])
        self._tasks: Queue[_Task | None] = Queue()
        self._thread: threading.Thread | None = None
        self._broken: BaseException | None = None
        self._run_id: str | None = None

    @property
    def tracking(self) -> Tracking:
        """The run in MLflow, as far as its thread has come; `wait` first."""
        uri, experiment, _ = self._place
        return Tracking(masked(uri), experiment, self._run_id)

    def begin(self) -> None:
        """Start the thread, if it has not started."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mlflow")
            self._thread.start()

    def _work(self) -> None:
        tracker = self._open()
        while (task := self._tasks.get()) is not None:
            if tracker is not None and self._broken is None:
                try:
                    task(tracker)
                    self._run_id = tracker.ids.get("parent")
                except BaseException as error:
                    self._broken = error
            self._tasks.task_done()

    def _open(self) -> "Tracker | None":
        try:
            from recsys.tracking import Tracker

            return Tracker(*self._place)
        except BaseException as error:
            self._broken = error
            return None

    def later(self, task: _Task) -> None:
        """Call the task with the tracker, in the thread.

        Raises:
            ConfigError: If MLflow's store could not be used; the thread has seen it since the last call.
        """
        if self._broken is not None:
            raise self._broken
        self._tasks.put(task)

    def wait(self) -> None:
        """Wait until MLflow has been told all.

        Raises:
            ConfigError: As `later`.
        """
        self.begin()
        self._tasks.put(lambda _: None)  # else it would not wait for a store that is being opened
        self._tasks.join()
        if self._broken is not None:
            raise self._broken

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

            self._tasks.put(leave)
            raise
        self._tasks.put(lambda _: stack.close())

    def close(self) -> None:
        """Wait until MLflow has been told all, then end the thread; it raises nothing."""
        self.begin()
        self._tasks.put(None)
        assert self._thread is not None
        self._thread.join()

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Start the thread: the first step is done."""
        self.begin()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of the running stage."""
        copied: dict[str, Any] = dict(values)
        self.later(lambda tracker: tracker.metrics(copied, step))

    def note(self, text: str) -> None:
        """Do nothing: a stage's tags are logged with its result."""

    def cancelled(self) -> bool:
        """False."""
        return False

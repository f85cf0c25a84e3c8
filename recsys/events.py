"""Progress reports of a run, and requests to stop it; the reporter for MLflow is in tracking.py."""

import json
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recsys.errors import Cancelled, ConfigError, in_one_line
from recsys.results import Amount, Run, utc_now, write_run

__all__ = [
    "CANCEL",
    "CURVES",
    "SILENT",
    "Pace",
    "Reporter",
    "Reporters",
    "RunFile",
    "Terminal",
    "raise_if_cancelled",
    "run_file",
    "watched",
]

CANCEL = "cancel"  # a file of this name in a run's folder asks the run to stop
CURVES = "curves.jsonl"  # in a run's folder: its figures while it trains, one JSON object for each look
Item = TypeVar("Item")
_PAUSE = 0.5  # least seconds between two updates of run.json
_STEPS = 10_000  # newest steps whose median counts: a median of millions takes a second
_SHARE = 0.02  # largest share of the time that updates of run.json may take


def raise_if_cancelled(reporter: "Reporter") -> None:
    """Stop here if the run is to stop.

    Raises:
        Cancelled: If the run is to stop.
    """
    if reporter.cancelled():
        raise Cancelled("the run was asked to stop")


class Reporter(Protocol):
    """Receives the progress of a run. Every method is cheap enough to be called at each step of a training."""

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Report that `done` of `total` units are done; `done == total` ends the work."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Report figures at a step of the running stage."""
        ...

    def note(self, text: str) -> None:
        """Report one line for a person."""
        ...

    def cancelled(self) -> bool:
        """Whether the run is to stop."""
        ...


class Reporters:
    """Tells several reporters; each of them can stop the run. Without any, it is silent.

    Args:
        reporters: The reporters.
        metrics: Whether to pass metrics; false for a training inside a stage, whose figures are not the stage's.
    """

    def __init__(self, *reporters: Reporter, metrics: bool = True):
        self._reporters, self._metrics = reporters, metrics

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        for reporter in self._reporters:
            reporter.progress(done, total, unit)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for reporter in self._reporters if self._metrics else ():
            reporter.metrics(values, step)

    def note(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.note(text)

    def cancelled(self) -> bool:
        return any(reporter.cancelled() for reporter in self._reporters)


SILENT = Reporters()


def watched(items: Iterable[Item], reporter: Reporter, total: int, unit: str) -> Iterator[Item]:
    """Yield items; after each, report the progress, and stop if the reporter says so.

    Args:
        items: At most `total` items; the work also ends if there are fewer.
        reporter: Receives how many are done.
        total: Count of items, at least 1.
        unit: What is counted, such as `fields permuted`.

    Raises:
        Cancelled: If the reporter says so.
    """
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        reporter.progress(done, total, unit)
        raise_if_cancelled(reporter)
    if 0 < done < total:
        reporter.progress(done, done, unit)


class Pace:
    """Times the steps of a training, from what it reports after each step."""

    def __init__(self):
        self.rows = 0  # learned so far
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._since = math.nan

    @property
    def step_seconds(self) -> float:
        """Median of the newest steps; NaN before the second."""
        return statistics.median(self._steps) if self._steps else math.nan

    def progress(self, done: int, unit: str) -> None:
        """Take in what a training reports after a step: its rows."""
        now = time.perf_counter()
        if unit == "rows" and done > self.rows:
            if self.rows and now > self._since:
                self._steps.append(now - self._since)
            self.rows, self._since = done, now

    def looked(self) -> None:
        """Leave out a look at validation, which belongs to no step."""
        self._since = time.perf_counter()


class Terminal:
    """Draws a progress bar on standard error, and prints notes; `close` ends the bar's thread.

    If standard error is a file or a pipe, such as the log of a run, it prints a line for each look at validation, and
    one at the beginning and the end of other work.
    """

    def __init__(self):
        self._bar, self._figures = None, ""
        self._lines = None if sys.stderr.isatty() else _Lines()

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Draw the bar, from the first call until all is done."""
        if self._lines:
            self._lines.progress(done, total, unit)
            return
        if self._bar is None:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # a tenth of a second

            from recsys.progress import progress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar, self._figures = progress(*columns, refresh_per_second=2), ""
            self._bar.add_task("", total=total, completed=done, note="")
            self._bar.start()
        task = self._bar.tasks[0]
        note = f"{task.speed or 0:,.0f} a second{self._figures}"
        amount = f"{done:,} of {total:,} {unit}"
        self._bar.update(task.id, completed=done, total=total, note=note, description=amount)
        if done >= total:
            self.close()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._figures = "".join(f", {name} {value:.5f}" for name, value in values.items())
        if self._lines:
            self._lines.look(step, self._figures)

    def note(self, text: str) -> None:
        from recsys.terminal import console  # imports rich, which `recsys submit` does without

        console().print(text, soft_wrap=True)

    def cancelled(self) -> bool:
        """False: a person presses Ctrl-C."""
        return False

    def close(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Lines:
    """Prints how far a work is: when it begins, at each look of a training, and at its end if it had no look."""

    def __init__(self):
        self._begun: tuple[float, int] | None = None  # when, and what was done already
        self._amount, self._unit, self._speed, self._looked = "", "", "", False

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        self._amount, self._unit, self._speed = f"{done:,} of {total:,} {unit}", unit, ""
        if self._begun is None:
            self._begun, self._looked = (now, done), False
            self._print(self._amount)
        elif (seconds := now - self._begun[0]) > 0 and done > self._begun[1]:
            speed = (done - self._begun[1]) / seconds
            left = timedelta(seconds=round((total - done) / speed))
            self._speed = f", {speed:,.0f} a second" + (f", {left} left" if done < total else "")
        if done >= total:
            if self._speed and not self._looked:
                self._print(self._amount + self._speed)
            self._begun = None

    def look(self, step: int, figures: str) -> None:
        if self._unit == "rows":  # else it is no look of a training
            self._looked = True
            self._print(f"step {step:,}: {self._amount}{self._speed}{figures}")

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class RunFile:
    """Keeps run.json up to date for a run of this process; a file `cancel` beside it stops the run.

    Args:
        folder: Folder of the run.
        run: Initial content of run.json.
    """

    def __init__(self, folder: Path, run: Run):
        self.mark, self._run, self._folder = run.mark, run, folder
        self._changes: dict[str, Any] = {}
        self._pace = Pace()
        self._next, self._looked, self._cancelled = 0.0, 0.0, False
        if (folder / CANCEL).is_dir():
            raise ConfigError(f"{folder / CANCEL}: expected a file or nothing, got a folder: remove it")
        (folder / CANCEL).unlink(missing_ok=True)  # it was for an earlier attempt
        self._warned, self._lock = False, threading.RLock()  # a note may come from another thread
        self._save()

    def stage(self, name: str) -> None:
        self._pace = Pace()
        self._write(force=True, stage=name, progress=None)

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Write the progress, at most twice a second."""
        self._pace.progress(done, unit)
        self._write(progress=Amount(done, total, unit))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write the newest figures of the stage, and add them to its curves."""
        newest = {"step": float(step), **{k: float(v) for k, v in values.items()}}
        stage, before = self._told()
        self._write(metrics={**before, stage: newest | _best_look(newest, before.get(stage, {}))})
        try:
            self._draw(stage, newest)
        except OSError as error:
            self._warn(error)
        self._pace.looked()

    def stage_ended(self, figures: Mapping[str, float]) -> None:
        """Write the figures of the stage's result instead of those of its looks, if it has told any."""
        stage, before = self._told()
        if stage in before:
            self._write(metrics={**before, stage: {k: float(v) for k, v in figures.items()}})

    def _told(self) -> tuple[str, dict[str, dict[str, float]]]:
        """The running stage, and what all stages have told."""
        stage = self._changes.get("stage", self._run.stage) or ""
        return stage, self._changes.get("metrics", self._run.metrics)

    def _draw(self, stage: str, newest: Mapping[str, float]) -> None:
        """Add a line to the curves; first it ends the line before, which a killed process may have left unfinished."""
        finite: dict[str, Any] = {k: v for k, v in newest.items() if math.isfinite(v)}
        if rows := self._pace.rows:  # no figures to draw: a sweep compares trials by them
            step = self._pace.step_seconds
            finite["pace"] = {"rows": rows, "step_seconds": step if math.isfinite(step) else None}
        line = "\n" + json.dumps({"stage": stage, **finite})
        handle = os.open(self._folder / CURVES, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(line)

    def note(self, text: str) -> None:
        self._write(note=text)

    def cancelled(self) -> bool:
        """Whether there is a file `cancel`; this is checked at most four times a second."""
        if not self._cancelled and time.monotonic() >= self._looked + 0.25:
            self._looked, self._cancelled = time.monotonic(), (self._folder / CANCEL).exists()
        return self._cancelled

    def end(self, state: str, **reason: str) -> None:
        """Write the last state, with a `note` or an `error` that explains it.

        It is tried twice, since a full disk may have room again once the file that filled it is removed.
        """
        over = {"stage": None, "progress": None} if state == "finished" else {}  # else where it ended
        self._changes |= {"state": state, **over, **reason}
        try:
            self._save()
        except OSError:
            self._save()

    def _write(self, force: bool = False, **changes: Any) -> None:
        with self._lock:
            self._changes |= changes
            started = time.monotonic()
            if force or started >= self._next:
                try:
                    self._save()
                except OSError as error:
                    self._warn(error)
                self._next = time.monotonic() + max(_PAUSE, (time.monotonic() - started) / _SHARE)

    def _save(self) -> None:
        with self._lock:
            self._run = replace(self._run, **self._changes, updated=utc_now())
            self._changes.clear()
            write_run(self._folder, self._run)

    def _warn(self, error: OSError) -> None:
        """Warn once that run.json is not updated; the run goes on, since its work may need no disk space."""
        if not self._warned:
            place, reason = self._folder / "run.json", error.strerror or error
            print(f"warning: {place} cannot be written, the run goes on without it: {reason}", file=sys.stderr)
        self._warned = True


def _best_look(newest: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Step, logloss and AUC of the look with the lowest validation logloss, whose weights a training keeps.

    Args:
        newest: Figures of a look at validation; of other figures none is the best.
        before: What the stage had told before, in which an earlier look may be the best. If its step is not before
            the newest look's, training has begun anew, and has still to come to that look.
    """
    if "valid_logloss" not in newest:
        return {}
    if before.get("best_step", math.inf) < newest["step"] and before["best_valid_logloss"] <= newest["valid_logloss"]:
        return {name: value for name, value in before.items() if name.startswith("best_")}
    return {f"best_{name}": newest[name] for name in ("step", "valid_logloss", "valid_auc") if name in newest}


def _what_stopped(error: BaseException, folder: Path) -> str:
    """What stopped a run on request; "" if it was not asked to stop."""
    if isinstance(error, Cancelled):
        return "stopped by the file cancel" if (folder / CANCEL).exists() else "stopped by the program that runs it"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT"
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(code, int) and code - 128 in set(signal.Signals):
        return f"stopped by {signal.Signals(code - 128).name}"
    return f"stopped by exit {code}" if isinstance(error, SystemExit) else ""


@contextmanager
def run_file(folder: Path, run: Run) -> Generator[RunFile]:
    """run.json of a run from its start to its end; it says how the run ended, unless the process is killed."""
    file = RunFile(folder, run)
    try:
        yield file
    except BaseException as error:
        stopped = _what_stopped(error, folder)
        with suppress(OSError):  # such as a full disk: the first error is the one to report
            if stopped:
                file.end("cancelled", note=stopped)
            else:
                file.end("failed", error=in_one_line(error))
        raise
    file.end("finished")

"""A sweep on the screen: one bar of all trials, one of the running trial, and a line for each finished trial."""

import sys
from collections.abc import Mapping

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from pipelines.sweep.space import overrides_of
from pipelines.sweep.swept import Swept, Tried
from pipelines.sweep.trials import Figures
from recsys.events import Reporter
from recsys.progress import progress

__all__ = ["Screen"]


def _figures(figures: Figures) -> str:
    return f"logloss {figures.logloss:.5f}, {figures.seconds:.1f} s, {figures.bytes / 1e6:.2f} MB"


def _line(trial: Tried) -> str:
    text = _figures(trial.figures) if trial.figures else trial.state
    return f"trial {trial.number}: {text}{trial.error and f': {trial.error}'}  {' '.join(overrides_of(trial.changes))}"


class Screen:
    """A `Reporter` of the running trial; it tells run.json of the sweep how many trials are done.

    Args:
        trials: Number of trials in all.
        file: run.json of the sweep, which can stop it.
    """

    def __init__(self, trials: int, file: Reporter):
        self._trials, self._file = trials, file
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self._bar = progress(*columns, refresh_per_second=2)
        self._bar.console.file = sys.stderr  # while a trial runs, sys.stderr is its log
        self._all = self._bar.add_task(f"0 of {trials} trials", total=trials, note="")
        self._one = self._bar.add_task("", total=None, note="")

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def done(self, swept: Swept, newest: Tried | None) -> None:
        """Show how many trials are done; print the result of the newest one."""
        count, note = len(swept.trials), f"none better than the default, {swept.default.logloss:.5f}"
        if best := swept.winner:
            note = f"best {best.objective:.5f} (trial {best.number})"
        self._bar.update(self._all, completed=count, description=f"{count} of {self._trials} trials", note=note)
        self.say(_line(newest) if newest else f"default: {_figures(swept.default)}")
        self._file.progress(count, self._trials, "trials")
        self._file.note(f"{count} of {self._trials} trials, {note}")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._bar.console.print(text, soft_wrap=True)

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        self._bar.update(self._one, completed=done, total=total, description=f"{done:,} of {total:,} {unit}")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._bar.update(self._one, note=", ".join(f"{name} {value:.5f}" for name, value in values.items()))

    def note(self, text: str) -> None:
        """Do nothing: the trial's log has the note."""

    def cancelled(self) -> bool:
        return self._file.cancelled()

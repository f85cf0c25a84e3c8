"""The trials of a sweep: Optuna suggests settings, a run trains with them, and Optuna is told the result.

study.db in the sweep's folder holds every trial, so that a killed sweep can go on: finished trials stay, and the
interrupted one resumes from the checkpoint of its run.
"""

import hashlib
import json
import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from pipelines.stage import CHECKPOINTS
from pipelines.sweep.settings import Settings
from pipelines.sweep.space import Range, Space, read_space
from recsys.errors import Cancelled, ConfigError, DataError, in_one_line
from recsys.events import Reporter
from recsys.files import disk_full, remove_folder
from recsys.results import read_result

__all__ = ["Figures", "Search", "Watch", "behind", "objective", "of_the_machine", "open_study", "suggest"]

_NAME = "sweep"  # name of the study
_FAILURES = 5  # so many failures, with no trial finished, end a sweep
_ATTEMPTS = 5  # a trial that was begun so often and never ended kills its process
_WAIT = 60  # seconds for another program, such as a viewer, to let go of study.db
_PEERS, _LOOKS = 5, 2  # finished trials, and looks of its own, before a trial may be stopped


@dataclass(frozen=True)
class Figures:
    """What a trial is judged by.

    Args:
        logloss: Validation logloss at the best look.
        seconds: Steps to the best look × median seconds of a step, so that a pause of the machine does not count.
        bytes: Bytes of tables and dense parameters.
    """

    logloss: float
    seconds: float
    bytes: float


def objective(figures: Figures, default: Figures, settings: Settings) -> list[float]:
    """What the study minimises: logloss·(1 + β·ln(seconds / seconds of the default)); or all three figures."""
    if settings.objective == "pareto":
        return [figures.logloss, figures.seconds, figures.bytes]
    if settings.beta == 0:
        return [figures.logloss]
    return [figures.logloss * (1 + settings.beta * math.log(figures.seconds / default.seconds))]


class Watch:
    """A `Reporter` that times the steps of a training, and asks at each look whether to stop it.

    Args:
        look: Rows learned, validation logloss, median seconds of a step → whether to stop.
        other: A reporter that is told too, and can stop the run.
    """

    def __init__(self, look: Callable[[int, float, float], bool], other: Reporter):
        self.stopped = False
        self._look, self._other = look, other
        self._steps: list[float] = []
        self._rows, self._since = 0, math.nan

    @property
    def step_seconds(self) -> float:
        """Median; NaN before the second step."""
        return statistics.median(self._steps) if self._steps else math.nan

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Training calls this with its rows after each step."""
        now = time.perf_counter()
        if unit == "rows" and done > self._rows:
            if self._rows and now > self._since:
                self._steps.append(now - self._since)
            self._rows, self._since = done, now
        self._other.progress(done, total, unit)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Training calls this at each look."""
        if "valid_logloss" in values:
            self.stopped = self._look(self._rows, values["valid_logloss"], self.step_seconds)
            self._since = time.perf_counter()
        self._other.metrics(values, step)

    def note(self, text: str) -> None:
        self._other.note(text)

    def cancelled(self) -> bool:
        return self.stopped or self._other.cancelled()


def open_study(folder: Path, settings: Settings) -> optuna.Study:
    """The study in a folder, new if there is none.

    Raises:
        DataError: If study.db is damaged, or of another Optuna.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = folder / "study.db"
    directions = [optuna.study.StudyDirection.MINIMIZE] * (3 if settings.objective == "pareto" else 1)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}", {"connect_args": {"timeout": _WAIT}})
        return optuna.create_study(storage=storage, study_name=_NAME, directions=directions, load_if_exists=True)
    except Exception as error:  # SQLAlchemy, sqlite3 and Optuna each raise their own
        reason = in_one_line(error)[:200]
        raise DataError(f"{file}: expected the trials of a sweep: {reason}: begin a new sweep") from error


def _sampler(settings: Settings, trial: int, name: str) -> BaseSampler:
    """A sampler whose draw depends on its seed, the trial and the setting, so that a killed sweep draws the same."""
    digest = hashlib.sha256(f"{settings.sampler_seed}/{trial}/{name}".encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, multivariate=False, constant_liar=False)


def suggest(study: optuna.Study, trial: Trial, space: Space, settings: Settings) -> dict[str, Any]:
    """The values that a trial tries: key → value."""
    chosen: dict[str, Any] = {}
    for setting in space:
        study.sampler = _sampler(settings, trial.number, setting.name)
        if isinstance(setting.values, Range):
            chosen[setting.key] = _number(trial, setting.name, setting.values)
            continue
        texts = [json.dumps(option.value) for option in setting.values]
        option = setting.values[texts.index(trial.suggest_categorical(setting.name, texts))]
        chosen |= {setting.key: option.value, **suggest(study, trial, option.inner, settings)}
    return chosen


def _number(trial: Trial, name: str, range: Range) -> float:
    if range.kind == "int":
        return trial.suggest_int(name, int(range.low), int(range.high))
    x = float(f"{trial.suggest_float(name, range.low, range.high, log=range.kind == 'log'):.4g}")
    return min(max(x, range.low), range.high)  # rounding to four digits may cross an end


def behind(looks: Mapping[int, float], finished: Sequence[Mapping[int, float]]) -> bool:
    """Whether a trial is worse than the median of finished ones that had learned as many rows; each at its best look.

    Args:
        looks: Rows learned → validation logloss.
        finished: The same, of each finished trial.
    """
    rows = max(looks)
    peers = [min(early) for other in finished if (early := [loss for r, loss in other.items() if r <= rows])]
    return len(looks) >= _LOOKS and len(peers) >= _PEERS and min(looks.values()) > statistics.median(peers)


def of_the_machine(error: Exception) -> bool:
    """Whether every trial would fail likewise, as on a full disk: the sweep stops, and later resumes this trial."""
    full = isinstance(error, OSError) and disk_full(error)
    return _of_study(error) or full or str(error).startswith("tracking.uri: ")


def _of_study(error: Exception) -> bool:
    """Whether study.db could not be read or written: an error of Optuna's storage, or of SQLAlchemy below it."""
    return isinstance(error, optuna.exceptions.StorageInternalError) or type(error).__module__.startswith("sqlalchemy.")


@dataclass(frozen=True)
class Search:
    """A search, and what it needs to run trials.

    Args:
        folder: The sweep's folder, with the folders `default`, `0`, `1` … of its trials.
        settings: How to search.
        execute: Runs a trial: the settings that it tries, its folder and a reporter → its result.json.
        reporter: Is told of each trial's progress, and can stop the sweep.
        tell: Is called with each trial that is done; with None for the default.
        unchanged: Is called before each trial; raises an error if the table is not that of the default any more.
    """

    folder: Path
    settings: Settings
    execute: Callable[[Mapping[str, Any], Path, Reporter], Path]
    reporter: Reporter
    tell: Callable[[optuna.Study, FrozenTrial | None], None]
    unchanged: Callable[[], None] = lambda: None

    def run(self, study: optuna.Study) -> None:
        """Run the default, then trials until there are as many as wanted.

        Raises:
            Cancelled: If the sweep is stopped.
            ConfigError: If every one of the first trials fails.
            DataError: If the table changes, or study.db cannot be written.
        """
        try:
            self._run(study)
        except Exception as error:
            if not _of_study(error):
                raise
            raise DataError(
                f"{self.folder / 'study.db'}: expected to write the trials there for {_WAIT} s; another program holds "
                f"it, or the disk is full: recsys sweep resume={self.folder.name} goes on"
            ) from error

    def _run(self, study: optuna.Study) -> None:
        default = self._default(study)
        self.tell(study, None)
        failures: list[str] = []
        while (trial := self._next(study)) is not None:
            self.unchanged()
            self._try(study, trial, default)
            done = study.trials[trial.number]
            self.tell(study, done)
            failures += [done.user_attrs["error"]] if done.state == TrialState.FAIL else []
            if len(failures) >= _FAILURES and not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                raise ConfigError(self._common(failures))

    def _default(self, study: optuna.Study) -> Figures:
        """Figures of the run without changes; from the study if it has them."""
        if known := study.user_attrs.get("default"):
            return Figures(**known)
        folder, seen = self.folder / "default", float(study.user_attrs.get("step_seconds", math.nan))

        def look(rows: int, logloss: float, step_seconds: float) -> bool:
            study.set_user_attr("step_seconds", step_seconds)
            return False

        figures = self._figures({}, folder, Watch(look, self.reporter), seen)
        study.set_user_attr("default", asdict(figures))
        return figures

    def _next(self, study: optuna.Study) -> Trial | None:
        """The interrupted trial if there is one; else a new one; None if there are enough."""
        if cut_off := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            id = cut_off[0]._trial_id  # pyright: ignore[reportPrivateUsage]  # the only name that Trial takes
            return Trial(study, id)
        return study.ask() if len(study.get_trials(deepcopy=False)) < self.settings.trials else None

    def _try(self, study: optuna.Study, trial: Trial, default: Figures) -> None:
        """Run one trial and tell Optuna; a failure is noted, and the search goes on."""
        changes = suggest(study, trial, read_space(self.settings.space), self.settings)
        trial.set_user_attr("changes", changes)
        begun = int(trial.user_attrs.get("begun", 0)) + 1
        trial.set_user_attr("begun", begun)
        if begun > _ATTEMPTS:
            trial.set_user_attr("error", f"begun {_ATTEMPTS} times, and the process was killed each time")
            study.tell(trial, state=TrialState.FAIL)
            return
        watch, folder = Watch(self._look(study, trial), self.reporter), self.folder / str(trial.number)
        seen = float(trial.user_attrs.get("step_seconds", math.nan))
        try:
            figures = self._figures(changes, folder, watch, seen)
        except Cancelled:
            if not watch.stopped:
                raise
            study.tell(trial, state=TrialState.PRUNED)
        except Exception as error:  # of any library: a bug in one trial must not lose the others
            if of_the_machine(error):
                raise
            trial.set_user_attr("error", in_one_line(error) or type(error).__name__)
            study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("figures", asdict(figures))
            study.tell(trial, objective(figures, default, self.settings))
            return
        if (folder / "train" / CHECKPOINTS).exists():
            remove_folder(folder / "train" / CHECKPOINTS)

    def _look(self, study: optuna.Study, trial: Trial) -> Callable[[int, float, float], bool]:
        """A function that notes a look of the trial → whether it is behind the finished ones."""
        finished = [t.intermediate_values for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        looks = dict(study.trials[trial.number].intermediate_values)

        def look(rows: int, logloss: float, step_seconds: float) -> bool:
            trial.set_user_attr("step_seconds", step_seconds)
            if self.settings.objective == "pareto":  # Optuna takes no looks then
                return False
            if rows not in looks:
                trial.report(logloss, rows)
            looks[rows] = logloss
            return behind(looks, finished)

        return look

    def _figures(self, changes: Mapping[str, Any], folder: Path, watch: Watch, step_seconds: float) -> Figures:
        """Run a trial, or the default → its figures.

        Args:
            changes: Settings that differ from the default.
            folder: The run's.
            watch: Reporter that times the run's steps.
            step_seconds: Median before the run was interrupted, NaN if it was not.
        """
        folder.mkdir(parents=True, exist_ok=True)
        trained = read_result(self.execute(changes, folder, watch)).stages["train"]
        figures = trained.metrics or {}
        per_step = watch.step_seconds if math.isfinite(watch.step_seconds) else step_seconds
        seconds = figures["best_step"] * per_step
        if not math.isfinite(seconds):  # killed between the last look and this line, or one step in all
            seconds = trained.seconds or 0.0
        return Figures(
            figures["valid_logloss"], max(seconds, 1e-6), figures["table_bytes"] + 4 * figures["dense_parameters"]
        )

    def _common(self, failures: Sequence[str]) -> str:
        """The cause that most failures share, apart from numbers in it."""
        alike = [re.sub(r"\d[\d.,]*", "#", failure) for failure in failures]
        (cause, count), *_ = Counter(alike).most_common(1)
        example = failures[alike.index(cause)]
        return (
            f"the first {len(failures)} trials failed, {count} of them by: {example}: mend that, or leave it out of "
            f"search.space, and begin a new sweep; {self.folder.name}/0/log.txt has more"
        )

"""The trials of a sweep: Optuna suggests settings, a run trains with them, and Optuna is told the result.

study.db in the sweep's folder holds every trial, so that a killed sweep can go on: finished trials stay, and the
interrupted one resumes from the checkpoint of its run.
"""

import hashlib
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from pipelines.stage import CHECKPOINTS
from pipelines.sweep.executor import NotOfTheTrial, Several, Watch, at_once
from pipelines.sweep.settings import Settings
from pipelines.sweep.space import Range, Space, read_space
from recsys.errors import Cancelled, ConfigError, DataError, in_one_line
from recsys.events import Reporter
from recsys.files import disk_full, remove_folder
from recsys.results import read_result

__all__ = ["Figures", "Search", "behind", "objective", "of_the_machine", "open_study", "suggest"]

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
    return TPESampler(seed=seed, multivariate=False, constant_liar=True)  # trials that run count as bad ones


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
    return _of_study(error) or full or isinstance(error, NotOfTheTrial) or str(error).startswith("tracking.uri: ")


def _of_study(error: Exception) -> bool:
    """Whether study.db could not be read or written: an error of Optuna's storage, or of SQLAlchemy below it."""
    return isinstance(error, optuna.exceptions.StorageInternalError) or type(error).__module__.startswith("sqlalchemy.")


@dataclass(frozen=True)
class Search:
    """A search, and what it needs to run trials.

    Args:
        folder: The sweep's folder, with the folders `default`, `0`, `1` … of its trials.
        settings: How to search.
        execute: Runs a trial: the settings that it tries, its folder and its watch → its result.json.
        reporter: Is told of each trial's progress, and can stop the sweep.
        tell: Is called with each trial that is done; with None for the default.
        unchanged: Is called before each trial; raises an error if the table is not that of the default any more.
        several: How many trials `execute` may run at once; None is one at a time, in this process.
    """

    folder: Path
    settings: Settings
    execute: Callable[[Mapping[str, Any], Path, Watch], Path]
    reporter: Reporter
    tell: Callable[[optuna.Study, FrozenTrial | None], None]
    unchanged: Callable[[], None] = lambda: None
    several: Several | None = None

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
        with closing(at_once(self._jobs(study, default), self.several)) as ended:
            for number in ended:
                done = study.trials[number]
                self.tell(study, done)
                failures += [done.user_attrs["error"]] if done.state == TrialState.FAIL else []
                if len(failures) >= _FAILURES and not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                    raise ConfigError(self._common(failures))

    def _jobs(self, study: optuna.Study, default: Figures) -> Iterator[Callable[[], int]]:
        """A function for each trial that is not done, which runs it → its number."""
        for trial in self._left(study):
            self.unchanged()
            changes = suggest(study, trial, read_space(self.settings.space), self.settings)
            trial.set_user_attr("changes", changes)
            yield partial(self._try, study, trial, changes, default)

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

    def _left(self, study: optuna.Study) -> Iterator[Trial]:
        """The interrupted trials, then new ones until there are enough."""
        for cut_off in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            id = cut_off._trial_id  # pyright: ignore[reportPrivateUsage]  # the only name that Trial takes
            yield Trial(study, id)
        while len(study.get_trials(deepcopy=False)) < self.settings.trials:
            yield study.ask()

    def _kills(self, trial: Trial) -> bool:
        """Whether a trial has killed this process too often; what runs elsewhere can kill its own alone."""
        begun = int(trial.user_attrs.get("begun", 0)) + 1
        trial.set_user_attr("begun", begun)
        return begun > _ATTEMPTS and self.several is None

    def _try(self, study: optuna.Study, trial: Trial, changes: Mapping[str, Any], default: Figures) -> int:
        """Run one trial and tell Optuna → its number; a failure is noted, and the search goes on."""
        if self._kills(trial):
            trial.set_user_attr("error", f"begun {_ATTEMPTS} times, and the process was killed each time")
            study.tell(trial, state=TrialState.FAIL)
            return trial.number
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
            return trial.number
        if (folder / "train" / CHECKPOINTS).exists():
            remove_folder(folder / "train" / CHECKPOINTS)
        return trial.number

    def _look(self, study: optuna.Study, trial: Trial) -> Callable[[int, float, float], bool]:
        """A function that notes a look of the trial → whether it is behind the finished ones."""
        looks = dict(study.trials[trial.number].intermediate_values)

        def look(rows: int, logloss: float, step_seconds: float) -> bool:
            trial.set_user_attr("step_seconds", step_seconds)
            if self.settings.objective == "pareto":  # Optuna takes no looks then
                return False
            if rows not in looks:
                trial.report(logloss, rows)
            looks[rows] = logloss
            finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            return behind(looks, [t.intermediate_values for t in finished])

        return look

    def _figures(self, changes: Mapping[str, Any], folder: Path, watch: Watch, step_seconds: float) -> Figures:
        """Run a trial, or the default → its figures.

        Args:
            changes: Settings that differ from the default.
            folder: The run's.
            watch: Reporter that times the run's steps.
            step_seconds: Median before the run was interrupted, NaN if it was not.
        """
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

"""The results of a sweep: sweep.json, and what its page and the screen show."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from pipelines.sweep.settings import Settings
from pipelines.sweep.trials import Figures
from recsys.files import Json, write_json
from recsys.selection.reports.report import Difference

__all__ = ["Swept", "Tried", "front", "summarise"]

VERSION = 1  # of sweep.json
_STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
_LEAST = 10  # finished trials, to say which settings matter


@dataclass(frozen=True)
class Tried:
    """A trial.

    Args:
        number: Counts from 0; the name of its folder.
        state: `finished`, `stopped early` (it was behind the others) or `failed`.
        changes: Settings that it tried, by key.
        figures: Its figures, if it is finished.
        objective: What the study minimises, if it is finished; in a search for a front, its logloss.
        looks: Rows learned → validation logloss, if a trial may be stopped early.
        error: Why it failed.
    """

    number: int
    state: str
    changes: Json
    figures: Figures | None = None
    objective: float | None = None
    looks: dict[int, float] = field(default_factory=dict[int, float])
    error: str = ""


@dataclass(frozen=True)
class Swept:
    """A sweep.

    Args:
        id: Id of the sweep.
        data: Name of its data.
        settings: Settings of the search.
        default: Figures of the run without changes.
        trials: All trials, in order of their numbers.
        front: Finished trials that no other one beats in logloss, seconds and bytes at once.
        importance: Setting → its share in what distinguishes good trials from others; empty if there are too few.
        best: Number of the winner: the trial with the lowest objective or, once finalists are trained, the best
            finalist; None if the default is better.
        finals: `default`, or a finalist's number → validation logloss for each seed.
        by_seed: Metric of test → name, `best` or `default` → a value for each seed, if the best was trained again.
        change: Metric of test → best − default, paired.
        beside: Whether trials ran beside each other, which slows them down: then their seconds do not compare.
    """

    id: str
    data: str
    settings: Settings
    default: Figures
    trials: list[Tried]
    front: list[int]
    importance: dict[str, float]
    best: int | None
    finals: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    by_seed: dict[str, dict[str, list[float]]] = field(default_factory=dict[str, dict[str, list[float]]])
    change: dict[str, Difference] = field(default_factory=dict[str, Difference])
    beside: bool = False

    def trial(self, number: int | None) -> Tried | None:
        """The trial of a number; None if it is not done, as an earlier one may be that runs beside others."""
        return next((t for t in self.trials if t.number == number), None)

    @property
    def winner(self) -> Tried | None:
        """The trial `best`."""
        return self.trial(self.best)

    def write(self, folder: Path) -> Path:
        """Write sweep.json → its path."""
        return write_json(folder / "sweep.json", asdict(self), VERSION)


def front(figures: Mapping[int, Figures]) -> list[int]:
    """The trials for which no other one is at least as good in all figures and better in one."""

    def beaten(number: int) -> bool:
        mine = tuple(asdict(figures[number]).values())
        others = [tuple(asdict(f).values()) for n, f in figures.items() if n != number]
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in others)

    return [number for number in figures if not beaten(number)]


def _tried(trial: FrozenTrial) -> Tried:
    attributes: Mapping[str, Any] = trial.user_attrs
    return Tried(
        trial.number,
        _STATES[trial.state],
        attributes.get("changes", {}),
        Figures(**attributes["figures"]) if "figures" in attributes else None,
        trial.values[0] if trial.state == TrialState.COMPLETE else None,
        dict(trial.intermediate_values),
        attributes.get("error", ""),
    )


def _importance(study: optuna.Study, finished: Sequence[Tried]) -> dict[str, float]:
    """PED-ANOVA: how much each setting distinguishes the best tenth of trials from the others; empty if too few."""
    if len(finished) < _LEAST or len({t.objective for t in finished}) == 1:
        return {}
    with warnings.catch_warnings():  # it warns that low values count as good, which is right here
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=lambda t: t.values[0])
    return {name: float(share) for name, share in shares.items()}


def summarise(study: optuna.Study, settings: Settings, id: str, data: str) -> Swept:
    """Read the results of a study."""
    trials = [_tried(t) for t in study.trials if t.state in _STATES]
    finished = [t for t in trials if t.objective is not None]
    default = Figures(**study.user_attrs["default"])
    best = min(finished, key=lambda t: t.objective or 0.0, default=None)
    better = best if best and best.objective is not None and best.objective < default.logloss else None
    return Swept(
        id, data, settings, default, trials,
        front({t.number: t.figures for t in finished if t.figures}),
        _importance(study, finished), better.number if better else None,
    )  # fmt: skip

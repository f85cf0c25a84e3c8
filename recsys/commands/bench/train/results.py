"""Figures of `recsys bench train`: rates, and ratios of turns that stood side by side; kept by commit."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recsys.commands.bench.train.cases import FLOOR, OURS
from recsys.commands.bench.train.sides import Turn
from recsys.errors import DataError
from recsys.files import read_json, write_json

__all__ = [
    "VERSION",
    "CaseFigures",
    "Kept",
    "Measured",
    "Middle",
    "WholeRun",
    "keep",
    "middle",
    "ratios",
    "read_kept",
]

VERSION = 1  # of benchmarks/results/train/*.json


@dataclass(frozen=True)
class Middle:
    """The median of some figures, and their quartiles."""

    median: float
    low: float
    high: float


def middle(values: Sequence[float]) -> Middle:
    """The median and the quartiles; of one figure, itself."""
    if len(values) == 1:
        return Middle(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Middle(median, low, high)


@dataclass(frozen=True)
class Measured:
    """A side of a case in one mode.

    Args:
        steps: Steps of a turn.
        seconds: Of each turn.
        peak_bytes: Peak of the process's resident memory.
        anonymous_bytes: Its memory after the last turn, without files that are mapped.
    """

    steps: int
    seconds: list[float]
    peak_bytes: int
    anonymous_bytes: int

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> "Measured":
        """The figures of a side's turns."""
        last = turns[-1]
        return cls(last.steps, [t.seconds for t in turns], last.peak_bytes, last.anonymous_bytes)

    def rates(self, batch: int) -> list[float]:
        """Rows a second of each turn."""
        return [self.steps * batch / s for s in self.seconds]


@dataclass(frozen=True)
class CaseFigures:
    """One case.

    Args:
        batch: Rows a step.
        sides: Side → mode (`memory`, `loader`, `padded`) → its turns; turn i of all sides stood side by side.
        about: Side → what it says of itself.
        missing: Side → why there are no figures of it.
    """

    batch: int
    sides: dict[str, dict[str, Measured]]
    about: dict[str, dict[str, Any]]
    missing: dict[str, str]

    def rate(self, side: str, mode: str = "memory") -> Middle:
        """Rows a second."""
        return middle(self.sides[side][mode].rates(self.batch))

    def over(self, side: str, other: str, mode: str = "memory", other_mode: str | None = None) -> Middle | None:
        """How many times as fast one side is as another, turn by turn; None if one of them was not measured."""
        ours = self.sides.get(side, {}).get(mode)
        theirs = self.sides.get(other, {}).get(other_mode or mode)
        if ours is None or theirs is None:
            return None
        pairs = zip(ours.rates(self.batch), theirs.rates(self.batch), strict=True)
        return middle([a / b for a, b in pairs])


@dataclass(frozen=True)
class WholeRun:
    """A run by `recsys run`, with loading, evaluation and MLflow.

    Args:
        first_step_seconds: From the command to the first step, of each run.
        rates: Rows a second from the first step to the end of the last look at validation, of each run.
        memory_rates: Rows a second of steps in memory, before the first run and after each.
    """

    first_step_seconds: list[float]
    rates: list[float]
    memory_rates: list[float]

    @property
    def share(self) -> Middle:
        """Rate of each run, over the mean of the rates in memory before and after it."""
        around = zip(self.memory_rates, self.memory_rates[1:], strict=False)
        return middle([r / ((a + b) / 2) for r, (a, b) in zip(self.rates, around, strict=True)])


def ratios(figures: CaseFigures) -> dict[str, Middle]:
    """What a case compares: each precision of ours with every other side, and with its own floor."""
    compared: dict[str, Middle | None] = {}
    for side in figures.sides:
        part, _, precision = side.partition(" ")
        if part != OURS:
            continue
        for other in figures.sides:
            if other == f"{FLOOR} {precision}":
                compared[f"{side} / {other}"] = figures.over(side, other)
                compared[f"{side} / {other}, padded"] = figures.over(side, other, "memory", "padded")
            elif other.partition(" ")[0] not in (OURS, FLOOR):
                compared[f"{side} / {other}"] = figures.over(side, other)
                compared[f"{side} / {other}, loaders"] = figures.over(side, other, "loader")
        compared[f"{side} loader / memory"] = figures.over(side, side, "loader", "memory")
    return {name: value for name, value in compared.items() if value is not None}


def keep(path: Path, record: Mapping[str, Any], cases: Mapping[str, CaseFigures], run: WholeRun | None) -> None:
    """Write the figures of a benchmark.

    Args:
        path: The file; its folder is made.
        record: Date, commit, machine, versions, load.
        cases: Name → figures.
        run: The whole run, if it was measured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**record, "cases": {n: asdict(c) for n, c in cases.items()}, "run": run and asdict(run)}, VERSION)


@dataclass(frozen=True)
class Kept:
    """What `keep` wrote."""

    record: dict[str, Any]
    cases: dict[str, CaseFigures]
    run: WholeRun | None


def read_kept(path: Path) -> Kept:
    """Read what `keep` wrote.

    Raises:
        DataError: If it is damaged, or of another version.
    """
    value = read_json(path, "figures of bench train", "measure that commit again", VERSION)
    try:
        cases = {name: _case(figures) for name, figures in value.pop("cases").items()}
        run = value.pop("run")
        return Kept(value, cases, run and WholeRun(**run))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: expected figures of bench train, got other keys: {error}: remove it") from error


def _case(value: dict[str, Any]) -> CaseFigures:
    sides = {s: {m: Measured(**v) for m, v in modes.items()} for s, modes in value["sides"].items()}
    return CaseFigures(value["batch"], sides, value["about"], value["missing"])

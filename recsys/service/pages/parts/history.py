"""How a sweep went: each run's figure in order, the best so far, and which settings explain the figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from recsys.service.pages.parts.charts import Axis, nice_axis
from recsys.service.pages.parts.words import shown

__all__ = ["History", "history", "importance"]

_LEAST = 6  # runs with figures, to say which settings matter
_BINS = 4  # of a setting with many numbers


@dataclass(frozen=True)
class History:
    """The figure of each run by its number.

    Args:
        name: Name of the figure.
        points: Run → its figure.
        steps: Corners of the line of the best figure so far.
        x: Axis of runs.
        y: Axis of figures.
    """

    name: str
    points: dict[int, float]
    steps: list[tuple[int, float]]
    x: Axis
    y: Axis


def history(values: Sequence[float | None], higher: bool, name: str) -> History | None:
    """The history of a sweep; None if fewer than two runs have the figure.

    Args:
        values: The figure of each run, in order.
        higher: Whether more is better.
        name: Name of the figure.
    """
    points = {i: v for i, v in enumerate(values) if v is not None}
    if len(points) < 2:
        return None
    steps, record = list[tuple[int, float]](), next(iter(points.values()))
    for i, value in points.items():
        before, record = record, max(record, value) if higher else min(record, value)
        steps += [(i, before), (i, record)]
    return History(name, points, steps, nice_axis(list(points), 5), nice_axis(list(points.values())))


def importance(
    settings: Sequence[Mapping[str, Any]], values: Sequence[float | None], given: Any = None
) -> list[tuple[str, float]]:
    """Setting → share of the figure's variance that its values alone explain, the largest first.

    η² = Σ_g n_g (mean_g − mean)² / Σ_i (y_i − mean)²: numbers with many values are put into four bins of equal size
    first. It is corrected for the count of bins, as ω² is, so that noise explains nothing on average.

    Args:
        settings: Of each run, the settings that differ.
        values: The figure of each run; those without are left out.
        given: What the sweep itself says (sweep.json): setting → share; it is shown instead.

    Source: Hays, Statistics for Psychologists, 1963, ω².
    """
    if isinstance(given, Mapping) and given:
        pairs = [(str(k), float(v)) for k, v in given.items() if isinstance(v, int | float)]
        return sorted(pairs, key=lambda p: -p[1])
    rows = [(s, v) for s, v in zip(settings, values, strict=True) if v is not None]
    if len(rows) < _LEAST:
        return []
    y = [v for _, v in rows]
    mean = fmean(y)
    total = sum((v - mean) ** 2 for v in y)
    shares: dict[str, float] = {}
    for key, labels in _apart([s for s, _ in rows]).items():
        groups = [[v for at, v in zip(labels, y, strict=True) if at == label] for label in set(labels)]
        between, spare = sum(len(g) * (fmean(g) - mean) ** 2 for g in groups), len(y) - len(groups)
        if total and spare > 0:
            within = (total - between) / spare
            shares[key] = max(0.0, (between - (len(groups) - 1) * within) / (total + within))
    return sorted(shares.items(), key=lambda p: -p[1])


def _apart(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Keys that tell runs apart → the group of each run; of those that tell the same apart, the first."""
    by_groups: dict[tuple[int, ...], str] = {}
    for key in dict.fromkeys(k for s in settings for k in s):
        labels = _labels([s.get(key) for s in settings])
        groups = tuple(labels.index(label) for label in labels)
        if any(groups):
            by_groups.setdefault(groups, key)
    return {key: groups for groups, key in by_groups.items()}


def _labels(x: Sequence[Any]) -> list[Any]:
    """The group of each run by its value of a setting; numbers that seldom repeat are put in bins of equal size."""
    given = [i for i, v in enumerate(x) if v is not None]
    numbers = all(isinstance(x[i], int | float) and not isinstance(x[i], bool) for i in given)
    if not numbers or len({x[i] for i in given}) <= min(2 * _BINS, len(x) // 2):
        return [shown(v) for v in x]
    bins = {i: _BINS * place // len(given) for place, i in enumerate(sorted(given, key=lambda i: x[i]))}
    return [bins.get(i) for i in range(len(x))]

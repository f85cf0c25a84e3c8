"""How a sweep went: each run's figure in order, the best so far, and which settings explain the figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from recsys.service.pages.parts.charts import Axis, nice_axis
from recsys.service.pages.parts.words import shown

__all__ = ["History", "Share", "history", "importance"]

_LEAST = 6  # runs with the figure and the setting, to say whether it matters
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


@dataclass(frozen=True)
class Share:
    """How much a setting matters.

    Args:
        key: The setting.
        share: Its share, of what the caption says; a setting that explains less than noise would has one below 0.
        runs: How many runs it is of.
    """

    key: str
    share: float
    runs: int


def importance(settings: Sequence[Mapping[str, Any]], values: Sequence[float | None]) -> list[Share]:
    """Share of the figure's variance that the values of each setting alone explain, the largest first.

    ω² = (SS_between − (G − 1)·MS_within) / (SS_total + MS_within), MS_within = (SS_total − SS_between) / (n − G), of n
    runs in G groups by their value: numbers that seldom repeat are put into four bins of equal size first. It may be
    negative, and is about 0 on average for a setting that does nothing. Runs that lack the setting are left out: a
    setting of one model is judged among the runs of that model, if they are six or more.

    Args:
        settings: Of each run, the settings that differ.
        values: The figure of each run; those without are left out.

    Source: Hays, Statistics for Psychologists, 1963, ω².
    """
    rows = [(s, v) for s, v in zip(settings, values, strict=True) if v is not None]
    shares = list[Share]()
    for key, groups in _apart([s for s, _ in rows]).items():
        by_group = dict[int, list[float]]()
        for group, (_, value) in zip(groups, rows, strict=True):
            if group is not None:
                by_group.setdefault(group, []).append(value)
        share, count = _omega_squared(list(by_group.values())), sum(map(len, by_group.values()))
        if share is not None and count >= _LEAST:
            shares.append(Share(key, share, count))
    return sorted(shares, key=lambda s: -s.share)


def _omega_squared(groups: Sequence[Sequence[float]]) -> float | None:
    """ω² of groups; None if there are not two, none repeats, or all figures are the same."""
    y = [v for group in groups for v in group]
    spare = len(y) - len(groups)
    if len(groups) < 2 or spare < 1:
        return None
    mean = fmean(y)
    total = sum((v - mean) ** 2 for v in y)
    between = sum(len(g) * (fmean(g) - mean) ** 2 for g in groups)
    within = (total - between) / spare
    return (between - (len(groups) - 1) * within) / (total + within) if total > 0 else None


def _apart(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int | None, ...]]:
    """Keys that tell runs apart → the group of each run, None if it lacks the key; of like ones, the first."""
    by_groups: dict[tuple[int | None, ...], str] = {}
    for key in dict.fromkeys(k for s in settings for k in s):
        labels = _labels([s.get(key) for s in settings])
        groups = tuple(None if label is None else labels.index(label) for label in labels)
        if len(set(groups) - {None}) > 1:
            by_groups.setdefault(groups, key)
    return {key: groups for groups, key in by_groups.items()}


def _labels(x: Sequence[Any]) -> list[Any]:
    """The group of each run by its value of a setting; numbers that seldom repeat are put in bins of equal size."""
    given = [i for i, v in enumerate(x) if v is not None]
    numbers = all(isinstance(x[i], int | float) and not isinstance(x[i], bool) for i in given)
    if not numbers or len({x[i] for i in given}) <= min(2 * _BINS, len(given) // 2):
        return [None if v is None else shown(v) for v in x]
    bins = {i: _BINS * place // len(given) for place, i in enumerate(sorted(given, key=lambda i: x[i]))}
    return [bins.get(i) for i in range(len(x))]

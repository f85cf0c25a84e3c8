"""Parallel coordinates: one axis a setting or figure, one line a row, and what a reader leaves of each axis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import QueryParams

from recsys.service.pages.parts.charts import Axis, nice_axis
from recsys.service.pages.parts.words import shown

__all__ = ["Dimension", "Kept", "dimensions", "is_number", "kept_of"]

_LOG = 30.0  # largest / smallest value from which on an axis is logarithmic
_CATEGORIES = 16  # of an axis, at most


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Dimension:
    """An axis.

    Args:
        key: Name of the setting or figure.
        values: Row → its value; absent if it has none.
        categories: The texts on the axis from below; empty if it is one of numbers.
        axis: The axis of numbers, of logarithms if `log`.
        log: Whether it is logarithmic.
    """

    key: str
    values: Mapping[int, Any]
    categories: list[str]
    axis: Axis
    log: bool = False

    def share(self, row: int) -> float | None:
        """Where a row lies on the axis: 0 at its low end, 1 at its high one; None if it does not."""
        if row not in self.values:
            return None
        if self.categories:
            return (self.categories.index(shown(self.values[row])) + 0.5) / len(self.categories)
        value = float(self.values[row])
        return self.axis.share(math.log10(value) if self.log else value)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Share and text of what is written on the axis."""
        if self.categories:
            return [((i + 0.5) / len(self.categories), text) for i, text in enumerate(self.categories)]
        return [(self.axis.share(t), shown(10**t if self.log else float(t))) for t in self.axis.ticks]


def dimensions(columns: Sequence[tuple[str, Mapping[int, Any]]]) -> list[Dimension]:
    """Axes of columns that have two values at least; a column of too many texts has none."""
    drawn = (_dimension(key, values) for key, values in columns)
    return [d for d in drawn if d is not None]


def _dimension(key: str, values: Mapping[int, Any]) -> Dimension | None:
    texts = list(dict.fromkeys(shown(v) for v in values.values()))
    if len(texts) < 2:
        return None
    if not all(is_number(v) for v in values.values()):
        if len(texts) > _CATEGORIES:
            return None
        return Dimension(key, values, sorted(texts, reverse=True), Axis(0.0, 1.0, []))
    numbers = [float(v) for v in values.values()]
    log = min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG
    return Dimension(key, values, [], _log_axis(numbers) if log else nice_axis(numbers, 5), log)


def _log_axis(values: Sequence[float]) -> Axis:
    """An axis of logarithms, with ticks at 1, 3, 10, 30 …"""
    axis = nice_axis([math.log10(v) for v in values])
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    ticks = [math.log10(m * 10.0**k) for k in powers for m in (1, 3)]
    return Axis(axis.low, axis.high, [t for t in ticks if axis.low <= t <= axis.high])


@dataclass(frozen=True)
class Kept:
    """What an address leaves of the axes: `min:KEY`, `max:KEY`, `only:KEY`.

    Args:
        low: Key → least value.
        high: Key → largest value.
        only: Key → texts.
    """

    low: dict[str, float] = field(default_factory=dict[str, float])
    high: dict[str, float] = field(default_factory=dict[str, float])
    only: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def takes(self, row: int, drawn: Sequence[Dimension]) -> bool:
        """Whether a row lies inside on each axis that is narrowed."""
        return all(self._inside(row, d) for d in drawn)

    def _inside(self, row: int, axis: Dimension) -> bool:
        key = axis.key
        if axis.categories:
            return key not in self.only or (row in axis.values and shown(axis.values[row]) in self.only[key])
        if key not in self.low and key not in self.high:
            return True
        value = axis.values.get(row)
        return value is not None and self.low.get(key, -math.inf) <= value <= self.high.get(key, math.inf)


def kept_of(query: QueryParams) -> Kept:
    """What an address leaves of the axes; a bound that is no number leaves all."""
    kept = Kept()
    for name, text in query.multi_items():
        kind, _, key = name.partition(":")
        if kind == "only" and key:
            kept.only.setdefault(key, []).append(text)
        elif kind in ("min", "max") and key and text.strip():
            try:
                value = float(text)
            except ValueError:
                continue
            (kept.low if kind == "min" else kept.high)[key] = value
    return kept

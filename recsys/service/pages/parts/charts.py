"""Charts as SVG, for readers without script: the templates draw what is computed here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.files import Json

__all__ = ["PARTS", "Axis", "Chart", "Line", "charts", "line", "nice_axis"]

PARTS = (
    ("Loss", "loss"),
    ("AUC", "auc"),
)  # title of a chart, letters in the names of its figures; run.js gets them


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Args:
        low: Its lowest value.
        high: Its highest value, above `low`.
        ticks: Values that are written on it.
    """

    low: float
    high: float
    ticks: list[float]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def nice_axis(values: Sequence[float], count: int = 4) -> Axis:
    """An axis with round ticks around finite values.

    >>> nice_axis([0.12, 0.94]).ticks
    [0.2, 0.4, 0.6, 0.8]
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not high > low:
        gap = abs(low) * 0.05 or 0.5
        low, high = low - gap, high + gap
    else:
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first = math.ceil(low / step)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return Axis(low, high, [round(i * step, digits) for i in range(first, math.floor(high / step) + 1)])


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        name: Its name.
        x: Its N abscissas.
        y: Its N ordinates.
    """

    name: str
    x: list[float]
    y: list[float]


def line(name: str, x: Sequence[float], y: Sequence[float]) -> Line:
    """A line through the points that are finite."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    return Line(name, [a for a, _ in points], [b for _, b in points])


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        stage: The stage whose figures it shows.
        title: What it shows.
        lines: Its lines, of which one at least has a point.
        x: Its abscissa.
        y: Its ordinate.
    """

    stage: str
    title: str
    lines: list[Line]
    x: Axis
    y: Axis

    def points(self, drawn: Line) -> str:
        """The points of a line in a box of 100 by 100, as SVG wants them."""
        pairs = zip(drawn.x, drawn.y, strict=True)
        return " ".join(f"{100 * self.x.share(a):.2f},{100 - 100 * self.y.share(b):.2f}" for a, b in pairs)


def charts(shown: Json) -> list[Chart]:
    """Charts of what `Curves.of` gives: of each stage its losses, and its AUCs."""
    drawn: list[Chart] = []
    for stage, figures in shown.items():
        for title, part in PARTS:
            lines = [line(name, f["steps"], f["values"]) for name, f in figures.items() if part in name]
            lines = [one for one in lines if one.x]
            if lines:
                x = nice_axis([v for one in lines for v in one.x], 5)
                y = nice_axis([v for one in lines for v in one.y])
                drawn.append(Chart(stage, title, lines, x, y))
    return drawn

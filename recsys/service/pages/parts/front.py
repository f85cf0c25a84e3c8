"""A scatter of two figures with its Pareto front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.service.figures import is_higher_better
from recsys.service.pages.parts.charts import Axis, nice_axis

__all__ = ["Scatter", "scatter"]


@dataclass(frozen=True)
class Scatter:
    """A scatter.

    Args:
        x: Name of the figure to the right.
        y: Name of the figure upwards.
        points: Row → its two figures.
        front: Rows that no other one beats in one figure without being worse in the other, from left to right.
        across: The axis of x.
        upwards: The axis of y.
    """

    x: str
    y: str
    points: dict[int, tuple[float, float]]
    front: list[int]
    across: Axis
    upwards: Axis

    def place(self, row: int) -> tuple[float, float]:
        """Where a point lies in a box of 100 by 100, from above left."""
        a, b = self.points[row]
        return 100 * self.across.share(a), 100 - 100 * self.upwards.share(b)


def scatter(x: str, y: str, figures: Sequence[Mapping[str, float]]) -> Scatter | None:
    """A scatter of rows that have both figures; None if there are not two."""
    points = {row: (f[x], f[y]) for row, f in enumerate(figures) if x in f and y in f}
    if len(points) < 2 or x == y:
        return None
    signs = [-1.0 if is_higher_better(name) else 1.0 for name in (x, y)]
    costs = {row: (signs[0] * a, signs[1] * b) for row, (a, b) in points.items()}
    front, best = list[int](), (float("inf"), float("inf"))
    for row in sorted(costs, key=costs.__getitem__):  # by cost of x: a row is on the front if its cost of y is a record
        if costs[row][1] < best[1] or costs[row] == best:  # equal rows beat each other in nothing
            front.append(row)
            best = costs[row]
    front.sort(key=lambda row: points[row][0])
    across, upwards = (nice_axis([p[i] for p in points.values()]) for i in (0, 1))
    return Scatter(x, y, points, front, across, upwards)

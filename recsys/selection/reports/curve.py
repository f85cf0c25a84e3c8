"""Metrics of models retrained on the top k fields, over a grid of k. F fields, K points, S seeds."""

from collections.abc import Sequence

import numpy as np

from recsys.errors import ConfigError
from recsys.selection.reports.agreement import area, mean_with_interval
from recsys.selection.reports.report import Curve, CurveSummary

__all__ = ["checked_grid", "curve_summary"]

_SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)


def checked_grid(grid: Sequence[int] | None, fields: int) -> list[int]:
    """The counts of fields to retrain on; None takes an eighth, a quarter, a half and three quarters of F.

    Raises:
        ConfigError: If it does not increase, or leaves the range 1 to F.
    """
    if grid is None:
        return sorted({max(1, round(s * fields)) for s in _SHARES})
    if not grid or list(grid) != sorted(set(grid)) or not 1 <= grid[0] <= grid[-1] <= fields:
        raise ConfigError(f"benchmark.grid: expected climbing counts of fields from 1 to {fields}, got {list(grid)}")
    return list(grid)


def curve_summary(curve: Curve, within: float = 0.001) -> CurveSummary:
    """A curve of test metrics in a few numbers, each a mean and, with two seeds or more, its 95 % interval.

    Args:
        curve: A curve over K counts of fields.
        within: Tolerated difference from all fields, in units of the metric.

    Returns:
        at_k, k → figure; area, AUKC: the trapezoid of the metric over the grid divided by
        k_max − k_min (a grid of one k has none); kept_change, kept − full paired over seeds; full;
        smallest_k, the first whose mean is within `within` of all fields' (None if none is).

    Source: AUKC is ERASE's, KDD 2024, section 4; the division makes it a mean of the metric.
    """
    seeds, grid = list(curve["by_seed"]), curve["grid"]
    value_SK = np.array([curve["by_seed"][s] for s in seeds])
    sign = -1 if curve["metric"] == "logloss" else 1
    full = mean_with_interval([curve["full"][s] for s in seeds])
    near = [k for k, v in zip(grid, value_SK.mean(0), strict=True) if sign * (full["mean"] - v) <= within]
    return {
        "at_k": {str(k): mean_with_interval(value_SK[:, i]) for i, k in enumerate(grid)},
        "area": mean_with_interval(area(grid, value_SK)) if len(grid) > 1 else None,
        "kept_change": mean_with_interval([curve["kept"][s] - curve["full"][s] for s in seeds]),
        "full": full,
        "smallest_k": near[0] if near else None,
    }

"""How far rankings, kept sets and curves agree. M runs, F fields, K points of a grid, S seeds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import hypergeom, t

__all__ = ["area", "jaccard", "jaccard_by_chance", "mean_with_interval", "paired_curves", "rbo", "stability"]


def rbo(a: Sequence[str], b: Sequence[str], p: float = 0.9) -> float:
    """Rank-biased overlap of two rankings of the same names, 1 if they are equal.

    (1 − p)·Σ_d p^(d−1)·|A_d ∩ B_d| / d, divided by its value for equal rankings of this length, so
    that a short list can reach 1. With p = .9 the top ten carry .86 of the weight.

    Source: Webber, Moffat and Zobel, 2010, equation 4; the division is ours.
    """
    weights = [p**d for d in range(len(a))]
    in_a, in_b, shared, agree = set[str](), set[str](), 0, list[float]()
    for d, (x, y) in enumerate(zip(a, b, strict=True), 1):
        shared += (x == y) + (x != y and x in in_b) + (x != y and y in in_a)
        in_a.add(x)
        in_b.add(y)
        agree.append(shared / d)
    return sum(w * x for w, x in zip(weights, agree, strict=True)) / sum(weights)


def jaccard(a: Sequence[str], b: Sequence[str], k: int) -> float:
    """|top k of A ∩ top k of B| / |top k of A ∪ top k of B|."""
    top_a, top_b = set(a[:k]), set(b[:k])
    return len(top_a & top_b) / len(top_a | top_b)


def jaccard_by_chance(k: int, total: int) -> float:
    """Mean of Jaccard@k between two random rankings: Σ_m P(m in common)·m / (2k − m)."""
    shared = np.arange(k + 1)
    return float(np.sum(hypergeom(total, k, k).pmf(shared) * shared / (2 * k - shared)))


def stability(kept_MF: np.ndarray) -> dict[str, float] | None:
    """How alike M sets of kept fields are: 1 if equal, 0 on average if drawn at random.

    Φ = 1 − (1/F)·Σ_f s_f² / ((k̄/F)·(1 − k̄/F)), with s_f² the unbiased variance of "f is kept" and
    k̄ the mean count; the interval is Φ ± 1.96·√v, v = 4/M²·Σ_i (φ_i − φ̄)².

    Args:
        kept_MF: 0 and 1.

    Returns:
        index, and for M ≥ 3 low and high (95 %, at most 1); None where every run keeps all, or none.

    Source: Nogueira, Sechidis and Brown, 2018, definition 4 and corollary 9.
    """
    kept_MF = np.asarray(kept_MF, np.float64)
    runs, fields = kept_MF.shape
    share_F, count_M = kept_MF.mean(0), kept_MF.sum(1)
    mean = float(count_M.mean()) / fields
    if runs < 2 or mean in (0.0, 1.0):
        return None
    chance = mean * (1 - mean)
    index = 1 - float(np.mean(runs / (runs - 1) * share_F * (1 - share_F))) / chance
    if runs < 3:
        return {"index": index}
    part_M = kept_MF @ share_F / fields - count_M * mean / fields
    part_M += index / 2 * (2 * mean * count_M / fields - count_M / fields - mean + 1)
    phi_M = part_M / chance
    error = math.sqrt(4 / runs**2 * float(np.sum((phi_M - phi_M.mean()) ** 2)))
    return {"index": index, "low": index - 1.96 * error, "high": min(1.0, index + 1.96 * error)}


def mean_with_interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, and from two values on their deviation and the mean's 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean}
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return {"mean": mean, "deviation": deviation, "low": mean - half, "high": mean + half}


def area(grid: Sequence[int], value_SK: np.ndarray) -> np.ndarray:
    """Trapezoid over the grid divided by k_max − k_min → [S]: a mean of the values."""
    return np.trapezoid(value_SK, np.asarray(grid, np.float64), axis=1) / (grid[-1] - grid[0])


def paired_curves(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any] | None:
    """B − A of a retrained metric at each k and of its area, over the seeds that both have.

    Args:
        a: metric; grid, K increasing counts of fields; by_seed, seed → K values.
        b: The same form, on the same grid.

    Returns:
        seeds, at_k (k → mean and interval) and area, see `area` (a grid of one k has none).
        None if no seed is shared: nothing can be paired.
    """
    seeds = [s for s in a["by_seed"] if s in b["by_seed"]]
    if not seeds:
        return None
    change_SK = np.array([b["by_seed"][s] for s in seeds]) - np.array([a["by_seed"][s] for s in seeds])
    found: dict[str, Any] = {"metric": a["metric"], "seeds": seeds}
    found["at_k"] = {k: mean_with_interval(change_SK[:, i]) for i, k in enumerate(a["grid"])}
    if len(a["grid"]) > 1:
        found["area"] = mean_with_interval(area(a["grid"], change_SK))
    return found

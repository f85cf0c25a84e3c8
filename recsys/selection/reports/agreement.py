"""Agreement of rankings, kept sets and curves. M runs, F fields, K points of a grid, S seeds, R test rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from scipy.stats import hypergeom, norm, t

from recsys.evaluation.metrics import losses, sigmoid
from recsys.selection.reports.report import Curve, Difference, Mean

__all__ = [
    "PairedCurves",
    "Stability",
    "area",
    "area_weights",
    "holm",
    "influence",
    "jaccard",
    "jaccard_by_chance",
    "mean_with_interval",
    "paired_curves",
    "paired_difference",
    "rbo",
    "stability",
]


class Stability(TypedDict):
    """An index of stability, and its 95 % interval if there are three runs or more."""

    index: float
    low: NotRequired[float]
    high: NotRequired[float]


@dataclass(frozen=True)
class PairedCurves:
    """Changes of a retrained metric from one curve to another.

    Args:
        metric: Metric of both curves.
        seeds: Seeds that both curves have.
        at_k: Change at each count of fields.
        area: Change of the area (see `area`); None for a grid of one k.
    """

    metric: str
    seeds: list[str]
    at_k: dict[int, Mean]
    area: Mean | None


def rbo(a: Sequence[str], b: Sequence[str], p: float = 0.9) -> float:
    """Rank-biased overlap of two rankings of the same names, 1 if they are equal.

    (1 − p)·Σ_d p^(d−1)·|A_d ∩ B_d| / d, divided by its value for equal rankings of this length, so
    that a short list can reach 1. With p = .9 the top ten have .86 of the weight.

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


def stability(kept_MF: np.ndarray) -> Stability | None:
    """Similarity of M sets of kept fields: 1 if equal, 0 on average if drawn at random.

    Φ = 1 − (1/F)·Σ_f s_f² / ((k̄/F)·(1 − k̄/F)), with s_f² the unbiased variance of "f is kept" and
    k̄ the mean count; the interval is Φ ± 1.96·√v, v = 4/M²·Σ_i (φ_i − φ̄)².

    Args:
        kept_MF: 0 and 1.

    Returns:
        The index and, for M ≥ 3, its interval (at most 1); None if every run keeps all fields, or none.

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


def mean_with_interval(values: Sequence[float] | np.ndarray) -> Mean:
    """The mean; for two values or more also their standard deviation, and the mean's 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Mean(mean=mean)
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Mean(mean=mean, deviation=deviation, low=mean - half, high=mean + half)


def area(grid: Sequence[int], value_SK: np.ndarray) -> np.ndarray:
    """Trapezoid over the grid divided by k_max − k_min → [S]: a mean of the values."""
    return np.trapezoid(value_SK, np.asarray(grid, np.float64), axis=1) / (grid[-1] - grid[0])


def area_weights(grid: Sequence[int]) -> np.ndarray:
    """The weight of each point of the grid in `area` → [K]; they sum to 1."""
    return area(grid, np.eye(len(grid)))


def influence(metric: str, logit_R: np.ndarray, label_R: np.ndarray, weight_R: np.ndarray | None = None) -> np.ndarray:
    """Influence of each test row on the metric → [R]: the sum of squares is the metric's variance over rows.

    For logloss it is w_r·(l_r − mean) / Σw. For AUC, that of a positive row is w_r·(V_r − AUC) / Σ w of
    positive rows, with V_r the weighted share of negative rows ranked below it (ties count ½); that of a
    negative row is the same with the positive rows above it. The difference of two models' influences on
    the same rows is the influence of the metrics' difference: noise that they share cancels.

    Args:
        metric: `auc` or `logloss`.
        logit_R: Scores.
        label_R: 0 or 1; both must occur.
        weight_R: Sample weights; None means equal weights.

    Source: DeLong, DeLong and Clarke-Pearson, 1988, section 3, divided by n instead of n − 1 and
    with weights, which are ours.
    """
    w_R = np.ones(len(logit_R)) if weight_R is None else np.asarray(weight_R, np.float64)
    if metric == "logloss":
        loss_R = losses(sigmoid(np.asarray(logit_R)), np.asarray(label_R, np.float64))
        return w_R * (loss_R - np.average(loss_R, weights=w_R)) / w_R.sum()
    score, score_R = np.unique(logit_R, return_inverse=True)
    influence_R, positive_R = np.zeros(len(w_R)), np.asarray(label_R) > 0.5
    for same_R, sign in ((positive_R, 1), (~positive_R, -1)):
        other = np.bincount(score_R, w_R * ~same_R, minlength=len(score))  # weight of the other label at each score
        share = (np.cumsum(other) - other / 2) / other.sum()  # of the other label below, ties ½
        v_R = share[score_R] if sign > 0 else 1 - share[score_R]
        total = w_R[same_R].sum()
        influence_R += same_R * w_R * (v_R - (w_R * same_R) @ v_R / total) / total
    return influence_R


def paired_difference(change_S: Sequence[float] | np.ndarray, influence_R: np.ndarray) -> Difference:
    """Mean of S paired differences, with an interval that includes the noise of seeds and of test rows.

    variance = s² / S + Σ_r influence_r²: all seeds share the test rows, so that their noise does not
    shrink with S. Student's t with Satterthwaite's degrees of freedom; with one seed
    only the noise of rows counts. Rows are taken to be independent.

    Args:
        change_S: The difference of each seed.
        influence_R: Influence on the mean difference (see `influence`).

    """
    change_S, seeds = np.asarray(change_S, np.float64), len(change_S)
    mean, rows = float(change_S.mean()), float(np.square(influence_R).sum())
    of_seeds = float(change_S.var(ddof=1)) / seeds if seeds > 1 else 0.0
    error = math.sqrt(of_seeds + rows)
    difference = Difference(mean=mean, error=error, low=mean, high=mean, p=1.0)
    if seeds > 1:
        difference["deviation"] = math.sqrt(of_seeds * seeds)
    if error > 0:
        law = t((of_seeds + rows) ** 2 * (seeds - 1) / of_seeds**2) if of_seeds > 0 else norm()
        half = float(law.ppf(0.975)) * error
        difference["low"], difference["high"] = mean - half, mean + half
        difference["p"] = float(2 * law.sf(abs(mean) / error))
    return difference


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for multiple tests: max over p_j ≤ p_i of min(1, (n − rank of p_j)·p_j), ranks from 0.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order, corrected, most = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = most
    return corrected


def paired_curves(a: Curve, b: Curve) -> PairedCurves | None:
    """B − A of a retrained metric at each k and of its area, over the seeds that both have.

    Args:
        a: Curve over K increasing counts of fields.
        b: Curve over the same grid.

    Returns:
        The changes; None if no seed is shared, so that nothing can be paired.
    """
    seeds = [s for s in a["by_seed"] if s in b["by_seed"]]
    if not seeds:
        return None
    change_SK = np.array([b["by_seed"][s] for s in seeds]) - np.array([a["by_seed"][s] for s in seeds])
    at_k = {k: mean_with_interval(change_SK[:, i]) for i, k in enumerate(a["grid"])}
    whole = mean_with_interval(area(a["grid"], change_SK)) if len(a["grid"]) > 1 else None
    return PairedCurves(a["metric"], seeds, at_k, whole)

"""Compare feature-selection reports: how far searches agree, and which fields they judge differently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau, spearmanr, weightedtau

from recsys.errors import ConfigError
from recsys.selection.reports.agreement import (
    PairedCurves,
    Stability,
    jaccard,
    jaccard_by_chance,
    paired_curves,
    rbo,
    stability,
)
from recsys.selection.reports.report import FieldReport, Report

__all__ = ["LABELS", "Comparison", "Flip", "Mover", "compare", "differences", "together"]

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Flip(NamedTuple):
    """A field whose verdict differs."""

    field: str
    before: str
    after: str


class Mover(NamedTuple):
    """A field whose rank differs, and whether the intervals of its scores overlap (None: unknown)."""

    field: str
    before: int
    after: int
    overlap: bool | None


class Correlations(NamedTuple):
    """Correlations of scores; all are None if one report scores all fields equally."""

    kendall_tau: float | None
    weighted_tau: float | None
    spearman: float | None


@dataclass(frozen=True)
class Comparison:
    """Agreement of two reports over the fields that both have.

    Args:
        warnings: Why the two cannot be compared directly.
        added: Fields of the second report only.
        removed: Fields of the first report only.
        shared: Count of the fields that both have.
        rbo: Rank-biased overlap.
        k: The smaller count of kept fields.
        jaccard: Jaccard index of the top k.
        jaccard_by_chance: Its mean over random rankings.
        jaccard_curve: (k, Jaccard, by chance) for up to 60 values of k.
        correlations: τ-b; weighted τ (Vigna, 2015: hyperbolic weights, so that the top counts most); Spearman's ρ.
        flips: Verdicts that differ.
        movers: The ten largest changes of rank, the largest first.
        curves: Changes of retrained models; None if they cannot be paired.
    """

    warnings: list[str]
    added: list[str]
    removed: list[str]
    shared: int
    rbo: float
    k: int
    jaccard: float
    jaccard_by_chance: float
    jaccard_curve: list[tuple[int, float, float]]
    correlations: Correlations
    flips: list[Flip]
    movers: list[Mover]
    curves: PairedCurves | None


def _model(report: Report) -> dict[str, object]:
    return {k: v for k, v in report.provenance.model.items() if k != "seed"}


def differences(a: Report, b: Report) -> list[str]:
    """Why two reports cannot be compared directly, a sentence for each reason."""
    first, second = a.provenance, b.provenance
    warnings = [
        f"{what} differs: {x} and {y}"
        for what, x, y in (("data", first.data, second.data), ("split", first.split, second.split))
        if x != y
    ]
    if parts := [k for k in _model(a) | _model(b) if _model(a).get(k) != _model(b).get(k)]:
        warnings.append(f"the models differ in {', '.join(parts)}")
    if first.policy != second.policy:
        warnings.append(f"policy differs, so that verdicts mean other things: {first.policy} and {second.policy}")
    if a.curve and b.curve and a.curve["metric"] != b.curve["metric"]:
        pair = f"{a.curve['metric']} and {b.curve['metric']}"
        warnings.append(f"the metric of the curves differs: {pair}, so that they are not compared")
    x, y = a.search.price, b.search.price
    if a.method == b.method and x and y and not np.isclose(x, y, rtol=0.25):  # models' default prices differ
        warnings.append(f"price differs: {x:.2e} and {y:.2e} nats")
    for label, report in (("first", a), ("second", b)):
        if report.health.verdict != "sound":
            warnings.append(f"the {label} report's model is {report.health.verdict}: its order may be chance")
    return warnings


def compare(a: Report, b: Report) -> Comparison:
    """Agreement of two reports over the fields that both have.

    Raises:
        ConfigError: If they share no field, or have curves on different grids.
    """
    shared = [n for n in a.fields if n in b.fields]
    if not shared:
        raise ConfigError("the reports share no field: compare reports of the same data")
    rank_a, rank_b = ([n for n in r.fields if n in set(shared)] for r in (a, b))
    k = max(1, min(sum(r.fields[n].kept for n in shared) for r in (a, b)))
    steps = np.unique(np.linspace(1, len(shared), min(len(shared), 60)).round().astype(int)).tolist()
    verdicts = [Flip(n, a.fields[n].verdict, b.fields[n].verdict) for n in shared]
    return Comparison(
        warnings=differences(a, b),
        added=[n for n in b.fields if n not in a.fields],
        removed=[n for n in a.fields if n not in b.fields],
        shared=len(shared),
        rbo=rbo(rank_a, rank_b),
        k=k,
        jaccard=jaccard(rank_a, rank_b, k),
        jaccard_by_chance=jaccard_by_chance(k, len(shared)),
        jaccard_curve=[(i, jaccard(rank_a, rank_b, i), jaccard_by_chance(i, len(shared))) for i in steps],
        correlations=_correlations([(a.fields[n].score, b.fields[n].score) for n in shared]),
        flips=[v for v in verdicts if v.before != v.after],
        movers=_movers(a.fields, b.fields, rank_a, rank_b, a.method == b.method),
        curves=_curves(a, b),
    )


def _correlations(pairs: Sequence[tuple[float, float]]) -> Correlations:
    x, y = zip(*pairs, strict=True)
    if len(set(x)) < 2 or len(set(y)) < 2:
        return Correlations(None, None, None)
    return Correlations(*(float(measure(x, y).statistic) for measure in (kendalltau, weightedtau, spearmanr)))


def _movers(
    a: Mapping[str, FieldReport], b: Mapping[str, FieldReport], rank_a: list[str], rank_b: list[str], same_unit: bool
) -> list[Mover]:
    """The ten largest changes of rank; intervals of scores in different units are not compared."""
    place_b = {n: i for i, n in enumerate(rank_b, 1)}
    movers: list[Mover] = []
    for i, name in enumerate(rank_a, 1):
        x, y = a[name].interval, b[name].interval
        overlap = x[0] <= y[1] and y[0] <= x[1] if same_unit and x and y else None
        if i != place_b[name]:
            movers.append(Mover(name, i, place_b[name], overlap))
    return sorted(movers, key=lambda m: -abs(m.before - m.after))[:10]


def _curves(a: Report, b: Report) -> PairedCurves | None:
    if not a.curve or not b.curve:
        return None
    if a.curve["grid"] != b.curve["grid"]:
        raise ConfigError(
            f"the grids of k differ, {a.curve['grid']} and {b.curve['grid']}: areas over different grids cannot be "
            "compared: retrain both over one grid"
        )
    return paired_curves(a.curve, b.curve) if a.curve["metric"] == b.curve["metric"] else None


def together(reports: Sequence[Report]) -> Stability | None:
    """Stability of the kept fields of all reports, over the fields that all have; see `stability`."""
    shared = [n for n in reports[0].fields if all(n in r.fields for r in reports)]
    if not shared:
        return None
    return stability(np.array([[r.fields[n].kept for n in shared] for r in reports]))

"""Compare feature-selection reports: do searches agree, and where do they not?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr, weightedtau

from recsys.errors import ConfigError
from recsys.selection.reports.agreement import jaccard, jaccard_by_chance, paired_curves, rbo, stability

__all__ = ["LABELS", "compare", "differences", "together"]

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CORRELATIONS = {"kendall_tau": kendalltau, "weighted_tau": weightedtau, "spearman": spearmanr}
Report = dict[str, Any]


def _model(report: Report) -> Report:
    return {k: v for k, v in report["provenance"]["model"].items() if k != "seed"}


def differences(a: Report, b: Report) -> list[str]:
    """What forbids a plain reading of two reports side by side."""
    of_a, of_b = a["provenance"], b["provenance"]
    found = [f"{k} differs: {of_a[k]} and {of_b[k]}" for k in ("data", "split") if of_a.get(k) != of_b.get(k)]
    if parts := [k for k in _model(a) | _model(b) if _model(a).get(k) != _model(b).get(k)]:
        found.append(f"the models differ in {', '.join(parts)}")
    if of_a.get("policy") != of_b.get("policy"):
        found.append(
            f"policy differs, so that verdicts mean other things: {of_a.get('policy')} and {of_b.get('policy')}"
        )
    metrics = [r["curve"]["metric"] if r.get("curve") else None for r in (a, b)]
    if None not in metrics and metrics[0] != metrics[1]:
        found.append(f"the metric of the curves differs: {metrics[0]} and {metrics[1]}, so that they are not compared")
    if a["method"] == b["method"]:
        prices = [r["search"].get("price") for r in (a, b)]
        if None not in prices and not np.isclose(prices[0], prices[1], rtol=0.25):  # a default price follows the model
            found.append(f"price differs: {prices[0]:.2e} and {prices[1]:.2e} nats")
    for label, r in zip(("first", "second"), (a, b), strict=True):
        if r["health"]["verdict"] != "sound":
            found.append(f"the {label} report's model is {r['health']['verdict']}: its order may be chance")
    return found


def compare(a: Report, b: Report) -> dict[str, Any]:
    """Agreement of two reports over the fields that both have.

    Returns:
        warnings; added and removed fields; rbo; k, the smaller count kept, with jaccard and
        jaccard_by_chance at it; jaccard_curve (k, value, chance); kendall_tau (τ-b), weighted_tau (Vigna,
        2015: hyperbolic weights, the top counts most) and spearman of scores, None where one report
        scores all alike; flips (verdicts that differ); movers (largest changes of rank first, and whether
        intervals overlap, None where a report has none); curves, see `paired_curves`; bytes_saved and seconds of each.

    Raises:
        ConfigError: If they share no field, or have curves on different grids.
    """
    shared = [n for n in a["fields"] if n in b["fields"]]
    if not shared:
        raise ConfigError("the reports share no field: compare reports of the same data")
    fields_a, fields_b = a["fields"], b["fields"]
    rank_a, rank_b = ([n for n in r["fields"] if n in set(shared)] for r in (a, b))
    k = max(1, min(sum(fields[n]["verdict"] != "drop" for n in shared) for fields in (fields_a, fields_b)))
    steps = np.unique(np.linspace(1, len(shared), min(len(shared), 60)).round().astype(int)).tolist()
    return {
        "warnings": differences(a, b),
        "added": [n for n in fields_b if n not in fields_a],
        "removed": [n for n in fields_a if n not in fields_b],
        "shared": len(shared),
        "rbo": rbo(rank_a, rank_b),
        "k": k,
        "jaccard": jaccard(rank_a, rank_b, k),
        "jaccard_by_chance": jaccard_by_chance(k, len(shared)),
        "jaccard_curve": [(i, jaccard(rank_a, rank_b, i), jaccard_by_chance(i, len(shared))) for i in steps],
        **_correlation([(fields_a[n]["score"], fields_b[n]["score"]) for n in shared]),
        "flips": [
            (n, fields_a[n]["verdict"], fields_b[n]["verdict"])
            for n in shared
            if fields_a[n]["verdict"] != fields_b[n]["verdict"]
        ],
        "movers": _movers(fields_a, fields_b, rank_a, rank_b, a["method"] == b["method"]),
        "curves": _curves(a, b),
        "bytes_saved": [r["savings"]["table_bytes"] for r in (a, b)],
        "seconds": [r["search"]["seconds"] for r in (a, b)],
    }


def _correlation(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    x, y = zip(*pairs, strict=True)
    if len(set(x)) < 2 or len(set(y)) < 2:
        return dict.fromkeys(_CORRELATIONS)
    return {name: float(of(x, y).statistic) for name, of in _CORRELATIONS.items()}


def _movers(
    a: Report, b: Report, rank_a: list[str], rank_b: list[str], same_unit: bool
) -> list[tuple[str, int, int, bool | None]]:
    """Ten largest changes of rank; intervals of scores in other units are not laid side by side."""
    at_b = {n: i for i, n in enumerate(rank_b, 1)}
    moved: list[tuple[str, int, int, bool | None]] = []
    for i, name in enumerate(rank_a, 1):
        if i == at_b[name]:
            continue
        of_a, of_b = a[name].get("interval"), b[name].get("interval")
        overlap = of_a[0] <= of_b[1] and of_b[0] <= of_a[1] if same_unit and of_a and of_b else None
        moved.append((name, i, at_b[name], overlap))
    return sorted(moved, key=lambda m: -abs(m[1] - m[2]))[:10]


def _curves(a: Report, b: Report) -> dict[str, Any] | None:
    of_a, of_b = a.get("curve"), b.get("curve")
    if not of_a or not of_b:
        return None
    if of_a["grid"] != of_b["grid"]:
        raise ConfigError(
            f"the grids of k differ, {of_a['grid']} and {of_b['grid']}: areas over different grids cannot be "
            "compared: retrain both over one grid"
        )
    return paired_curves(of_a, of_b) if of_a["metric"] == of_b["metric"] else None


def together(reports: Sequence[Report]) -> dict[str, float] | None:
    """Stability of what all reports keep, over the fields that all have; see `stability`."""
    shared = [n for n in reports[0]["fields"] if all(n in r["fields"] for r in reports)]
    if not shared:
        return None
    return stability(np.array([[r["fields"][n]["verdict"] != "drop" for n in shared] for r in reports]))

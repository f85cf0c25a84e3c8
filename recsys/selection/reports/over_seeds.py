"""Reports of one method under several seeds → one report: what a field's verdict owes to luck shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.selection.reports.agreement import mean_with_interval

__all__ = ["kept_names", "over_seeds"]

_SAME = ("kind", "cardinality", "width", "rows", "table_bytes", "optimizer_bytes")
_OWN = ("rank", "interval", "verdict", "reason", "cluster")
Report = Mapping[str, Any]


def kept_names(report: Report) -> list[str]:
    """Fields that a report does not drop, in order of importance."""
    return [n for n, f in report["fields"].items() if f["verdict"] != "drop"]


def _verdict(of: Sequence[Report]) -> dict[str, str]:
    said = [f["verdict"] for f in of]
    if (len(set(said)) == 1 and said[0] in ("protected", "uncertain")) or len(of) == 1:
        return {"verdict": said[0], "reason": of[0]["reason"]}
    count = sum(v != "drop" for v in said)
    sure = count == len(said) and "keep" in said
    verdict = "drop" if count == 0 else "keep" if sure else "uncertain"
    return {"verdict": verdict, "reason": f"kept under {count} of {len(said)} seeds"}


def _field(of: Sequence[Report]) -> dict[str, Any]:
    first = of[0]
    scores = mean_with_interval([f["score"] for f in of])
    found: dict[str, Any] = {"rank": 0, "score": scores["mean"]}
    if "low" in scores:
        found["interval"] = [scores["low"], scores["high"]]
    elif "interval" in first:
        found["interval"] = first["interval"]
    found |= {**_verdict(of), "cluster": first["cluster"]}
    for key in dict.fromkeys(k for f in of for k in f if k not in (*_OWN, "score")):
        found[key] = first[key] if key in _SAME else float(np.mean([f[key] for f in of if key in f]))
    return found


def _shuffled(reports: Sequence[Report]) -> dict[str, float] | None:
    of = [s for r in reports if (s := r["shuffled"])]
    return {k: float(np.mean([s[k] for s in of])) for k in of[0]} if of else None


def over_seeds(reports: Sequence[Report]) -> dict[str, Any]:
    """Mean scores with their 95 % interval over seeds, and verdicts on which the seeds agree.

    A field that some seeds keep and others drop is uncertain, which keeps it; what shuffling costs is the
    mean over the seeds that measured it. Ranks follow the mean
    score. Health is the worst that a seed's model had; savings are the first seed's and hold only
    where its kept fields are the same: measure them anew.

    Args:
        reports: Of one method on the same data and fields.
    """
    first = reports[0]
    fields = {n: _field([r["fields"][n] for r in reports]) for n in first["fields"]}
    ranking = sorted(fields, key=lambda n: (-fields[n]["score"], n))
    for rank, name in enumerate(ranking, 1):
        fields[name]["rank"] = rank
    unsound = [r["health"] for r in reports if r["health"]["verdict"] != "sound"]
    search = {**first["search"], "seconds": float(np.mean([r["search"]["seconds"] for r in reports]))}
    provenance = {**first["provenance"], "seed": [r["provenance"]["seed"] for r in reports]}
    about = {
        "shuffled": _shuffled(reports),
        "search": search,
        "provenance": provenance,
        "health": unsound[0] if unsound else first["health"],
    }
    return {**first, **about, "fields": {n: fields[n] for n in ranking}}

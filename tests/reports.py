"""Selection reports as JSON, for tests of what reads them."""

from typing import Any

from recsys.selection.reports.report import VERSION

__all__ = ["report_json"]

FIELD = {
    "rank": 1, "score": 0.0, "verdict": "keep", "reason": "why", "kind": "numeric", "cardinality": 0, "width": 1,
    "rows": 0, "table_bytes": 0, "optimizer_bytes": 0, "cluster": None,
}  # fmt: skip
SIZES = {"fields": 1, "width": 1, "parameters": 1, "table_bytes": 0, "optimizer_bytes": 0}


def report_json(fields: dict[str, dict[str, Any]], health: str = "sound", seed: int = 0, data: str = "d") -> Any:
    """A whole report.

    Args:
        fields: In order of importance: what differs from `FIELD`.
        health: Verdict on the model.
        seed: Of the search, which took 1 + seed seconds.
        data: Name of the data.
    """
    return {
        "version": VERSION,
        "method": "leap",
        "provenance": {"data": data, "model": {"seed": 0}, "seed": seed, "split": {}, "policy": {}},
        "search": {"method": "leap", "seconds": 1.0 + seed},
        "health": {
            "train_auc": 0.8, "valid_auc": 0.7, "gain": 0.1, "gain_error": 0.01, "agreement": 0.9, "verdict": health,
            "reason": health,
        },
        "probes": None,
        "savings": {"before": SIZES, "note": "", **SIZES, "us_per_row": 0, "train_us_per_row": 0},
        "shuffled": None,
        "clusters": {"looked_at": 1, "rows": 1, "threshold": 0.9, "found": []},
        "fields": {n: {**FIELD, "rank": i, **field} for i, (n, field) in enumerate(fields.items(), 1)},
    }  # fmt: skip

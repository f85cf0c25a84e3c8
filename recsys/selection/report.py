"""The selection report: as JSON that other tools read, and as one page that a person reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from recsys.data.shards import Shards
from recsys.html import page, table
from recsys.metrics import auc
from recsys.models.ctr import CTR
from recsys.selection.scores import FieldScores, Verdict
from recsys.train import logits

__all__ = ["VERSION", "health", "make_report", "write_html"]

VERSION = 1
_OVERFIT_GAP = 0.08  # train AUC − validation AUC past which a report is inconclusive


def health(model: CTR, train: Shards, valid: Shards, rows: int = 100_000) -> dict[str, Any]:
    """Can this model tell fields apart? A selector cannot exceed its model.

    Returns:
        train_auc (over the first `rows` training rows), valid_auc, and a verdict: `sound`,
        `overfit` (a gap of .08 or more) or `no signal` (validation AUC at most .51).
    """
    batches = [train.batch(slice(s, s + 8192)) for s in range(0, min(rows, len(train)), 8192)]
    model.eval()
    train_logit = np.concatenate([model(b).detach().numpy() for b in batches])
    found = {"train_auc": auc(train_logit, np.concatenate([b.label_B.numpy() for b in batches]))}
    found["valid_auc"] = auc(logits(model, valid), valid.label_B)
    gap = found["train_auc"] - found["valid_auc"]
    verdict = "no signal" if found["valid_auc"] <= 0.51 else "overfit" if gap >= _OVERFIT_GAP else "sound"
    return {**found, "verdict": verdict}


def _table_bytes(model: CTR, names: set[str]) -> dict[str, int]:
    """Bytes of the tables that only this field reads; a shared table belongs to nobody."""
    plain = model.embedding.plain()  # type: ignore[operator]
    readers: dict[str, set[str]] = {}
    for k in plain.lookups:
        readers.setdefault(k.table, set()).add(k.field)
    return {n: sum(plain.tables[t].nbytes for t, r in readers.items() if r == {n}) for n in names}


def make_report(
    model: CTR,
    scores: FieldScores,
    verdicts: Sequence[Verdict],
    found_health: dict[str, Any],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Everything the search found, ready for JSON; `fields` is in order of importance."""
    held = _table_bytes(model, set(model.schema.names))
    width = dict(zip(model.schema.names, model.widths, strict=True))
    fields = {
        v.field: {
            "rank": rank,
            "score": scores.score[v.field],
            "verdict": v.verdict,
            "reason": v.reason,
            "kind": model.schema[v.field].kind,
            "cardinality": model.schema[v.field].cardinality,
            "width": width[v.field],
            "table_bytes": held[v.field],
            **scores.details[v.field],
        }
        for rank, v in enumerate(verdicts, 1)
    }
    dropped = [n for n, f in fields.items() if f["verdict"] == "drop"]
    return {
        "version": VERSION,
        "method": scores.about["method"],
        "provenance": provenance,
        "health": found_health,
        "search": scores.about,
        "fields": fields,
        "savings": {
            "fields": len(dropped),
            "table_bytes": sum(held[n] for n in dropped),
            "width": sum(width[n] for n in dropped),
        },
    }


def write_html(report: dict[str, Any], path: Path) -> None:
    """One self-contained page: the decision first, then importance, then every field."""
    fields, kept = report["fields"], [n for n, f in report["fields"].items() if f["verdict"] != "drop"]
    dropped = [n for n in fields if n not in kept]
    saved = report["savings"]
    lead = f"Keep {len(kept)} of {len(fields)} fields; dropping {', '.join(dropped) or 'none'} saves "
    width = sum(f["width"] for f in fields.values())
    lead += f"{saved['table_bytes'] / 1e6:.2f} MB of tables and {saved['width']} of {width:g} inputs."
    sick = report["health"]["verdict"]
    gap = f"training AUC {report['health']['train_auc']:.3f}, held-out {report['health']['valid_auc']:.3f}"
    cautions = {
        "no signal": f"No signal: the model is no better than chance on held-out rows ({gap}). Trust no verdict here.",
        "overfit": f"Caution: the model is overfit ({gap}). Scores are from held-out rows; regularise to be surer.",
    }
    notes = [cautions[sick]] if sick in cautions else []
    colours = {"keep": "#2a7f62", "protected": "#3b6fb6", "drop": "#b0b4ba"}
    bars = go.Figure(
        go.Bar(
            x=[f["score"] for f in fields.values()][::-1],
            y=list(fields)[::-1],
            orientation="h",
            marker_color=[colours[f["verdict"]] for f in fields.values()][::-1],
        )
    )
    bars.update_layout(height=120 + 20 * len(fields), xaxis_title=f"importance by {report['method']}")
    columns = [
        "field",
        "rank",
        "verdict",
        "score",
        "gate",
        "closes_at",
        "delta_logloss",
        "kind",
        "cardinality",
        "width",
        "table_bytes",
        "reason",
    ]
    shown = [c for c in columns if c == "field" or any(c in f for f in fields.values())]
    rows = [[n if c == "field" else f.get(c, "") for c in shown] for n, f in fields.items()]
    health_row = [f"{report['health']['train_auc']:.4f}", f"{report['health']['valid_auc']:.4f}", sick]
    about = [[report["method"], f"{report['search']['price']:.2e}", f"{report['search']['seconds']:.1f}", *health_row]]
    path.write_text(
        page(
            "Feature selection report",
            lead,
            notes,
            [
                ("Importance (green kept, grey dropped)", bars),
                ("Fields", table(shown, rows)),
                ("Search", table(["method", "price, nats", "seconds", "train AUC", "validation AUC", "model"], about)),
            ],
        )
    )

"""The selection report: as JSON that other tools read, and as one page that a person reads."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from recsys.data.shards import Shards
from recsys.html import page, table
from recsys.metrics import auc
from recsys.models.ctr import CTR
from recsys.selection.price import gain_over_constant
from recsys.selection.scores import FieldScores, Verdict
from recsys.train import logits

__all__ = ["VERSION", "doubt", "health", "make_report", "write_html"]

VERSION = 3
_OVERFIT_GAP = 0.08  # train AUC − validation AUC past which a report is inconclusive


def health(model: CTR, train: Shards, valid: Shards, rows: int = 100_000) -> dict[str, Any]:
    """Can this model tell fields apart? A selector cannot exceed its model.

    Returns:
        train_auc (over the first `rows` training rows), valid_auc; gain, the held-out logloss saved
        over a constant, and gain_error, its standard error; a verdict and the reason for it:
        `no signal` (validation AUC within 3 standard errors of ½, or no gain beyond 3 of its own),
        `inconclusive` (AUC but no gain: worse than a constant; or train − validation AUC of .08 or
        more: overfit) or `sound`.
    """
    batches = [train.batch(slice(s, s + 8192)) for s in range(0, min(rows, len(train)), 8192)]
    model.eval()
    train_logit = np.concatenate([model(b).detach().numpy() for b in batches])
    train_auc = auc(train_logit, np.concatenate([b.label_B.numpy() for b in batches]))
    valid_logit = logits(model, valid)
    valid_auc, gain = auc(valid_logit, valid.label_B), gain_over_constant(valid_logit, valid.label_B)
    clicks = float(valid.label_B.sum())
    auc_error = math.sqrt((len(valid) + 1) / (12 * clicks * (len(valid) - clicks)))  # Mann and Whitney, no relation
    gap = train_auc - valid_auc
    if valid_auc <= 0.5 + 3 * auc_error:
        verdict, reason = "no signal", f"validation AUC {valid_auc:.4f} is what chance gives (.5 ± {auc_error:.4f})"
    elif gain.mean <= 0:
        verdict, reason = "inconclusive", f"the model's held-out logloss is {-gain.mean:.5f} worse than a constant's"
    elif gain.mean <= 3 * gain.error:
        verdict, reason = "no signal", f"the model gains {gain.mean:.6f} ± {gain.error:.6f} nats a row over a constant"
    elif gap >= _OVERFIT_GAP:
        verdict, reason = (
            "inconclusive",
            f"the model is overfit by {gap:.3f} of AUC",
        )
    else:
        verdict, reason = "sound", ""
    found = {"train_auc": train_auc, "valid_auc": valid_auc, "gain": gain.mean, "gain_error": gain.error}
    return {**found, "verdict": verdict, "reason": reason}


def doubt(found_health: dict[str, Any]) -> str:
    """Why no field's score can be believed; empty where they can.

    An overfit model keeps its verdicts, under a caution: scores come from held-out rows.
    """
    if found_health["verdict"] == "no signal" or found_health["gain"] <= 0:
        return f"{found_health['verdict']}: {found_health['reason']}"
    return ""


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
    probes: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Everything the search found, ready for JSON; `fields` is in order of importance.

    Args:
        model: Whose fields were scored.
        scores: Of these fields.
        verdicts: On them.
        found_health: See `health`.
        provenance: Where all this comes from.
        probes: See `recsys.selection.probes.discovery_rate`; None where there were none.
    """
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
        "probes": probes,
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
    if probes := report["probes"]:
        lead += f" {probes['probes_kept']} of {probes['probes']} probe fields were kept, which implies "
        lead += f"{probes['false_discovery_rate']:.0%} false discoveries (at most {probes['at_most']:.0%})."
    sick = report["health"]["verdict"]
    gap = f"training AUC {report['health']['train_auc']:.3f}, held-out {report['health']['valid_auc']:.3f}"
    reason = report["health"]["reason"]
    cautions = {
        "no signal": f"No signal: {reason} ({gap}). No field can be told from noise; none is dropped.",
        "inconclusive": f"Inconclusive: {reason} ({gap}). Regularise the model, then select again.",
    }
    notes = [cautions[sick]] if sick in cautions else []
    notes += report["search"].get("warnings", [])
    colours = {"keep": "#2a7f62", "protected": "#3b6fb6", "drop": "#b0b4ba", "uncertain": "#c77700"}
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
    price = report["search"].get("price")
    about = [
        [report["method"], "" if price is None else f"{price:.2e}", f"{report['search']['seconds']:.1f}", *health_row]
    ]
    path.write_text(
        page(
            "Feature selection report",
            lead,
            notes,
            [
                ("Importance (green kept, grey dropped, orange uncertain)", bars),
                ("Fields", table(shown, rows)),
                ("Search", table(["method", "price, nats", "seconds", "train AUC", "validation AUC", "model"], about)),
            ],
        )
    )

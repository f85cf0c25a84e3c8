"""The selection report as JSON that other tools read, and what it says of the model first."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.data.shards import Shards
from recsys.metrics import auc
from recsys.models.ctr import CTR
from recsys.selection.price import gain_over_constant
from recsys.selection.scores import FieldScores, Verdict, intervals
from recsys.train import logits

__all__ = ["VERSION", "doubt", "health", "make_report"]

VERSION = 4  # of the form; `recsys compare` refuses others
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


def _own_tables(model: CTR, names: set[str]) -> dict[str, tuple[int, int]]:
    """Bytes and rows of the tables that only this field reads; a shared table belongs to nobody."""
    plain = model.embedding.plain()  # type: ignore[operator]
    readers: dict[str, set[str]] = {}
    for k in plain.lookups:
        readers.setdefault(k.table, set()).add(k.field)
    own = {n: [plain.tables[t] for t, r in readers.items() if r == {n}] for n in names}
    return {n: (sum(t.nbytes for t in tables), sum(t.rows for t in tables)) for n, tables in own.items()}


def make_report(
    model: CTR,
    scores: FieldScores,
    verdicts: Sequence[Verdict],
    measured: dict[str, Any],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Everything the search found, ready for JSON; `fields` is in order of importance.

    Args:
        model: Whose fields were scored.
        scores: Of these fields.
        verdicts: On them.
        measured: `health`; `savings`; `shuffled`, see `recsys.selection.shuffle.shuffled_cost`, of all
            that is dropped, None where nothing is; `clusters` (see `recsys.selection.redundancy.clusters`);
            `probes` (see `recsys.selection.probes.discovery_rate`), None where there were none.
        provenance: Where all this comes from.
    """
    held = _own_tables(model, set(model.schema.names))
    width = dict(zip(model.schema.names, model.widths, strict=True))
    between, first = intervals(scores), _first_of_cluster(measured["clusters"])
    keeps = {v.field for v in verdicts if v.verdict != "drop"}
    fields: dict[str, dict[str, Any]] = {}
    for rank, v in enumerate(verdicts, 1):
        cluster = first.get(v.field)
        repeats = v.field in keeps and cluster in keeps and cluster != v.field
        fields[v.field] = {
            "rank": rank,
            "score": scores.score[v.field],
            **({"interval": list(between[v.field])} if v.field in between else {}),
            "verdict": v.verdict,
            "reason": f"{v.reason}; repeats {cluster}" if repeats else v.reason,
            "kind": model.schema[v.field].kind,
            "cardinality": model.schema[v.field].cardinality,
            "width": width[v.field],
            "rows": held[v.field][1],
            "table_bytes": held[v.field][0],
            "optimizer_bytes": 4 * held[v.field][1],  # row-wise Adagrad: one float32 a row
            "cluster": cluster,
            **scores.details[v.field],
        }
    about = {"version": VERSION, "method": scores.about["method"], "provenance": provenance, "search": scores.about}
    return {**about, **measured, "fields": fields}


def _first_of_cluster(clusters: dict[str, Any]) -> dict[str, str]:
    """Field → the most important of those that say the same."""
    return {n: group["fields"][0] for group in clusters["found"] for n in group["fields"]}

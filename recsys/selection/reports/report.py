"""The selection report as JSON that other tools read, and what it says of the model first."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.data.split import Split
from recsys.evaluation.metrics import auc
from recsys.frame.ctr import CTR
from recsys.selection.counted import counted
from recsys.selection.halves import agreement_of_halves
from recsys.selection.price import gain_over_constant
from recsys.selection.reports.find import VERSION
from recsys.selection.scores import FieldScores, Verdict, intervals
from recsys.training.fit import logits

__all__ = ["doubt", "health", "make_report", "with_probes"]

_LEAST_AGREEMENT = 0.5  # of halves: below it more of what fields seem to be worth is luck than not
_MOST_LUCK = 0.5  # false discoveries that kept probes imply


def health(model: CTR, train: Split, valid: Split, rows: int = 100_000) -> dict[str, Any]:
    """Can this model tell fields apart? A selector cannot exceed its model.

    Returns:
        train_auc (over at most `rows` training rows that have weight, drawn at random), valid_auc; gain,
        the held-out logloss saved over a constant, and gain_error, its standard error; agreement and, if
        there is one, rank_agreement, see `agreement_of_halves`; a
        verdict and the reason for it: `no signal` (validation AUC within 3 standard errors of ½, or no
        gain beyond 3 of its own), `inconclusive` (AUC but no gain: worse than a constant; or an
        agreement below ½: two halves of the held-out rows find other fields useful) or `sound`. All
        count sample weights. train − validation AUC decides nothing: a field of many ids, a cross of two
        above all, overfits in it always, and fields are judged on held-out rows.
    """
    train, valid = counted(train), counted(valid)
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:rows])
    model.eval()
    parts = np.array_split(chosen, -(-len(chosen) // 8192))
    train_logit = np.concatenate([model(train.batch(p))[:, 0].detach().numpy() for p in parts])
    train_weight = None if train.weight_B is None else train.weight_B[chosen]
    train_auc = auc(train_logit, train.label_B[chosen], train_weight)
    valid_logit, label_B, weight_B = logits(model, valid), valid.label_B, valid.weight_B
    valid_auc, gain = auc(valid_logit, label_B, weight_B), gain_over_constant(valid_logit, label_B, weight_B)
    auc_error, (agreement, ranks) = _auc_error(label_B, weight_B), agreement_of_halves(model, valid)
    if valid_auc <= 0.5 + 3 * auc_error:
        verdict, reason = "no signal", f"validation AUC {valid_auc:.4f} is what chance gives (.5 ± {auc_error:.4f})"
    elif gain.mean <= 0:
        verdict, reason = "inconclusive", f"the model's held-out logloss is {-gain.mean:.5f} worse than a constant's"
    elif gain.mean <= 3 * gain.error:
        verdict, reason = "no signal", f"the model gains {gain.mean:.6f} ± {gain.error:.6f} nats a row over a constant"
    elif agreement < _LEAST_AGREEMENT:
        verdict = "inconclusive"
        reason = f"two halves of the held-out rows disagree on which fields matter (agreement {agreement:.2f} of 1)"
    else:
        verdict, reason = "sound", ""
    found = {"train_auc": train_auc, "valid_auc": valid_auc, "gain": gain.mean, "gain_error": gain.error}
    found |= {"agreement": agreement, **({} if ranks is None else {"rank_agreement": ranks})}
    return {**found, "verdict": verdict, "reason": reason}


def _auc_error(label_B: np.ndarray, weight_B: np.ndarray | None) -> float:
    """Standard error of AUC if scores and labels have no relation (Mann and Whitney).

    With weights each label has (Σ w)² / Σ w² rows.
    """
    w_B = np.ones(len(label_B)) if weight_B is None else np.asarray(weight_B, np.float64)
    p, n = (w.sum() ** 2 / max(np.square(w).sum(), 1e-300) for w in (w_B[label_B > 0.5], w_B[label_B <= 0.5]))
    return math.sqrt((p + n + 1) / (12 * p * n))


def with_probes(found_health: dict[str, Any], probes: dict[str, float] | None) -> dict[str, Any]:
    """A sound model's verdict turns `inconclusive` if probes say that half of what is kept is luck."""
    if probes is None or found_health["verdict"] != "sound" or probes["false_discovery_rate"] < _MOST_LUCK:
        return found_health
    reason = f"kept probes imply that {probes['false_discovery_rate']:.0%} of the kept fields are luck"
    return {**found_health, "verdict": "inconclusive", "reason": reason}


def doubt(found_health: dict[str, Any]) -> str:
    """Why no field's score can be believed; empty if they can.

    Where probes alone speak against it, verdicts stand, under a caution: too much is kept, not too little.
    """
    if (
        found_health["verdict"] == "no signal"
        or min(found_health["gain"], found_health["agreement"] - _LEAST_AGREEMENT) <= 0
    ):
        return f"{found_health['verdict']}: {found_health['reason']}"
    return ""


def _own_tables(model: CTR, names: set[str]) -> dict[str, tuple[int, int]]:
    """Bytes and rows of the tables that only this field reads; a shared table belongs to nobody."""
    plain = model.embedding.plain()
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
            that is dropped, None where nothing is; `clusters` (see `recsys.selection.reports.redundancy.clusters`);
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

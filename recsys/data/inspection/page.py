"""One page about a table that a person reads before training."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from recsys.data.inspection.examine import Examined, worries
from recsys.data.inspection.field_stats import LARGE, SHIFT, FieldStats
from recsys.pages.html import Markup, page, table

__all__ = ["html"]

_COLOURS = {"train": "#3b6fb6", "valid": "#c77700", "test": "#2a7f62", "left out": "#8b939e"}
_MOMENTS = 40  # points of the curve of the label rate


def _spark(heights: Sequence[float]) -> Markup:
    """Bars of a distribution, 120 × 24 pixels."""
    if not heights or max(heights) <= 0:
        return Markup("")
    wide, top = 120 / len(heights), max(heights)
    tall = [24 * h / top if h == 0 else max(1.0, 24 * h / top) for h in heights]
    bar = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    bars = Markup().join(bar.format(i * wide, 24 - h, max(0.8, wide - 0.6), h) for i, h in enumerate(tall))
    return Markup('<svg class="spark" width="120" height="24" fill="currentColor" aria-hidden="true">{}</svg>').format(
        bars
    )


def _percent(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    return "0" if value == 0 else "<0.1 %" if value < 0.001 else f"{value:.1%}".replace("%", " %")


def _drift(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (" !!" if value > LARGE else " !" if value > SHIFT else "")


def _row(f: FieldStats) -> list[object]:
    return [
        f.name,
        f"{f.auc:.3f}" if np.isfinite(f.auc) else "–",
        _percent(f.missing),
        _drift(f.drift.get("valid")),
        _drift(f.drift.get("test")),
        _percent(f.unseen.get("valid")),
        _percent(f.unseen.get("test")),
        _spark(f.shape),
        f.distinct,
        _percent(f.top),
        _percent(f.kept),
        f.kind,
    ]


_COLUMNS = (
    "field", "AUC alone", "missing", "PSI valid", "PSI test", "unseen valid", "unseen test", "shape", "values",
    "top 10", "≥ min_count", "read as",
)  # fmt: skip
_LEGEND = Markup(
    "<p>AUC alone: of the label rate of the field's value, fitted on training, on validation. PSI: Σ (q − p)·ln(q / p) "
    "over training deciles, or over the 20 most frequent values, others and missing; above "
    f"{SHIFT} a shift to look at (!), above {LARGE} a large one (!!). Unseen: share of rows with a value that training "
    "has not; for a number, beyond its range in training. Shape: a number's histogram in training (of its logarithm "
    "where it is read so), or the rows of its most frequent values. Top 10 and ≥ min_count: share of training rows "
    "with a value that the ten most frequent values, or those that the vocabulary keeps, cover.</p>"
)


def _rates(x: Examined) -> str:
    rows = []
    for s, chosen in x.splits.items():
        span = "–"
        if x.time_B is not None:
            first, last = x.time_B[chosen].min(), x.time_B[chosen].max()
            span = f"{str(first)[:16].replace('T', ' ')} to {str(last)[:16].replace('T', ' ')}"
        share = len(chosen) / len(x.label_B)
        rows.append([s, len(chosen), _percent(share), f"{x.label_B[chosen].mean():.3%}".replace("%", " %"), span])
    out = len(x.label_B) - sum(len(r) for r in x.splits.values())
    if out:
        rows.append(["left out", out, _percent(out / len(x.label_B)), "–", "gaps, or in no split"])
    return table(["split", "rows", "share", "label rate", "time"], rows)


def _over_time(x: Examined) -> go.Figure | None:
    """Label rate in stretches of equal time, coloured by split, with two standard errors."""
    if x.time_B is None:
        return None
    us_B = x.time_B.astype(np.int64)
    edges = np.linspace(us_B.min(), us_B.max() + 1, _MOMENTS + 1)
    slot_B = np.clip(np.searchsorted(edges, us_B, side="right") - 1, 0, _MOMENTS - 1)
    inside = np.concatenate(list(x.splits.values()))
    groups = {**x.splits, "left out": np.setdiff1d(np.arange(len(us_B)), inside)}
    figure = go.Figure()
    for s, chosen in groups.items():
        rows = np.bincount(slot_B[chosen], minlength=_MOMENTS)
        full = np.flatnonzero(rows >= 20)  # a rate over fewer rows is noise
        if not len(full):
            continue
        rate = np.bincount(slot_B[chosen], x.label_B[chosen], _MOMENTS)[full] / rows[full]
        error = 2 * np.sqrt(rate * (1 - rate) / rows[full])
        middle = ((edges[:-1] + edges[1:]) / 2)[full].astype("datetime64[us]").astype(str).tolist()
        figure.add_scatter(
            x=middle,
            y=rate.tolist(),
            error_y={"array": error.tolist(), "thickness": 1, "width": 0},
            mode="markers" if s == "left out" else "lines+markers",
            name=s,
            line={"color": _COLOURS[s]},
        )
    figure.update_layout(
        height=320,
        yaxis={"title": "label rate", "tickformat": ".1%", "rangemode": "tozero"},
        legend={"orientation": "h"},
    )
    return figure


def html(x: Examined) -> str:
    """The page: the verdict and the warnings first, then splits, the label over time, and every field."""
    warned = worries(x)
    shares = ", ".join(f"{s} {len(r):,} ({x.label_B[r].mean():.2%})" for s, r in x.splits.items())
    lead = f"{x.total:,} rows, {x.label_B.mean():.2%} of them with label 1: {shares}. "
    if len(x.label_B) < x.total:
        lead = f"A random {len(x.label_B):,} of {x.total:,} rows, {x.label_B.mean():.2%} with label 1: {shares}. "
    several = "is 1 thing" if len(warned) == 1 else f"are {len(warned)} things"
    lead += f"There {several} to look at, the worst first." if warned else "Nothing stands out."
    sections: list[tuple[str, str | go.Figure]] = [("Splits", _rates(x))]
    if (curve := _over_time(x)) is not None:
        sections.append(("Label rate over time", curve))
    order = sorted(x.fields, key=lambda f: -f.auc if np.isfinite(f.auc) else 0)
    fields = table(_COLUMNS, [_row(f) for f in order])
    if x.skipped:
        fields += Markup("<p>Made in preparation, so not here: {}.</p>").format(", ".join(x.skipped))
    fields += _LEGEND
    sections.append(("Fields, the most telling first", fields))
    repeated = [["rows that repeat another in everything that is read", _percent(x.repeated)]]
    repeated.append(["test rows that are in training too", _percent(x.crossing)])
    sections.append(("Duplicates", table(["what", "share"], repeated)))
    if x.suspects or x.named:
        leaking = [*x.suspects.items(), *x.named.items()]
        sections.append(("Leakage suspects", table(["column", "why"], [list(s) for s in leaking])))
    if x.dropped:
        sections.append(("Dropped columns", table(["column", "why"], [list(d) for d in x.dropped.items()])))
    notes = warned[:3] + ([f"And: {t}" for t in warned[3:]])
    if len(x.label_B) < x.total:
        notes.append("Unseen shares of rare values are higher in a sample than in the whole table.")
    return page(f"{x.name}: the data before training", lead, notes, sections)

"""daily.html: how a model that learns each day stands against a full retrain and against one that learns no more."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from pipelines.one_day import OneDay
from recsys.files import write_text
from recsys.pages.html import page, table

__all__ = ["write_page"]

_COLOURS = {"each day": "#3b6fb6", "full retrain": "#c77700", "first model": "#9aa1a9"}
Retrains = Mapping[int, Mapping[str, float]]


def _lead(days: Sequence[OneDay], retrains: Retrains) -> str:
    """The first sentences: what following the days gains, and what it costs."""
    gain = sum(d.auc - d.frozen_auc for d in days) / len(days)
    first, last = days[0].day.start[:10], days[-1].day.scored_stop[:10]
    what = "periods" if len(days) > 1 else "period"
    text = (
        f"{len(days)} {what} from {first}, scored up to {last}. Learning each one changes AUC by {gain:+.4f} against "
    )
    text += "the first model, which learned no more, on average."
    both = [d for d in days if d.day.number in retrains]
    if not both:
        return text
    auc, logloss = (
        sum(getattr(d, m) - retrains[d.day.number][m] for d in both) / len(both) for m in ("auc", "logloss")
    )
    cost = sum(retrains[d.day.number]["seconds"] for d in both) / sum(d.seconds for d in both)
    many = "one full retrain" if len(both) == 1 else f"{len(both)} full retrains, on average"
    text += f" Against {many}: AUC {auc:+.4f}, logloss {logloss:+.4f}; "
    return f"{text}a retrain took {cost:.0f} × the training time of a period."


def _figure(days: Sequence[OneDay], retrains: Retrains, metric: str) -> go.Figure:
    """A metric of each model, by the first day that it was scored on."""
    figure, x = go.Figure(), [d.day.scored_start[:10] for d in days]
    lines = {"each day": metric, "first model": f"frozen_{metric}"}
    for name, key in lines.items():
        figure.add_scatter(x=x, y=[getattr(d, key) for d in days], name=name, line={"color": _COLOURS[name]})
    again = [d for d in days if d.day.number in retrains]
    if again:
        x, y = [d.day.scored_start[:10] for d in again], [retrains[d.day.number][metric] for d in again]
        marker = {"color": _COLOURS["full retrain"], "size": 9, "symbol": "diamond"}
        figure.add_scatter(x=x, y=y, name="full retrain", mode="markers", marker=marker)
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom"}
    return figure.update_layout(
        legend=legend, xaxis_title="scored from", yaxis_title={"auc": "AUC"}.get(metric, metric), height=340
    )


def _by_day(days: Sequence[OneDay], retrains: Retrains) -> str:
    """A row for each day."""
    rows: list[list[object]] = []
    for d in days:
        again = retrains.get(d.day.number, {})
        full = [f"{again['auc']:.4f}", f"{again['seconds']:.1f}"] if again else ["", ""]
        sent = f"{d.delta['bytes'] / 1e6:.2f} of {d.delta['model_bytes'] / 1e6:.2f}"
        scored = f"{d.day.scored_start[:10]}"
        figures = [f"{d.auc:.4f}", full[0], f"{d.frozen_auc:.4f}", f"{d.logloss:.4f}", f"{d.seconds:.1f}", full[1]]
        rows.append([d.day.number, d.day.start[:10], scored, d.rows, *figures, d.delta["rows"], sent])
    heads = ["period", "learned from", "scored from", "rows", "AUC", "AUC, full retrain", "AUC, first model", "logloss"]
    return table([*heads, "seconds", "seconds, full retrain", "changed rows", "delta, MB"], rows)


def _ids(days: Sequence[OneDay]) -> str:
    """A row for each table whose ids are a vocabulary: over all days, and at the last."""
    rows: list[list[object]] = []
    for name, now in days[-1].fields.items():
        gained, lost = (sum(getattr(d.fields[name], k) for d in days) for k in ("admitted", "evicted"))
        share = sum(d.fields[name].unseen for d in days) / len(days)
        rows.append([name, now.live, gained, lost, now.waiting, f"{share:.2%}"])
    return table(["table", "ids with a row", "admitted", "evicted", "waiting", "scored values without a row"], rows)


def _churn(days: Sequence[OneDay]) -> go.Figure:
    """Ids that gained and lost a row on each day, over all tables."""
    figure, x = go.Figure(), [d.day.start[:10] for d in days]
    for name, sign, colour in (("admitted", 1, "#2a7f62"), ("evicted", -1, "#b3452c")):
        counts = [sign * sum(getattr(f, name) for f in d.fields.values()) for d in days]
        figure.add_bar(x=x, y=counts, name=name, marker_color=colour)
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom"}
    return figure.update_layout(
        barmode="relative", legend=legend, xaxis_title="learned from", yaxis_title="ids", height=300
    )


def write_page(path: Path, days: Sequence[OneDay], retrains: Retrains) -> Path:
    """Write the page → its path.

    Args:
        path: The file.
        days: In order, at least one.
        retrains: Number of a day → AUC, logloss and seconds of a full retrain on all rows up to its end.
    """
    sections: list[tuple[str, str | go.Figure]] = [
        ("AUC", _figure(days, retrains, "auc")),
        ("Logloss", _figure(days, retrains, "logloss")),
        ("Ids that came and went", _churn(days)),
        ("Ids by table", _ids(days)),
        ("By period", _by_day(days, retrains)),
    ]
    return write_text(path, page("Daily training", _lead(days, retrains), [], sections))

"""The selection report as one page that begins with the decision, and as CSV."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import plotly.graph_objects as go

from recsys.files import whole, write_text
from recsys.pages.html import Markup, page, table
from recsys.selection.reports.curve_plot import add_curve, convergence, legend_above
from recsys.selection.reports.form import to_json
from recsys.selection.reports.report import Curve, FieldReport, Report, Savings
from recsys.selection.reports.report_words import lead, sure

__all__ = ["write_csv", "write_html"]

_COLOURS = {"keep": "#2a7f62", "protected": "#3b6fb6", "uncertain": "#c77700", "drop": "#9aa1a9"}
_MOST_BARS = 80
_CAUTIONS = {
    "no signal": "No signal: {}. No field can be told from noise; none is dropped.",
    "inconclusive": "Inconclusive: {}. Give more held-out rows or regularise the model, then select again.",
}
Section = tuple[str, str | go.Figure]


def write_csv(report: Report, path: Path) -> None:
    """Write a row for each field, in order of importance; an interval takes two columns."""
    rows: list[dict[str, object]] = []
    for name, f in report.fields.items():
        plain: dict[str, object] = {"field": name, **to_json(f)}
        plain.pop("interval", None)
        rows.append(plain | ({"low": f.interval[0], "high": f.interval[1]} if f.interval else {}))
    columns = list(dict.fromkeys(k for row in rows for k in row))
    with whole(path, newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _retrained(curve: Curve) -> go.Figure:
    figure = go.Figure()
    add_curve(figure, curve["grid"], curve["by_seed"], "top k by this method", _COLOURS["keep"])
    if random := curve.get("random"):
        add_curve(figure, curve["grid"], random, "random k", "#9aa1a9", "dot")
    ends = [curve["grid"][0], curve["grid"][-1]]
    add_curve(figure, ends, {s: [v, v] for s, v in curve["full"].items()}, "all fields", "#7d8590", "dash")
    figure.update_layout(xaxis_title="fields kept, k", yaxis_title=f"test {curve['metric']}", height=340)
    return legend_above(figure)


def _savings(saved: Savings) -> str:
    names = {
        "fields": "fields", "width": "inputs", "parameters": "parameters", "table_bytes": "table bytes",
        "optimizer_bytes": "optimiser bytes", "us_per_row": "µs a row, scoring",
        "train_us_per_row": "µs a row, a training step",
    }  # fmt: skip
    before, after, less = saved.before, saved.after or {}, saved.figures
    rows = [
        [text, less[k], f"{less[k] / before[k]:.0%}" if before[k] else "", before[k], after[k]]
        for k, text in names.items()
        if k in before
    ]
    return table(["", "saved", "share", "now", "on what is kept"], rows)


def _importance(report: Report) -> go.Figure:
    shown = dict(list(report.fields.items())[:_MOST_BARS])
    figure = go.Figure()
    for verdict, colour in _COLOURS.items():
        part = {n: f for n, f in shown.items() if f.verdict == verdict}
        if not part:
            continue
        half = [(f.interval[1] - f.interval[0]) / 2 if f.interval else 0.0 for f in part.values()]
        error = {"array": half, "color": "#7d8590"} if any(half) else None
        figure.add_bar(
            x=[f.score for f in part.values()], y=list(part), orientation="h", name=verdict,
            marker_color=colour, error_x=error,
        )  # fmt: skip
    names = list(shown)[::-1]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names)
    figure.update_yaxes(tickvals=names, ticktext=[_short(n) for n in names])  # two names may have the same short form
    figure.update_layout(height=130 + 20 * len(shown), barmode="overlay", xaxis_title=_score_title(report))
    return legend_above(figure)


def _score_title(report: Report) -> str:
    note = report.search.score_note
    return f"score by {report.method}" + (f" ({note})" if note else "")


def _short(name: str) -> str:
    """A short form of a name, so that Plotly's axis leaves room for bars on a phone; the table has whole names."""
    return name if len(name) <= 22 else f"{name[:12]}…{name[-9:]}"


def _gates(fields: Mapping[str, FieldReport]) -> go.Figure:
    figure = go.Figure()
    for verdict, colour in _COLOURS.items():
        gates = [f.figures["gate"] for f in fields.values() if f.verdict == verdict]
        if gates:
            bins = {"start": 0, "end": 1.0001, "size": 0.05}
            figure.add_histogram(x=gates, xbins=bins, name=verdict, marker_color=colour)
    figure.update_layout(barmode="stack", xaxis_title="gate", yaxis_title="fields", height=300, xaxis_range=[0, 1])
    return legend_above(figure)


def _path(report: Report) -> go.Figure:
    """Plot how many gates are open at each λ of the climb, and which close there."""
    most = 0.1  # λ at the end of the climb, at which some gates are still open
    closes = sorted((c, n) for n, f in report.fields.items() if (c := f.figures["closes_at"]) < most)
    total, price = len(report.fields), report.search.price
    x = [1e-5, *(c for c, _ in closes), most]
    y = [*range(total, total - len(closes) - 1, -1), total - len(closes)]
    text = [f"{total} open", *(f"{n} closes at {c:.1e}" for c, n in closes), f"{y[-1]} still open"]
    figure = go.Figure()
    figure.add_scatter(
        x=x, y=y, text=text, mode="lines+markers", line={"shape": "hv", "color": _COLOURS["keep"]}, name="open gates",
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    if price:
        price_line = {"dash": "dot", "color": _COLOURS["uncertain"]}
        figure.add_scatter(x=[price, price], y=[0, total], mode="lines", line=price_line, name=f"price {price:.1e}")
    figure.update_xaxes(type="log", exponentformat="power", dtick=1, title="λ of the climb (gates lag behind it)")
    figure.update_layout(height=320, yaxis={"title": "open gates", "rangemode": "tozero"})
    return legend_above(figure)


def _fields(report: Report) -> str:
    columns = (
        "field", "rank", "verdict", "reason", "score", "interval", "price", "delta_logloss", "delta_logloss_error",
        "delta_auc", "gate", "closes_at", "drift", "kind",
        "cardinality", "width", "active_share", "change_rate", "weight", "table_bytes", "optimizer_bytes", "cluster",
    )  # fmt: skip
    rows = {n: {"field": n, **to_json(f)} for n, f in report.fields.items()}
    shown = [c for c in columns if any(row.get(c) is not None for row in rows.values())]

    def cell(row: Mapping[str, object], column: str) -> object:
        value = row.get(column)
        if column == "interval" and isinstance(value, list):
            return f"{value[0]:.3g} to {value[1]:.3g}"
        return "" if value is None else value

    heads = {
        "price": "price, nats a row",
        "delta_logloss": "worth, nats a row",
        "delta_logloss_error": "± one standard error",
        "closes_at": "closes at λ",
        "drift": "drift, PSI",
    }
    return table(
        [heads.get(c, c.replace("_", " ")) for c in shown], [[cell(row, c) for c in shown] for row in rows.values()]
    )


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _search(report: Report) -> str:
    search, provenance = to_json(report.search), to_json(report.provenance)
    rows: dict[str, object] = {"method": report.method}
    rows |= {k: search[k] for k in ("seconds", "price", "steps", "repeats") if k in search}
    rows |= report.search.figures
    rows |= {k: provenance[k] for k in ("data", "split", "policy", "seed", "versions") if k in provenance}
    labels = {"steps": "steps, of all passes over the gates"}
    return table(["", ""], [[labels.get(k, k), _words(v)] for k, v in rows.items()])


def _gate_sections(report: Report) -> Iterator[Section]:
    """Sections for a method that learns gates."""
    figures = [f.figures for f in report.fields.values()]
    if all("gate" in f for f in figures):
        yield "Gates: near 0 or 1 is settled", _gates(report.fields)
    if all("closes_at" in f for f in figures):
        yield "The λ at which each gate closes", _path(report)
    if bce := report.search.gate_bce:
        title = f"Convergence: loss of the gates' {len(bce)} steps at the price, mean of 20"
        yield title, convergence(bce, _COLOURS["keep"])


def _repeats(report: Report) -> str:
    verdicts = [", ".join(f"{n} ({report.fields[n].verdict})" for n in g.fields) for g in report.clusters.found]
    rows = [[g.redundancy, v] for v, g in zip(verdicts, report.clusters.found, strict=True)]
    return table(["redundancy", "fields"], rows)


def write_html(report: Report, path: Path) -> None:
    """One self-contained page: the decision, its savings and its certainty; then importance and every field."""
    count, health = len(report.fields), report.health
    notes = [_CAUTIONS[health.verdict].format(health.reason)] if health.verdict in _CAUTIONS else []
    notes += report.search.warnings
    sections: list[Section] = []
    if report.savings.after is not None:
        title = "What it saves (µs: eager, 512 rows at a time, on this machine)"
        sections.append((title, _savings(report.savings)))
    sentences = Markup().join(Markup("<li>{}</li>").format(s) for s in sure(report))
    sections.append(("How sure", Markup("<ul>{}</ul>").format(sentences)))
    if report.curve:
        sections.append(("Retrained from scratch on the top k", _retrained(report.curve)))
    title = "Importance" if count <= _MOST_BARS else f"Importance of the first {_MOST_BARS} of {count}"
    sections += [(title, _importance(report)), *_gate_sections(report)]
    if report.clusters.found:
        sections.append(("Fields that repeat each other", _repeats(report)))
    sections += [("Fields", _fields(report)), ("Search", _search(report))]
    write_text(path, page("Feature selection report", lead(report), notes, sections))

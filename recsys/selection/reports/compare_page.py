"""The comparison as one page: agreement of reports, agreement by chance, and then the differences."""

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from recsys.pages.html import page, table
from recsys.selection.reports.agreement import PairedCurves, Stability
from recsys.selection.reports.compare import Comparison
from recsys.selection.reports.report import Mean, Report

__all__ = ["compare_page", "signed", "stable"]

_COLOURS = ("#3b6fb6", "#c77700", "#2a7f62", "#a0489b", "#b5473c", "#6b7785")


def signed(change: Mean) -> str:
    """The mean and, if there is one, its interval."""
    interval = " (one seed: no interval)"
    if "low" in change and "high" in change:
        interval = f" [{change['low']:+.5f}, {change['high']:+.5f}]"
    return f"{change['mean']:+.5f}{interval}"


def stable(phi: Stability) -> str:
    """The index and, if there is one, its interval."""
    interval = " (an interval needs three reports)"
    if "low" in phi and "high" in phi:
        interval = f" [{phi['low']:.3f}, {phi['high']:.3f}]"
    return f"{phi['index']:.3f}{interval}"


def _agreement(comparisons: Mapping[str, Comparison]) -> go.Figure:
    figure = go.Figure()
    for i, (pair, c) in enumerate(comparisons.items()):
        k, value, chance = zip(*c.jaccard_curve, strict=True)
        colour = _COLOURS[i % len(_COLOURS)]
        figure.add_scatter(x=k, y=value, name=pair, mode="lines", line_color=colour)
        same = i > 0 and next(iter(comparisons.values())).shared == c.shared
        if not same:
            figure.add_scatter(x=k, y=chance, name="chance", mode="lines", line={"dash": "dot", "color": "#8a919a"})
        marker = {"color": colour, "size": 9, "symbol": "diamond"}
        figure.add_scatter(x=[c.k], y=[c.jaccard], marker=marker, mode="markers", showlegend=False, name="kept")
    figure.update_layout(xaxis_title="k (◆ as many as the stricter keeps)", yaxis_title="Jaccard@k", height=360)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"}, yaxis_range=[0, 1.03])
    return figure


def _ranks(reports: Mapping[str, Report]) -> go.Figure:
    """A line for each field over the reports: crossing lines are fields that changed places."""
    labels = list(reports)
    figure = go.Figure()
    names = list(dict.fromkeys(n for r in reports.values() for n in r.fields))
    for name in names:
        seen = {x: r.fields[name] for x, r in reports.items() if name in r.fields}
        kept = [f.kept for f in seen.values()]
        colour = "#c77700" if len(set(kept)) > 1 else "#2a7f62" if kept[0] else "#9aa1a9"
        x, y = list(seen), [f.rank for f in seen.values()]
        figure.add_scatter(
            x=x, y=y, name=name, mode="lines+markers", showlegend=False, line={"color": colour}, hovertemplate=name
        )
        if len(names) <= 60:
            shown = name if len(name) <= 18 else f"{name[:17]}…"
            figure.add_annotation(
                x=x[-1], y=y[-1], text=shown, xanchor="left", xshift=8, showarrow=False, font={"size": 11}
            )
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=labels, range=[-0.1, len(labels) - 0.5])
    figure.update_yaxes(title="rank", range=[len(names) + 0.7, 0.3])
    figure.update_layout(height=160 + 20 * min(len(names), 60))
    return figure


def _changes(paired: Mapping[str, PairedCurves]) -> go.Figure:
    figure = go.Figure()
    for i, (pair, c) in enumerate(paired.items()):
        bars = [m["high"] - m["mean"] if "high" in m else 0 for m in c.at_k.values()]
        figure.add_scatter(
            x=list(c.at_k),
            y=[m["mean"] for m in c.at_k.values()],
            error_y={"array": bars},
            name=pair,
            mode="lines+markers",
            line_color=_COLOURS[i % len(_COLOURS)],
        )
    figure.add_hline(y=0, line={"dash": "dot", "color": "#8a919a"})
    metric = next(c.metric for c in paired.values())
    figure.update_layout(xaxis_title="fields kept, k", yaxis_title=f"Δ{metric}", height=340)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})
    return figure


def _lead(comparisons: Mapping[str, Comparison], phi: Stability | None, runs: int) -> str:
    pair, first = next(iter(comparisons.items()))
    flips = sum(len(c.flips) for c in comparisons.values())
    lead = f"{pair}: RBO {first.rbo:.2f}; the top {first.k} overlap by {first.jaccard:.2f} (Jaccard), "
    lead += f"by chance it would be {first.jaccard_by_chance:.2f}. "
    lead += f"{flips or 'No'} verdict{'' if flips == 1 else 's'} changed"
    lead += f" over {len(comparisons)} pairs." if len(comparisons) > 1 else "."
    return lead + (f" Stability of the kept sets over {runs} reports: {stable(phi)}." if phi else "")


def _fields(reports: Mapping[str, Report]) -> str:
    names = list(dict.fromkeys(n for r in reports.values() for n in r.fields))
    shown = ("rank", "score", "verdict")
    head = ["field", *(f"{what} {x}" for what in shown for x in reports)]
    rows = [[n, *(getattr(r.fields.get(n), w, "—") for w in shown for r in reports.values())] for n in names]
    return table(head, rows)


def _curves(comparisons: Mapping[str, Comparison]) -> list[tuple[str, str | go.Figure]]:
    """Paired changes of the retrained metric; nothing if no two reports carry curves."""
    paired = {p: c.curves for p, c in comparisons.items() if c.curves}
    if not paired:
        return []
    rows = [[p, k, signed(change)] for p, c in paired.items() for k, change in c.at_k.items()]
    rows += [[p, "area", signed(c.area)] for p, c in paired.items() if c.area]
    return [
        ("Change of the retrained metric, second − first", _changes(paired)),
        ("Paired over seeds", table(["pair", "k", "change, 95 % interval"], rows)),
    ]


def _about(reports: Mapping[str, Report], paths: Mapping[str, Path]) -> str:
    head = [
        "report", "method", "data", "seed", "fields", "kept", "valid AUC", "model", "saves, MB", "seconds", "file",
    ]  # fmt: skip
    rows = [
        [label, r.method, r.provenance.data, r.provenance.seed, len(r.fields), len(r.kept), r.health.valid_auc,
         r.health.verdict, r.savings.figures["table_bytes"] / 1e6, r.search.seconds, str(paths[label])]
        for label, r in reports.items()
    ]  # fmt: skip
    return table(head, rows)


def _agreement_table(comparisons: Mapping[str, Comparison]) -> str:
    head = ["pair", "RBO", "Jaccard@k", "by chance", "k", "Kendall τ-b", "weighted τ", "Spearman ρ", "flips"]
    figures = {p: [c.rbo, c.jaccard, c.jaccard_by_chance, c.k, *c.correlations] for p, c in comparisons.items()}
    rows = [[p, *("" if x is None else x for x in figures[p]), len(c.flips)] for p, c in comparisons.items()]
    return table(head, rows)


def compare_page(
    reports: Mapping[str, Report],
    paths: Mapping[str, Path],
    comparisons: Mapping[str, Comparison],
    phi: Stability | None,
) -> str:
    """One self-contained page.

    Args:
        reports: Label → report.
        paths: Label → file of the report.
        comparisons: Pair of labels → comparison.
        phi: Stability over all reports.
    """
    overlaps = {None: "not known", True: "overlap", False: "apart"}
    movers = [[m.field, m.before, m.after, overlaps[m.overlap], p] for p, c in comparisons.items() for m in c.movers]
    flips = [[*flip, p] for p, c in comparisons.items() for flip in c.flips]
    changed = [[p, what, n] for p, c in comparisons.items() for what in ("added", "removed") for n in getattr(c, what)]
    sections: list[tuple[str, str | go.Figure]] = [
        ("Agreement", _agreement_table(comparisons)),
        ("Agreement of the top k, beside chance", _agreement(comparisons)),
        *_curves(comparisons),
        ("Verdicts that changed", table(["field", "before", "after", "pair"], flips)),
        ("Biggest movers, by rank", table(["field", "before", "after", "intervals", "pair"], movers)),
        ("Ranks (orange: the verdict changed, green kept, grey dropped)", _ranks(reports)),
    ]
    if changed:
        sections.append(("Fields added and removed", table(["pair", "", "field"], changed)))
    sections += [("Reports", _about(reports, paths)), ("All fields", _fields(reports))]
    notes = [f"{pair}: {w}" for pair, c in comparisons.items() for w in c.warnings]
    return page("Feature selection reports compared", _lead(comparisons, phi, len(reports)), notes, sections)

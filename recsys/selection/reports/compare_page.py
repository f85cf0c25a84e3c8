"""The comparison as one page: what agrees, beside what chance would give, then where it does not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from recsys.pages.html import page, table

__all__ = ["compare_page", "signed", "stable"]

_COLOURS = ("#3b6fb6", "#c77700", "#2a7f62", "#a0489b", "#b5473c", "#6b7785")


def signed(change: Mapping[str, float]) -> str:
    """Mean and, where there is one, interval."""
    interval = f" [{change['low']:+.5f}, {change['high']:+.5f}]" if "low" in change else " (one seed: no interval)"
    return f"{change['mean']:+.5f}{interval}"


def stable(phi: Mapping[str, float]) -> str:
    """The index and, where there is one, its interval."""
    interval = f" [{phi['low']:.3f}, {phi['high']:.3f}]" if "low" in phi else " (an interval needs three reports)"
    return f"{phi['index']:.3f}{interval}"


def _agreement(found: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for i, (pair, c) in enumerate(found.items()):
        k, value, chance = zip(*c["jaccard_curve"], strict=True)
        colour = _COLOURS[i % len(_COLOURS)]
        figure.add_scatter(x=k, y=value, name=pair, mode="lines", line_color=colour)
        same = i > 0 and next(iter(found.values()))["shared"] == c["shared"]
        if not same:
            figure.add_scatter(x=k, y=chance, name="chance", mode="lines", line={"dash": "dot", "color": "#8a919a"})
        marker = {"color": colour, "size": 9, "symbol": "diamond"}
        figure.add_scatter(x=[c["k"]], y=[c["jaccard"]], marker=marker, mode="markers", showlegend=False, name="kept")
    figure.update_layout(xaxis_title="k (◆ as many as the stricter keeps)", yaxis_title="Jaccard@k", height=360)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"}, yaxis_range=[0, 1.03])
    return figure


def _ranks(reports: Mapping[str, Any]) -> go.Figure:
    """A line a field over the reports: crossing lines are fields that changed places."""
    labels = list(reports)
    figure = go.Figure()
    names = list(dict.fromkeys(n for r in reports.values() for n in r["fields"]))
    for name in names:
        seen = [(x, r["fields"][name]) for x, r in reports.items() if name in r["fields"]]
        flips = len({f["verdict"] != "drop" for _, f in seen}) > 1
        kept = seen[0][1]["verdict"] != "drop"
        colour = "#c77700" if flips else "#2a7f62" if kept else "#9aa1a9"
        x, y = [s[0] for s in seen], [s[1]["rank"] for s in seen]
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


def _changes(paired: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for i, (pair, c) in enumerate(paired.items()):
        at_k = list(c["at_k"].items())
        bars = [(m["high"] - m["mean"] if "high" in m else 0) for _, m in at_k]
        figure.add_scatter(
            x=[k for k, _ in at_k],
            y=[m["mean"] for _, m in at_k],
            error_y={"array": bars},
            name=pair,
            mode="lines+markers",
            line_color=_COLOURS[i % len(_COLOURS)],
        )
    figure.add_hline(y=0, line={"dash": "dot", "color": "#8a919a"})
    metric = next(c["metric"] for c in paired.values())
    figure.update_layout(xaxis_title="fields kept, k", yaxis_title=f"Δ{metric}", height=340)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})
    return figure


def _lead(found: Mapping[str, Any], phi: Mapping[str, float] | None, runs: int) -> str:
    pair, first = next(iter(found.items()))
    flips = sum(len(c["flips"]) for c in found.values())
    lead = f"{pair}: RBO {first['rbo']:.2f}; the top {first['k']} overlap by {first['jaccard']:.2f} (Jaccard), "
    lead += f"where chance gives {first['jaccard_by_chance']:.2f}. "
    lead += f"{flips or 'No'} verdict{'' if flips == 1 else 's'} changed"
    lead += f" over {len(found)} pairs." if len(found) > 1 else "."
    return lead + (f" Stability of the kept sets over {runs} reports: {stable(phi)}." if phi else "")


def _fields(reports: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(n for r in reports.values() for n in r["fields"]))
    shown = ("rank", "score", "verdict")
    head = ["field", *(f"{what} {x}" for what in shown for x in reports)]
    return table(
        head, [[n, *(r["fields"].get(n, {}).get(w, "—") for w in shown for r in reports.values())] for n in names]
    )


def _curves(found: Mapping[str, Any]) -> list[tuple[str, str | go.Figure]]:
    """Paired changes of the retrained metric; nothing where no two reports carry curves."""
    paired = {p: c["curves"] for p, c in found.items() if c["curves"]}
    if not paired:
        return []
    rows = [[p, k, signed(change)] for p, c in paired.items() for k, change in c["at_k"].items()]
    rows += [[p, "area", signed(c["area"])] for p, c in paired.items() if "area" in c]
    return [
        ("Change of the retrained metric, second − first", _changes(paired)),
        ("Paired over seeds", table(["pair", "k", "change, 95 % interval"], rows)),
    ]


def compare_page(
    reports: Mapping[str, Any], paths: Mapping[str, Path], found: Mapping[str, Any], phi: Mapping[str, float] | None
) -> str:
    """One self-contained page.

    Args:
        reports: By label.
        paths: Where each was read.
        found: What `recsys.selection.reports.compare.compare` found, a pair each.
        phi: Stability over all of them.
    """
    head = ["pair", "RBO", "Jaccard@k", "by chance", "k", "Kendall τ-b", "weighted τ", "Spearman ρ", "flips"]
    keys = ("rbo", "jaccard", "jaccard_by_chance", "k", "kendall_tau", "weighted_tau", "spearman")
    rows = [[p, *("" if c[k] is None else c[k] for k in keys), len(c["flips"])] for p, c in found.items()]
    overlaps = {None: "not known", True: "overlap", False: "apart"}
    movers = [[n, was, now, overlaps[o], p] for p, c in found.items() for n, was, now, o in c["movers"]]
    flips = [[n, was, now, p] for p, c in found.items() for n, was, now in c["flips"]]
    changed = [[p, what, n] for p, c in found.items() for what in ("added", "removed") for n in c[what]]
    sections: list[tuple[str, str | go.Figure]] = [
        ("Agreement", table(head, rows)),
        ("Agreement of the top k, beside chance", _agreement(found)),
        *_curves(found),
        ("Verdicts that changed", table(["field", "before", "after", "pair"], flips)),
        ("Biggest movers, by rank", table(["field", "before", "after", "intervals", "pair"], movers)),
        ("Ranks (orange: the verdict changed, green kept, grey dropped)", _ranks(reports)),
    ]
    if changed:
        sections.append(("Fields added and removed", table(["pair", "", "field"], changed)))
    about = [
        [x, r["method"], r["provenance"]["data"], r["provenance"]["seed"], len(r["fields"]),
         sum(f["verdict"] != "drop" for f in r["fields"].values()), r["health"]["valid_auc"], r["health"]["verdict"],
         r["savings"]["table_bytes"] / 1e6, r["search"]["seconds"], str(paths[x])]
        for x, r in reports.items()
    ]  # fmt: skip
    columns = [
        "report",
        "method",
        "data",
        "seed",
        "fields",
        "kept",
        "valid AUC",
        "model",
        "saves, MB",
        "seconds",
        "file",
    ]
    sections += [("Reports", table(columns, about)), ("All fields", _fields(reports))]
    notes = [f"{pair}: {w}" for pair, c in found.items() for w in c["warnings"]]
    return page("Feature selection reports compared", _lead(found, phi, len(reports)), notes, sections)

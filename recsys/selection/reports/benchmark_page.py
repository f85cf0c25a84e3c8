"""A benchmark of selectors: its table, and the page with the curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from recsys.files import write_text
from recsys.pages.html import Markup, page, table
from recsys.selection.reports.curve_plot import add_curve, legend_above

__all__ = ["columns", "rows", "write_page"]

_COLOURS = (
    "#2a7f62", "#3b6fb6", "#c77700", "#a0489b", "#b5473c", "#6b7785", "#0f9bb3", "#8a7a1f",
    "#5b4bb5", "#d0609a", "#4a9a3c", "#a86a3d",
)  # fmt: skip
About = Mapping[str, Any]


def _name(metric: str) -> str:
    return "AUC" if metric == "auc" else metric


def _spread(figure: Mapping[str, float] | None, sign: bool = False) -> str:
    """Mean ± deviation."""
    if figure is None:
        return ""
    deviation = f" ± {figure['deviation']:.4f}" if "deviation" in figure else ""
    return f"{figure['mean']:{'+' if sign else ''}.4f}{deviation}"


def _change(figure: Mapping[str, float] | None) -> str:
    """Mean ± deviation over seeds, and the 95 % interval that holds the noise of test rows too."""
    return f"{_spread(figure, True)} [{figure['low']:+.4f}, {figure['high']:+.4f}]" if figure else ""


def columns(about: About) -> list[str]:
    """Heads of the table of `rows`."""
    metric = _name(about["metric"])
    return ["method", "AUKC", *(f"{metric}@{k}" for k in about["grid"]), "keeps", f"Δ{metric} of it", "search, s"]


def rows(about: About) -> list[list[str]]:
    """A row a method, best area first; then the methods without an answer, and all fields."""
    found = about["methods"]
    sign = -1 if about["metric"] == "auc" else 1
    answered = [n for n, m in found.items() if not m.get("failed")]
    whole = found[answered[0]]["full"] if answered else None

    def place(name: str) -> float:
        figure = found[name]["area"] or found[name]["at_k"][str(about["grid"][-1])]
        return sign * figure["mean"]

    made: list[list[str]] = []
    for name in sorted(answered, key=place):
        m = found[name]
        at_k = [_spread(m["at_k"][str(k)]) for k in about["grid"]]
        least, most = min(m["kept"]), max(m["kept"])
        keeps = str(least) if least == most else f"{least} to {most}"
        made.append([name, _spread(m["area"]), *at_k, keeps, _change(m["kept_change"]), f"{m['search_seconds']:.1f}"])
    blank = [""] * len(about["grid"])
    made += [[n, m["failed"], *blank, "", "", ""] for n, m in found.items() if m.get("failed")]
    if whole:
        made.append(["all fields", _spread(whole), *blank, str(about["fields"]), "", ""])
    return made


def _difference_rows(about: About) -> list[list[str]]:
    """LeAP − another method at each k: mean, its interval and p after Holm's correction."""
    return [
        [n, *(f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] p {d['p_holm']:.3f}" for d in by_k.values())]
        for n, by_k in about["differences"].items()
    ]


def _frontier_rows(answered: Mapping[str, Any]) -> list[list[str]]:
    """A row a method and price."""
    return [
        [n, f"{at['gain_share']:g}", " / ".join(map(str, at["kept"])), _change(at["change"])]
        for n, m in answered.items()
        for at in m["frontier"]
    ]


def _near(about: About, answered: Mapping[str, Any]) -> go.Figure:
    """The same curves, at most .01 of the metric worse than all fields: where the good ones part."""
    full = next(iter(answered.values()))["full"]["mean"]
    worse, better = (-0.01, 0.003) if about["metric"] == "auc" else (0.01, -0.003)
    return _curves(about, answered).update_layout(yaxis_range=sorted([full + worse, full + better]))


def _curves(about: About, answered: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for i, (name, m) in enumerate((n, m) for n, m in answered.items() if n != "random"):
        add_curve(figure, m["curve"]["grid"], m["curve"]["by_seed"], name, _COLOURS[i % len(_COLOURS)])
    any_curve = next(iter(answered.values()))["curve"]
    if any_curve["random"]:
        add_curve(figure, about["grid"], any_curve["random"], "random", "#9aa1a9", "dot")
    add_curve(
        figure, [about["grid"][0], about["grid"][-1]], {s: [v, v] for s, v in any_curve["full"].items()},
        "all fields", "#7d8590", "dash",
    )  # fmt: skip
    height = 420 + 20 * len(answered)  # on a phone each name of the legend has a line of its own
    figure.update_layout(xaxis_title="fields kept, k", yaxis_title=f"test {_name(about['metric'])}", height=height)
    return legend_above(figure)


def _lead(about: About, answered: Mapping[str, Any]) -> str:
    if not answered:
        return "No method gave an answer."
    best, *others = rows(about)[: len(answered)]
    seeds = f"{len(about['seeds'])} seed{'s' if len(about['seeds']) > 1 else ''}"
    after = f", then {others[0][0]}, {others[0][1]}" if others else ""
    lead = f"{best[0]} ranks best: mean test {_name(about['metric'])} over the grid (AUKC) {best[1]}{after}; {seeds}. "
    if "leap" in answered:
        m = answered["leap"]
        lead += f"What LeAP keeps ({' / '.join(str(k) for k in m['kept'])} of {about['fields']} fields) changes the "
        lead += f"{_name(about['metric'])} of all fields by {_change(m['kept_change'])}."
    return lead


def write_page(about: About, path: Path) -> None:
    """One self-contained page: which method ranks best, the table, the curves, and where each report is."""
    answered = {n: m for n, m in about["methods"].items() if not m.get("failed")}
    notes = [f"{n} has no answer: {m['failed']}" for n, m in about["methods"].items() if m.get("failed")]
    unsound = {m["health"]["reason"]: m["health"]["verdict"] for m in answered.values()}
    notes += [f"The model is {v}: {r}." for r, v in unsound.items() if v != "sound"]
    sections: list[tuple[str, str | go.Figure]] = [
        (
            "Methods (mean ± deviation over seeds; Δ is paired with all fields, and its 95 % interval in brackets "
            "holds the noise of seeds and of test rows)",
            table(columns(about), rows(about)),
        )
    ]
    if answered:
        links = [
            [Markup('<a href="{}">{}</a>').format(m["report"], n), m["smallest_k"] or "none"]
            for n, m in answered.items()
        ]
        sections += [
            (f"Test {_name(about['metric'])} of a model retrained on the top k", _curves(about, answered)),
            ("The same, at most .01 worse than all fields", _near(about, answered)),
            ("Reports, and the smallest k within .001 of all fields", table(["method", "smallest k"], links)),
        ]
    metric = _name(about["metric"])
    if about["differences"]:
        heads = ["LeAP −", *(f"{metric}@{k}" for k in about["grid"])]
        what = "Paired differences with 95 % intervals over seeds and test rows, p corrected by Holm for all of them"
        sections.append((what, table(heads, _difference_rows(about))))
    if priced := _frontier_rows(answered):
        heads = ["method", "price, share of the model's gain", "fields kept, by seed", f"Δ{metric} of a retrain"]
        sections.append(
            (
                "Fields kept against what a retrain on them loses, at each price, with the same intervals",
                table(heads, priced),
            )
        )
    write_text(path, page("Feature selectors compared", _lead(about, answered), notes, sections))

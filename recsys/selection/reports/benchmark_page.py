"""A benchmark of selectors: its table, and the page with the curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

import plotly.graph_objects as go

from recsys.files import write_text
from recsys.pages.html import Markup, page, table
from recsys.selection.reports.curve_plot import add_curve, legend_above
from recsys.selection.reports.report import Curve, CurveSummary, Difference, Mean

__all__ = ["Answer", "Benchmarked", "NoAnswer", "Priced", "columns", "rows", "write_page"]

_COLOURS = (
    "#2a7f62", "#3b6fb6", "#c77700", "#a0489b", "#b5473c", "#6b7785", "#0f9bb3", "#8a7a1f",
    "#5b4bb5", "#d0609a", "#4a9a3c", "#a86a3d",
)  # fmt: skip


class Priced(TypedDict):
    """The fields that a method keeps at a price.

    gain_share: The price, as a share of the model's gain. kept: Count of kept fields, by seed. change: Change of the
    metric by a retrain on them; None if a seed keeps no field.
    """

    gain_share: float
    kept: list[int]
    change: Difference | None


class Answer(CurveSummary):
    """The results of one method.

    frontier: At each price. kept: Count of kept fields, by seed. logloss_kept_change: As `kept_change`.
    search_seconds: Mean over seeds. health: The worst. curve: Of its retrains. report: Link to its report.
    """

    frontier: list[Priced]
    kept: list[int]
    logloss_kept_change: NotRequired[Difference]
    search_seconds: float
    health: dict[str, object]
    curve: Curve
    report: str


class NoAnswer(TypedDict):
    """Why a method has no results."""

    failed: str


class Benchmarked(TypedDict):
    """The content of benchmark.json.

    fields: Count of all fields. differences: Metric of one method minus that of each other one, by the other one's
    name and by k.
    """

    data: str
    fields: int
    metric: str
    grid: list[int]
    seeds: list[int]
    methods: dict[str, Answer | NoAnswer]
    differences: dict[str, dict[str, Difference]]


def _answers(benchmark: Benchmarked) -> dict[str, Answer]:
    return {n: m for n, m in benchmark["methods"].items() if "failed" not in m}


def _failures(benchmark: Benchmarked) -> dict[str, str]:
    return {n: m["failed"] for n, m in benchmark["methods"].items() if "failed" in m}


def _reference(benchmark: Benchmarked) -> str:
    """The method that others are compared with, which is the one without a difference; "" if none was compared."""
    names = [n for n in _answers(benchmark) if n not in benchmark["differences"]]
    return names[0] if benchmark["differences"] and len(names) == 1 else ""


def _name(metric: str) -> str:
    return "AUC" if metric == "auc" else metric


def _spread(figure: Mean | Difference | None, sign: bool = False) -> str:
    """Mean ± deviation."""
    if figure is None:
        return ""
    deviation = f" ± {figure['deviation']:.4f}" if "deviation" in figure else ""
    return f"{figure['mean']:{'+' if sign else ''}.4f}{deviation}"


def _change(figure: Mean | Difference | None) -> str:
    """Mean ± deviation over seeds, and the 95 % interval, which includes the noise of test rows."""
    if not figure or "low" not in figure or "high" not in figure:
        return _spread(figure, True)
    return f"{_spread(figure, True)} [{figure['low']:+.4f}, {figure['high']:+.4f}]"


def columns(benchmark: Benchmarked) -> list[str]:
    """Column heads of the table of `rows`."""
    metric = _name(benchmark["metric"])
    grid = [f"{metric}@{k}" for k in benchmark["grid"]]
    return ["method", "AUKC", *grid, "keeps", f"Δ{metric} of it", "search, s"]


def _ranked(benchmark: Benchmarked) -> list[tuple[str, Answer]]:
    """The methods that have an answer, the best area first."""
    sign, last = -1 if benchmark["metric"] == "auc" else 1, str(benchmark["grid"][-1])
    return sorted(_answers(benchmark).items(), key=lambda m: sign * (m[1]["area"] or m[1]["at_k"][last])["mean"])


def rows(benchmark: Benchmarked) -> list[list[str]]:
    """A row for each method, the best area first; then methods without an answer, and the model on all fields."""
    lines: list[list[str]] = []
    ranked = _ranked(benchmark)
    for name, m in ranked:
        at_k = [_spread(m["at_k"][str(k)]) for k in benchmark["grid"]]
        least, most = min(m["kept"]), max(m["kept"])
        keeps = str(least) if least == most else f"{least} to {most}"
        lines.append([name, _spread(m["area"]), *at_k, keeps, _change(m["kept_change"]), f"{m['search_seconds']:.1f}"])
    blank = [""] * len(benchmark["grid"])
    lines += [[n, failed, *blank, "", "", ""] for n, failed in _failures(benchmark).items()]
    if ranked:
        lines.append(["all fields", _spread(ranked[0][1]["full"]), *blank, str(benchmark["fields"]), "", ""])
    return lines


def _difference_rows(benchmark: Benchmarked) -> list[list[str]]:
    """Difference from each other method at each k: mean, its interval and p after Holm's correction."""
    return [
        [
            name,
            *(
                f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] p {d.get('p_holm', d['p']):.3f}"
                for d in by_k.values()
            ),
        ]
        for name, by_k in benchmark["differences"].items()
    ]


def _frontier_rows(answers: Mapping[str, Answer]) -> list[list[str]]:
    """A row for each method and price."""
    return [
        [name, f"{p['gain_share']:g}", " / ".join(map(str, p["kept"])), _change(p["change"])]
        for name, m in answers.items()
        for p in m["frontier"]
    ]


def _near(benchmark: Benchmarked, answers: Mapping[str, Answer]) -> go.Figure:
    """The same curves down to .01 of the metric worse than all fields, to separate the good ones."""
    full = next(iter(answers.values()))["full"]["mean"]
    worse, better = (-0.01, 0.003) if benchmark["metric"] == "auc" else (0.01, -0.003)
    return _curves(benchmark, answers).update_layout(yaxis_range=sorted([full + worse, full + better]))


def _curves(benchmark: Benchmarked, answers: Mapping[str, Answer]) -> go.Figure:
    figure, grid = go.Figure(), benchmark["grid"]
    for i, (name, m) in enumerate((n, m) for n, m in answers.items() if n != "random"):
        add_curve(figure, m["curve"]["grid"], m["curve"]["by_seed"], name, _COLOURS[i % len(_COLOURS)])
    any_curve = next(iter(answers.values()))["curve"]
    if random := any_curve.get("random"):
        add_curve(figure, grid, random, "random", "#9aa1a9", "dot")
    full = {seed: [value, value] for seed, value in any_curve["full"].items()}
    add_curve(figure, [grid[0], grid[-1]], full, "all fields", "#7d8590", "dash")
    height = 420 + 20 * len(answers)  # on a phone each name of the legend has a line of its own
    figure.update_layout(xaxis_title="fields kept, k", yaxis_title=f"test {_name(benchmark['metric'])}", height=height)
    return legend_above(figure)


def _lead(benchmark: Benchmarked) -> str:
    ranked, metric = _ranked(benchmark), _name(benchmark["metric"])
    if not ranked:
        return "No method gave an answer."
    (best, m), *others = ranked
    seeds = f"{len(benchmark['seeds'])} seed{'s' if len(benchmark['seeds']) > 1 else ''}"
    after = f", then {others[0][0]}, {_spread(others[0][1]['area'])}" if others else ""
    text = f"{best} ranks best: mean test {metric} over the grid (AUKC) {_spread(m['area'])}{after}; {seeds}. "
    name = _reference(benchmark) or best
    m = dict(ranked)[name]
    text += f"What {name} keeps ({' / '.join(map(str, m['kept']))} of {benchmark['fields']} fields) changes the "
    return f"{text}{metric} of all fields by {_change(m['kept_change'])}."


def write_page(benchmark: Benchmarked, path: Path) -> None:
    """One self-contained page: which method ranks best, the table, the curves, and where each report is."""
    answers, metric = _answers(benchmark), _name(benchmark["metric"])
    notes = [f"{n} has no answer: {failed}" for n, failed in _failures(benchmark).items()]
    unsound = {m["health"]["reason"]: m["health"]["verdict"] for m in answers.values()}
    notes += [f"The model is {verdict}: {reason}." for reason, verdict in unsound.items() if verdict != "sound"]
    title = "Methods (mean ± deviation over seeds; Δ is paired with all fields, and its 95 % interval in brackets "
    title += "holds the noise of seeds and of test rows)"
    sections: list[tuple[str, str | go.Figure]] = [(title, table(columns(benchmark), rows(benchmark)))]
    if answers:
        links = [
            [Markup('<a href="{}">{}</a>').format(m["report"], n), m["smallest_k"] or "none"]
            for n, m in answers.items()
        ]
        sections += [
            (f"Test {metric} of a model retrained on the top k", _curves(benchmark, answers)),
            ("The same, at most .01 worse than all fields", _near(benchmark, answers)),
            ("Reports, and the smallest k within .001 of all fields", table(["method", "smallest k"], links)),
        ]
    if benchmark["differences"]:
        heads = [f"{_reference(benchmark)} −", *(f"{metric}@{k}" for k in benchmark["grid"])]
        title = "Paired differences with 95 % intervals over seeds and test rows, p corrected by Holm for all of them"
        sections.append((title, table(heads, _difference_rows(benchmark))))
    if priced := _frontier_rows(answers):
        heads = ["method", "price, share of the model's gain", "fields kept, by seed", f"Δ{metric} of a retrain"]
        title = "Fields kept against what a retrain on them loses, at each price, with the same intervals"
        sections.append((title, table(heads, priced)))
    write_text(path, page("Feature selectors compared", _lead(benchmark), notes, sections))

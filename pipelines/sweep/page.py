"""sweep.html: the results of a sweep: every trial, which settings mattered, and the winner on test."""

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from pipelines.sweep.space import overrides_of
from pipelines.sweep.swept import Swept, Tried
from recsys.files import write_text
from recsys.pages.html import page, table
from recsys.selection.reports.report import Difference

__all__ = ["lead", "write_page"]

_COLOURS = {"finished": "#3b6fb6", "stopped early": "#9aa1a9", "best so far": "#2a7f62", "default": "#c77700"}


def _settings(changes: Mapping[str, Any]) -> str:
    return "  ".join(overrides_of(changes))


def _change(change: Difference) -> str:
    """Mean and its 95 % interval."""
    return f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"


def lead(swept: Swept) -> str:
    """The first sentences: whether a trial beats the default, and by how much on test."""
    count, best, finals = len(swept.trials), swept.winner, swept.finals
    default, where = swept.default.logloss, "on validation"
    if finals:
        default, where = fmean(finals["default"]), f"on validation, mean over {_seeds(swept)}"
    if best is None or best.figures is None:
        return f"None of {count} trials beats the default {where}, where its logloss is {default:.4f}."
    what = "lowest logloss" if not swept.settings.beta else "lowest logloss for its seconds"
    logloss = fmean(finals[str(best.number)]) if finals else best.figures.logloss
    text = f"Trial {best.number} of {count} has the {what} {where}: {logloss:.4f} (default {default:.4f}). "
    if not swept.change:
        return f"{text}It was not compared on test."
    figures = " and ".join(f"{'AUC' if m == 'auc' else m} by {_change(d)}" for m, d in swept.change.items())
    return f"{text}Against the default, under the same seeds, it changes test {figures}."


def _seeds(swept: Swept) -> str:
    count = len(swept.settings.seeds)
    return f"{count} seed{'s' * (count > 1)}"


def _notes(swept: Swept) -> list[str]:
    causes = Counter(t.error for t in swept.trials if t.state == "failed")
    beside = "Trials ran beside each other, which slows them down: their seconds do not compare."
    failed = [f"{n} trial{'s' * (n > 1)} failed: {cause}" for cause, n in causes.most_common(5)]
    return [*failed, beside] if swept.beside else failed


def _history(swept: Swept) -> go.Figure:
    """Validation logloss of each trial (of a stopped one, at its best look), and the lowest so far."""
    figure = go.Figure()
    finished = [(t, t.figures.logloss) for t in swept.trials if t.figures]
    stopped = [(t, min(t.looks.values())) for t in swept.trials if t.state == "stopped early" and t.looks]
    for name, points, symbol in (("finished", finished, "circle"), ("stopped early", stopped, "x")):
        figure.add_scatter(
            x=[t.number for t, _ in points], y=[loss for _, loss in points], mode="markers", name=name,
            text=[_settings(t.changes) for t, _ in points], marker={"color": _COLOURS[name], "symbol": symbol},
        )  # fmt: skip
    lowest, green = list(accumulate((loss for _, loss in finished), min)), _COLOURS["best so far"]
    line = {"color": green, "shape": "hv"}
    figure.add_scatter(x=[t.number for t, _ in finished], y=lowest, name="best so far", line=line)
    dashes = {"color": _COLOURS["default"], "dash": "dash"}
    figure.add_hline(swept.default.logloss, line=dashes, annotation_text="default")
    return figure.update_layout(xaxis_title="trial", yaxis_title="validation logloss", height=380)


def _importance(swept: Swept) -> go.Figure:
    """The twelve settings that matter most, the first on top."""
    shares = dict(sorted(swept.importance.items(), key=lambda item: item[1])[-12:])
    figure = go.Figure(go.Bar(x=list(shares.values()), y=list(shares), orientation="h", marker_color="#3b6fb6"))
    return figure.update_layout(xaxis_title="share", height=120 + 26 * len(shares))


def _front(swept: Swept) -> go.Figure:
    """Logloss against seconds, coloured by bytes; those on the front are diamonds."""
    figure = go.Figure()
    finished = [(t, t.figures) for t in swept.trials if t.figures]
    sizes = [f.bytes / 1e6 for _, f in finished]
    scale = {"coloraxis": "coloraxis"}
    for name, symbol, size in (("on the front", "diamond", 11), ("beaten by another", "circle", 7)):
        points = [(t, f) for t, f in finished if (t.number in swept.front) == (symbol == "diamond")]
        figure.add_scatter(
            x=[f.seconds for _, f in points], y=[f.logloss for _, f in points], mode="markers", name=name,
            text=[f"trial {t.number}, {f.bytes / 1e6:.2f} MB  {_settings(t.changes)}" for t, f in points],
            marker={"symbol": symbol, "size": size, "color": [f.bytes / 1e6 for _, f in points], **scale},
        )  # fmt: skip
    default, star = swept.default, {"symbol": "star", "size": 13, "color": _COLOURS["default"]}
    size_text = [f"{default.bytes / 1e6:.2f} MB"]
    figure.add_scatter(
        x=[default.seconds], y=[default.logloss], mode="markers", name="default", text=size_text, marker=star
    )
    axis = {"colorscale": "Viridis", "cmin": min(sizes), "cmax": max(sizes), "colorbar": {"title": "MB"}}
    figure.update_layout(coloraxis=axis, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"}, height=420)
    seconds = {"title": "seconds to the best look", "type": "log"}
    return figure.update_layout(xaxis=seconds, yaxis_title="validation logloss")


def _row(swept: Swept, trial: Tried) -> list[object]:
    figures = trial.figures
    shown = [f"{figures.logloss:.4f}", f"{figures.seconds:.1f}", f"{figures.bytes / 1e6:.2f}"] if figures else [""] * 3
    on_front = "yes" if trial.number in swept.front else ""
    return [trial.number, trial.state, *shown, on_front, _settings(trial.changes), trial.error]


def _finals(swept: Swept) -> str:
    """A row for the default and each finalist, with its validation logloss under each seed."""
    rows = [
        [name, f"{fmean(losses):.4f}", *(f"{loss:.4f}" for loss in losses)] for name, losses in swept.finals.items()
    ]
    return table(["trial", "mean", *(f"seed {s}" for s in swept.settings.seeds)], rows)


def _on_test(swept: Swept) -> str:
    """A row for each metric and model, with a value for each seed."""
    rows: list[list[object]] = []
    for metric, values in swept.by_seed.items():
        for name, by_seed in values.items():
            change = _change(swept.change[metric]) if name == "best" else ""
            rows.append([f"{metric}, {name}", *(f"{v:.4f}" for v in by_seed), change])
    return table(["", *(f"seed {s}" for s in swept.settings.seeds), "best − default"], rows)


def _trials(swept: Swept) -> str:
    """A row for each trial, the lowest logloss first; the default above."""
    default = Tried(-1, "", {}, swept.default)
    order = {t.number: t.figures.logloss if t.figures else float("inf") for t in swept.trials}
    rows = [_row(swept, t) for t in sorted(swept.trials, key=lambda t: (order[t.number], t.number))]
    heads = ["trial", "state", "logloss", "seconds", "MB", "on the front", "settings", "error"]
    return table(heads, [["default", *_row(swept, default)[1:]], *rows])


def write_page(swept: Swept, path: Path) -> None:
    """Write sweep.html, one self-contained page."""
    sections: list[tuple[str, str | go.Figure]] = []
    if swept.change:
        title = "On test, trained over seeds (95 % intervals hold the noise of seeds and of test rows)"
        sections.append((title, _on_test(swept)))
    if swept.finals:
        sections.append(("Validation logloss of the finalists, trained over seeds", _finals(swept)))
    if any(t.figures for t in swept.trials):
        sections += [("Trials in their order", _history(swept)), ("Logloss, seconds and bytes", _front(swept))]
    if swept.importance:
        sections.append(("What tells the best tenth of trials from the others", _importance(swept)))
    sections.append(("All trials, the lowest validation logloss first", _trials(swept)))
    write_text(path, page(f"Sweep of {swept.data}", lead(swept), _notes(swept), sections))

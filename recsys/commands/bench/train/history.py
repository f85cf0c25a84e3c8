"""`recsys bench history`: one page that draws the kept figures of `recsys bench train` over commits."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import plotly.graph_objects as go
from plotly.colors import qualitative

from recsys.commands.bench.train.cases import FLOOR, OURS, PRECISIONS
from recsys.commands.bench.train.results import Kept, Middle, ratios, read_kept
from recsys.commands.bench.train.targets import MEMORY_CASE, memory_shares, targets
from recsys.errors import DataError
from recsys.files import followed, write_text
from recsys.pages.html import Markup, page, table

__all__ = ["history_page", "main", "read_all"]

_COLOURS = qualitative.Plotly
_STYLES = (("solid", "circle"), ("dash", "square"), ("dot", "diamond"), ("dashdot", "cross"), ("longdash", "x"))


def read_all(folder: Path) -> list[Kept]:
    """All kept figures of a folder, in the order of their commits.

    Raises:
        DataError: If there are none, or one is damaged.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(f"bench history: expected figures in {folder}, found none: recsys bench train --keep")
    return sorted(map(read_kept, paths), key=lambda k: (k.record["committed"], k.record["date"]))


def _label(k: Kept) -> str:
    return f"{k.record['committed'][:10]} {k.record['commit'][:8]}"


def _drawn(history: Sequence[Kept], figures: Callable[[Kept], dict[str, Middle]], y: str, log: bool) -> go.Figure | str:
    """A line for each figure over commits, with quartiles; or a sentence if there are no figures.

    Names are `CASE: SIDE`: a case has a colour, and a side a dash and a symbol.
    """
    values = [figures(k) for k in history]
    names = list(dict.fromkeys(n for v in values for n in v))
    if not names:
        return "Not measured."
    labels, figure = [_label(k) for k in history], go.Figure()
    cases, sides = (list(dict.fromkeys(n.partition(": ")[i] for n in names)) for i in (0, 2))
    for name in names:
        case, _, side = name.partition(": ")
        colour, (dash, symbol) = _COLOURS[cases.index(case) % len(_COLOURS)], _STYLES[sides.index(side) % len(_STYLES)]
        points = [v.get(name) for v in values]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [p and p.high - p.median for p in points],
            "arrayminus": [p and p.median - p.low for p in points],
        }
        median = [p and p.median for p in points]
        look = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": symbol}}
        figure.add_scatter(x=labels, y=median, error_y=bars, mode="lines+markers", name=name, **look)
    figure.update_layout(yaxis_title=y, height=120 + 22 * max(12, len(names)), legend={"orientation": "h", "y": -0.25})
    figure.update_xaxes(type="category")
    ticks = {"type": "log", "dtick": "D2", "tickformat": "~g"}  # at 1, 2 and 5 times powers of 10
    figure.update_yaxes(**(ticks if log else {"rangemode": "tozero"}))
    return figure


def _times_peers(k: Kept, loaders: bool) -> dict[str, Middle]:
    first = f"{OURS} {k.record['precisions'][0]} / "
    return {
        f"{case}: {name.removeprefix(first).removesuffix(', loaders')}": value
        for case, figures in k.cases.items()
        for name, value in ratios(figures).items()
        if name.startswith(first) and FLOOR not in name and name.endswith(", loaders") == loaders
    }


def _of_floor(k: Kept) -> dict[str, Middle]:
    return {
        f"{case}: {name.removeprefix(f'{OURS} ').replace(f' / {FLOOR} {half}', '')}": value
        for case, figures in k.cases.items()
        for half in PRECISIONS
        for name, value in ratios(figures).items()
        if f"/ {FLOOR} {half}" in name
    }


def _of_memory_steps(k: Kept) -> dict[str, Middle]:
    loaders = {
        f"{case}: loader, {name.split()[1]}": value
        for case, figures in k.cases.items()
        for name, value in ratios(figures).items()
        if name.endswith("loader / memory")
    }
    return loaders | ({"whole run": k.run.share} if k.run else {})


def _memory(k: Kept) -> dict[str, Middle]:
    shares: dict[str, Middle] = {}
    for case, figures in k.cases.items():
        side = f"{OURS} {k.record['precisions'][0]}"
        if case == MEMORY_CASE and side in figures.sides:
            for name, value in zip(("peak", "added by training"), memory_shares(figures, side), strict=True):
                shares[f"{case}: {name}"] = Middle(value, value, value)
    return shares


def _rates(k: Kept) -> dict[str, Middle]:
    return {f"{case}: {side}": f.rate(side) for case, f in k.cases.items() for side in f.sides if side.startswith(OURS)}


def _wanted(k: Kept) -> Markup:
    rows = [t.words for t in targets(k.cases, k.run, k.record["precisions"][0])]
    return table(("what", "measured", "wanted", ""), rows)


def history_page(history: Sequence[Kept]) -> str:
    """The page, over all commits; its table is of the newest one."""
    newest = history[-1]
    record, held = newest.record, targets(newest.cases, newest.run, newest.record["precisions"][0])
    met, judged = sum(t.met is True for t in held), sum(t.met is not None for t in held)
    lead = f"{_label(newest)}: {met} of {judged} measured figures are as wanted."
    machines = {f"{k.record['machine']['processor']}, {k.record['threads']} threads" for k in history}
    notes = [f"measured on unlike machines: {'; '.join(sorted(machines))}"] if len(machines) > 1 else []
    load = max(record["load"]["before"][0], record["load"]["after"][0])
    if load > record["threads"] + 1:
        notes.append(f"the newest was measured beside other work: load {load:.1f}")
    reasons = {(side, why) for figures in newest.cases.values() for side, why in figures.missing.items()}
    notes += [f"{side}: {why}" for side, why in sorted(reasons)]
    times = "times as fast"
    drawn = {
        "Times other libraries, in memory": _drawn(history, partial(_times_peers, loaders=False), times, True),
        "Times other libraries, through loaders": _drawn(history, partial(_times_peers, loaders=True), times, True),
        "Share of the matrix products alone": _drawn(history, _of_floor, "share", False),
        "Share of steps in memory": _drawn(history, _of_memory_steps, "share", False),
        "Memory over rows of tables and optimiser": _drawn(history, _memory, "ratio", False),
        "Rows a second, which depend on the machine": _drawn(history, _rates, "rows a second", False),
    }
    how = (
        "Medians and quartiles of turns that stood side by side; recsys bench train. Ratios hold on another machine, "
        f"rows a second do not. Newest: {record['machine']['processor']}, {record['threads']} threads, "
        f"{record['turns']} turns."
    )
    return page("Training speed", lead, notes, [("Wanted", _wanted(newest)), *drawn.items(), ("How", how)])


def main(given: Namespace) -> int:
    """Write the page, and print its path.

    Raises:
        DataError: If there are no figures, or some are damaged.
    """
    out = given.out or given.results.parent / "train.html"
    write_text(followed(out), history_page(read_all(given.results)))
    print(out)
    return 0

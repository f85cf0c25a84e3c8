"""The selection report as one page that a person reads, decision first; and as CSV."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from recsys.files import whole, write_text
from recsys.pages.html import Markup, page, table
from recsys.selection.reports.curve_plot import add_curve, convergence, legend_above
from recsys.selection.scores import UNSETTLED

__all__ = ["write_csv", "write_html"]

_COLOURS = {"keep": "#2a7f62", "protected": "#3b6fb6", "uncertain": "#c77700", "drop": "#9aa1a9"}
_MOST_BARS = 80
_LEAST_SHARE = 0.02  # of the tables' bytes: less is not worth a word in the lead
_FEW = 30  # fields up to which permutation importance is as cheap as gates
_CAUTIONS = {
    "no signal": "No signal: {}. No field can be told from noise; none is dropped.",
    "inconclusive": "Inconclusive: {}. Give more held-out rows or regularise the model, then select again.",
}
Report = Mapping[str, Any]


def write_csv(report: Report, path: Path) -> None:
    """A row a field, in order of importance; an interval is two columns."""
    rows: list[dict[str, Any]] = []
    for name, f in report["fields"].items():
        low, high = f.get("interval", ("", ""))
        plain = {k: v for k, v in f.items() if k != "interval"}
        rows.append({"field": name, **plain, **({"low": low, "high": high} if "interval" in f else {})})
    columns = list(dict.fromkeys(k for row in rows for k in row))
    with whole(path, newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _amount(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} B"


def _lead(report: Report) -> str:
    fields, saved = report["fields"], report["savings"]
    dropped = [n for n, f in fields.items() if f["verdict"] == "drop"]
    if not dropped:
        return f"Keep all {len(fields)} fields: none is worth dropping, or none can be told from noise."
    named = ", ".join(dropped[:8]) + (f" and {len(dropped) - 8} more" if len(dropped) > 8 else "")
    lead = f"Drop {len(dropped)} of {len(fields)} fields: {named}. "
    lead += _cost(report)
    if saved["note"]:
        return f"{lead}What it saves is not known: {saved['note']}"
    lead += f"{_time(saved)} Inputs: {saved['width']} of {saved['before']['width']} fewer."
    if saved["table_bytes"] >= _LEAST_SHARE * saved["before"]["table_bytes"]:
        lead += f" Tables: {_amount(saved['table_bytes'])} of {_amount(saved['before']['table_bytes'])} less."
    if probes := report["probes"]:
        lead += f" Probes imply {probes['false_discovery_rate']:.0%} false discoveries among what is kept"
        lead += f" (at most {probes['at_most']:.0%})."
    return lead


def _time(saved: Report) -> str:
    before, (low, high) = saved["before"], saved["us_per_row_interval"]
    said = f"Scoring takes {saved['us_per_row']:.2f} of {before['us_per_row']:.2f} µs a row less"
    if low <= 0:
        said = "Scoring takes no less time that could be measured"
    said += f" (95 %: {low:.2f} to {high:.2f} µs less)."
    low, high = (v / before["train_us_per_row"] for v in saved["train_us_per_row_interval"])
    share = saved["train_us_per_row"] / before["train_us_per_row"]
    said += f" A training step takes {share:.0%} less time" if low > 0 else " A training step takes as long as before"
    return f"{said} (95 %: {low:.0%} to {high:.0%} less)."


def _cost(report: Report) -> str:
    """What training on the kept fields alone changes, where that was tried; else what shuffling the others does."""
    if not report.get("curve"):
        return f"With them shuffled in the model as it stands, {_loses(report['shuffled'])}. "
    curve, change = report["curve"], report["curve"]["summary"]["kept_change"]
    tried = f"over {len(curve['kept'])} seeds" if len(curve["kept"]) > 1 else "under one seed"
    interval = f" (95 %: {change['low']:+.4f} to {change['high']:+.4f})" if "low" in change else ""
    trained = "Trained without them" if len(curve["kept"]) == 1 else "Trained on what each seed's search keeps"
    return f"{trained}, test {curve['metric']} changes by {change['mean']:+.4f}{interval} {tried}. "


def _loses(shuffled: Report) -> str:
    half = 1.96 * shuffled["delta_logloss_error"]
    lost = f"held-out logloss changes by {shuffled['delta_logloss']:+.5f} ± {half:.5f}"
    return f"{lost} and AUC by {shuffled['delta_auc']:+.4f}"


def _retrained(curve: Report) -> go.Figure:
    figure = go.Figure()
    add_curve(figure, curve["grid"], curve["by_seed"], "top k by this method", _COLOURS["keep"])
    if curve["random"]:
        add_curve(figure, curve["grid"], curve["random"], "random k", "#9aa1a9", "dot")
    ends = [curve["grid"][0], curve["grid"][-1]]
    add_curve(figure, ends, {s: [v, v] for s, v in curve["full"].items()}, "all fields", "#7d8590", "dash")
    figure.update_layout(xaxis_title="fields kept, k", yaxis_title=f"test {curve['metric']}", height=340)
    return legend_above(figure)


def _savings(saved: Report) -> str:
    names = {
        "fields": "fields", "width": "inputs", "parameters": "parameters", "table_bytes": "table bytes",
        "optimizer_bytes": "optimiser bytes", "us_per_row": "µs a row, scoring",
        "train_us_per_row": "µs a row, a training step",
    }  # fmt: skip
    before, after = saved["before"], saved["after"]
    rows = [
        [text, saved[k], f"{saved[k] / before[k]:.0%}" if before[k] else "", before[k], after[k]]
        for k, text in names.items()
        if k in before
    ]
    return table(["", "saved", "share", "now", "on what is kept"], rows)


def _sure(report: Report) -> str:
    """What speaks for and against the verdicts, a sentence each."""
    health, fields, probes = report["health"], report["fields"], report["probes"]
    ranks = ""
    if "rank_agreement" in health:
        ranks = f", and by {health['rank_agreement']:.2f} on their order, in which all fields count alike"
    said = [
        f"The model: held-out AUC {health['valid_auc']:.4f} (training {health['train_auc']:.4f}); it gains "
        f"{health['gain']:.5f} ± {1.96 * health['gain_error']:.5f} nats a row over a constant; two halves of the "
        f"held-out rows agree by {health['agreement']:.2f} on what fields are worth, of which strong "
        f"fields say most{ranks} (1: the same, 0: by chance): {health['verdict']}."
    ]
    if probes:
        said.append(
            f"{probes['probes_kept']} of {probes['probes']} probe fields (shuffled copies) were kept, which implies "
            f"{probes['false_discovery_rate']:.0%} false discoveries among the kept (at most {probes['at_most']:.0%})."
        )
    else:
        said.append("No probe fields were used: select.probes=20 would tell how many kept fields are luck.")
    uncertain = [n for n, f in fields.items() if f["verdict"] == "uncertain"]
    if uncertain:
        said.append(f"Uncertain, and so kept: {', '.join(uncertain)}.")
    if any("gate" in f for f in fields.values()):
        between = [n for n, f in fields.items() if UNSETTLED[0] < f.get("gate", 0) < UNSETTLED[1]]
        said.append(f"Gates that have not settled: {', '.join(between) or 'none'}.")
        if report["method"] == "leap" and len(fields) <= _FEW:
            said.append(
                f"With {len(fields)} fields selection=permutation costs about as much, and shuffles each "
                "field in the trained model."
            )
    if not any("interval" in f for f in fields.values()):
        said.append(
            "Scores have no interval: experiment=selection_benchmark gives one over seeds, recsys compare stability."
        )
    pairs = [f"{', '.join(g['fields'])} ({g['redundancy']:.2f})" for g in report["clusters"]["found"]]
    said.append(f"Fields that repeat each other: {'; '.join(pairs) or 'none'}.")
    if curve := report.get("curve"):
        near = curve["summary"]["smallest_k"]
        said.append(f"Fewest fields of the grid within .001 of all fields' {curve['metric']}: {near or 'none'}.")
        if report["shuffled"]:
            said.append(f"With what is dropped shuffled instead of trained without, {_loses(report['shuffled'])}.")
    else:
        said.append("What dropping costs in AUC shows once stages retrain and evaluate have run (evaluation.html).")
    return Markup("<ul>{}</ul>").format(Markup().join(Markup("<li>{}</li>").format(s) for s in said))


def _importance(report: Report) -> go.Figure:
    shown = dict(list(report["fields"].items())[:_MOST_BARS])
    figure = go.Figure()
    for verdict, colour in _COLOURS.items():
        part = {n: f for n, f in shown.items() if f["verdict"] == verdict}
        if not part:
            continue
        half = [(f["interval"][1] - f["interval"][0]) / 2 if "interval" in f else 0.0 for f in part.values()]
        error = {"array": half, "color": "#7d8590"} if any(half) else None
        figure.add_bar(
            x=[f["score"] for f in part.values()], y=list(part), orientation="h", name=verdict,
            marker_color=colour, error_x=error,
        )  # fmt: skip
    names = list(shown)[::-1]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names)
    figure.update_yaxes(tickvals=names, ticktext=[_short(n) for n in names])  # two names may be short for the same
    figure.update_layout(height=130 + 20 * len(shown), barmode="overlay", xaxis_title=_score_title(report["method"]))
    return legend_above(figure)


def _score_title(method: str) -> str:
    return "LeAP's gate score (no unit: its order counts)" if method == "leap" else f"score by {method}"


def _short(name: str) -> str:
    """Plotly's axis would leave no room for bars on a phone; all names are in the table."""
    return name if len(name) <= 22 else f"{name[:12]}…{name[-9:]}"


def _gates(fields: Report) -> go.Figure:
    figure = go.Figure()
    for verdict, colour in _COLOURS.items():
        gates = [f["gate"] for f in fields.values() if f["verdict"] == verdict]
        if gates:
            bins = {"start": 0, "end": 1.0001, "size": 0.05}
            figure.add_histogram(x=gates, xbins=bins, name=verdict, marker_color=colour)
    figure.update_layout(barmode="stack", xaxis_title="gate", yaxis_title="fields", height=300, xaxis_range=[0, 1])
    return legend_above(figure)


def _path(report: Report) -> go.Figure:
    """How many gates are open at each price of the ramp, and which closed there."""
    most = 0.1  # where the ramp ends: a gate that is open there has not closed
    closes = sorted((f["closes_at"], n) for n, f in report["fields"].items() if f["closes_at"] < most)
    total, price = len(report["fields"]), report["search"]["price"]
    x = [1e-5, *(c for c, _ in closes), most]
    y = [*range(total, total - len(closes) - 1, -1), total - len(closes)]
    text = [f"{total} open", *(f"{n} closes at {c:.1e}" for c, n in closes), f"{y[-1]} still open"]
    figure = go.Figure()
    figure.add_scatter(
        x=x, y=y, text=text, mode="lines+markers", line={"shape": "hv", "color": _COLOURS["keep"]}, name="open gates",
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    price_line = {"dash": "dot", "color": _COLOURS["uncertain"]}
    figure.add_scatter(x=[price, price], y=[0, total], mode="lines", line=price_line, name=f"price {price:.1e}")
    figure.update_xaxes(type="log", exponentformat="power", dtick=1, title="λ of the climb (gates lag behind it)")
    figure.update_layout(height=320, yaxis={"title": "open gates", "rangemode": "tozero"})
    return legend_above(figure)


def _fields(report: Report) -> str:
    columns = (
        "field", "rank", "verdict", "reason", "score", "interval", "price", "delta_logloss", "delta_logloss_error",
        "delta_auc", "gate", "closes_at", "kind",
        "cardinality", "width", "active_share", "change_rate", "weight", "table_bytes", "optimizer_bytes", "cluster",
    )  # fmt: skip
    fields = report["fields"]
    shown = [c for c in columns if c == "field" or any(f.get(c) is not None for f in fields.values())]

    def cell(name: str, f: Report, column: str) -> object:
        if column == "field":
            return name
        if column == "interval" and column in f:
            return f"{f[column][0]:.3g} to {f[column][1]:.3g}"
        value = f.get(column)
        return "" if value is None else value

    heads = {
        "score": "gate score" if report["method"] == "leap" else "score",
        "price": "price, nats a row",
        "delta_logloss": "worth, nats a row",
        "delta_logloss_error": "± one standard error",
        "closes_at": "closes at λ",
    }
    return table(
        [heads.get(c, c.replace("_", " ")) for c in shown], [[cell(n, f, c) for c in shown] for n, f in fields.items()]
    )


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _search(report: Report) -> str:
    about, search = report["provenance"], report["search"]
    rows = [["method", report["method"]]]
    labels = {"steps": "steps, of all passes over the gates"}
    shown = ("seconds", "price", "steps", "repeats", "alpha", "rows")
    rows += [[labels.get(k, k), search[k]] for k in shown if k in search]
    rows += [[k, about[k]] for k in ("data", "split", "policy", "seed", "versions") if k in about]
    return table(["", ""], [[k, _words(v)] for k, v in rows])


def write_html(report: Report, path: Path) -> None:
    """One self-contained page: the decision, what it saves, how sure; then importance and every field."""
    fields, health, groups = report["fields"], report["health"], report["clusters"]["found"]
    notes = [_CAUTIONS[health["verdict"]].format(health["reason"])] if health["verdict"] in _CAUTIONS else []
    notes += report["search"].get("warnings", [])
    title = "Importance" if len(fields) <= _MOST_BARS else f"Importance of the first {_MOST_BARS} of {len(fields)}"
    sections: list[tuple[str, str | go.Figure]] = []
    if "after" in report["savings"]:
        sections.append(("What it saves (µs: eager, 512 rows at a time, on this machine)", _savings(report["savings"])))
    sections.append(("How sure", _sure(report)))
    if report.get("curve"):
        sections.append(("Retrained from scratch on the top k", _retrained(report["curve"])))
    sections += [(title, _importance(report))]
    if all("gate" in f for f in fields.values()):
        sections.append(("Gates: near 0 or 1 is settled", _gates(fields)))
    if all("closes_at" in f for f in fields.values()):
        sections.append(("The λ at which each gate closes", _path(report)))
    if bce := report["search"].get("gate_bce"):
        sections.append(
            (
                f"Convergence: loss of the gates' {len(bce)} steps at the price, mean of 20",
                convergence(bce, _COLOURS["keep"]),
            )
        )
    if groups:
        verdicts = [", ".join(f"{n} ({fields[n]['verdict']})" for n in g["fields"]) for g in groups]
        rows = [[g["redundancy"], v] for v, g in zip(verdicts, groups, strict=True)]
        sections.append(("Fields that repeat each other", table(["redundancy", "fields"], rows)))
    sections += [("Fields", _fields(report)), ("Search", _search(report))]
    write_text(path, page("Feature selection report", _lead(report), notes, sections))

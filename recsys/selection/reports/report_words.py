"""The sentences of the selection report's page: the decision first, then the evidence for and against it."""

from collections.abc import Iterator

from recsys.selection.figures import ProbeFindings, ShuffledCost
from recsys.selection.reports.report import Health, Report, Savings
from recsys.selection.scores import UNSETTLED

__all__ = ["lead", "sure"]

_LEAST_SHARE = 0.02  # least saved share of the tables' bytes that the lead mentions
_FEW = 30  # for at most so many fields, permutation importance is as cheap as gates


def _amount(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} B"


def lead(report: Report) -> str:
    """The decision, its cost and its savings."""
    saved, dropped = report.savings, [n for n, f in report.fields.items() if not f.kept]
    if not dropped:
        return f"Keep all {len(report.fields)} fields: none is worth dropping, or none can be told from noise."
    named = ", ".join(dropped[:8]) + (f" and {len(dropped) - 8} more" if len(dropped) > 8 else "")
    text = f"Drop {len(dropped)} of {len(report.fields)} fields: {named}. {_cost(report)}"
    if saved.note:
        return f"{text}What it saves is not known: {saved.note}"
    text += f"{_time(saved)} Inputs: {saved.figures['width']} of {saved.before['width']} fewer."
    saved_bytes, all_bytes = saved.figures["table_bytes"], saved.before["table_bytes"]
    if saved_bytes >= _LEAST_SHARE * all_bytes:
        text += f" Tables: {_amount(saved_bytes)} of {_amount(all_bytes)} less."
    if report.probes:
        text += f" Probes imply {report.probes.false_discovery_rate:.0%} false discoveries among what is kept"
        text += f" (at most {report.probes.at_most:.0%})."
    return text


def _time(saved: Savings) -> str:
    low, high = saved.us_per_row_interval
    text = f"Scoring takes {saved.figures['us_per_row']:.2f} of {saved.before['us_per_row']:.2f} µs a row less"
    if low <= 0:
        text = "Scoring takes no less time that could be measured"
    text += f" (95 %: {low:.2f} to {high:.2f} µs less)."
    whole_step = saved.before["train_us_per_row"]
    low, high = (v / whole_step for v in saved.train_us_per_row_interval)
    share = saved.figures["train_us_per_row"] / whole_step
    text += f" A training step takes {share:.0%} less time" if low > 0 else " A training step takes as long as before"
    return f"{text} (95 %: {low:.0%} to {high:.0%} less)."


def _cost(report: Report) -> str:
    """The change by training on the kept fields alone, if that was tried; else by shuffling the others."""
    curve = report.curve
    if not curve or "summary" not in curve:
        return f"With them shuffled in the model as it stands, {_loses(report.shuffled)}. " if report.shuffled else ""
    change, seeds = curve["summary"]["kept_change"], len(curve["kept"])
    tried = f"over {seeds} seeds" if seeds > 1 else "under one seed"
    interval = ""
    if "low" in change and "high" in change:
        interval = f" (95 %: {change['low']:+.4f} to {change['high']:+.4f})"
    trained = "Trained without them" if seeds == 1 else "Trained on what each seed's search keeps"
    return f"{trained}, test {curve['metric']} changes by {change['mean']:+.4f}{interval} {tried}. "


def _loses(shuffled: ShuffledCost) -> str:
    half = 1.96 * shuffled.delta_logloss_error
    lost = f"held-out logloss changes by {shuffled.delta_logloss:+.5f} ± {half:.5f}"
    return f"{lost} and AUC by {shuffled.delta_auc:+.4f}"


def sure(report: Report) -> list[str]:
    """The evidence for and against the verdicts, in sentences."""
    return [
        _model(report.health),
        _probes(report.probes),
        *_of_fields(report),
        *_of_retrains(report),
    ]


def _model(health: Health) -> str:
    ranks = ""
    if health.rank_agreement is not None:
        ranks = f", and by {health.rank_agreement:.2f} on their order, in which all fields count alike"
    return (
        f"The model: held-out AUC {health.valid_auc:.4f} (training {health.train_auc:.4f}); it gains "
        f"{health.gain:.5f} ± {1.96 * health.gain_error:.5f} nats a row over a constant; two halves of the "
        f"held-out rows agree by {health.agreement:.2f} on what fields are worth, of which strong "
        f"fields say most{ranks} (1: the same, 0: by chance): {health.verdict}."
    )


def _probes(probes: ProbeFindings | None) -> str:
    if not probes:
        return "No probe fields were used: select.probes=20 would tell how many kept fields are luck."
    return (
        f"{probes.probes_kept} of {probes.probes} probe fields (shuffled copies) were kept, which implies "
        f"{probes.false_discovery_rate:.0%} false discoveries among the kept (at most {probes.at_most:.0%})."
    )


def _of_fields(report: Report) -> Iterator[str]:
    fields = report.fields
    if uncertain := [n for n, f in fields.items() if f.verdict == "uncertain"]:
        yield f"Uncertain, and so kept: {', '.join(uncertain)}."
    gates = {n: f.figures["gate"] for n, f in fields.items() if "gate" in f.figures}
    if gates:
        unsettled = [n for n, gate in gates.items() if UNSETTLED[0] < gate < UNSETTLED[1]]
        yield f"Gates that have not settled: {', '.join(unsettled) or 'none'}."
    if report.search.gate_bce and len(fields) <= _FEW:
        yield (
            f"With {len(fields)} fields selection=permutation costs about as much, and shuffles each "
            "field in the trained model."
        )
    if not any(f.interval for f in fields.values()):
        yield "Scores have no interval: experiment=selection_benchmark gives one over seeds, recsys compare stability."
    repeats = [f"{', '.join(g.fields)} ({g.redundancy:.2f})" for g in report.clusters.found]
    yield f"Fields that repeat each other: {'; '.join(repeats) or 'none'}."


def _of_retrains(report: Report) -> Iterator[str]:
    curve = report.curve
    if not curve or "summary" not in curve:
        yield "What dropping costs in AUC shows once stages retrain and evaluate have run (evaluation.html)."
        return
    smallest = curve["summary"]["smallest_k"] or "none"
    yield f"Fewest fields of the grid within .001 of all fields' {curve['metric']}: {smallest}."
    if report.shuffled:
        yield f"With what is dropped shuffled instead of trained without, {_loses(report.shuffled)}."

"""Reports of one method under several seeds → one report, which shows how much verdicts depend on the seed."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from recsys.selection.figures import ShuffledCost
from recsys.selection.reports.agreement import mean_with_interval
from recsys.selection.reports.report import FieldReport, Provenance, Report

__all__ = ["over_seeds"]


def _verdict(field_S: Sequence[FieldReport]) -> tuple[str, str]:
    """Verdict and reason."""
    verdicts = [f.verdict for f in field_S]
    if (len(set(verdicts)) == 1 and verdicts[0] in ("protected", "uncertain")) or len(field_S) == 1:
        return verdicts[0], field_S[0].reason
    count = sum(f.kept for f in field_S)
    sure = count == len(verdicts) and "keep" in verdicts
    verdict = "drop" if count == 0 else "keep" if sure else "uncertain"
    return verdict, f"kept under {count} of {len(verdicts)} seeds"


def _mean_field(field_S: Sequence[FieldReport]) -> FieldReport:
    """One field over S seeds; its rank is that of the first seed."""
    score = mean_with_interval([f.score for f in field_S])
    verdict, reason = _verdict(field_S)
    names = dict.fromkeys(n for f in field_S for n in f.figures)
    figures = {n: float(np.mean([f.figures[n] for f in field_S if n in f.figures])) for n in names}
    interval = [score["low"], score["high"]] if "low" in score and "high" in score else field_S[0].interval
    return replace(field_S[0], score=score["mean"], interval=interval, verdict=verdict, reason=reason, figures=figures)


def _mean_cost(costs: Sequence[ShuffledCost]) -> ShuffledCost | None:
    figures = [asdict(cost) for cost in costs]
    return ShuffledCost(**{k: float(np.mean([f[k] for f in figures])) for k in figures[0]}) if figures else None


def _seeds(provenance: Provenance) -> list[int]:
    return provenance.seed if isinstance(provenance.seed, list) else [provenance.seed]


def over_seeds(reports: Sequence[Report]) -> Report:
    """Mean scores with their 95 % interval over seeds, and verdicts on which the seeds agree.

    A field that some seeds keep and others drop is uncertain, and therefore kept. The cost of shuffling is the
    mean over the seeds that measured it. Ranks follow the mean score. Health is the worst of all models.
    Savings are those of the first seed: measure them anew if the seeds keep different fields.

    Args:
        reports: Reports of one method on the same data and fields.
    """
    first = reports[0]
    fields = {n: _mean_field([r.fields[n] for r in reports]) for n in first.fields}
    ranking = sorted(fields, key=lambda n: (-fields[n].score, n))
    unsound = [r.health for r in reports if r.health.verdict != "sound"]
    return replace(
        first,
        shuffled=_mean_cost([r.shuffled for r in reports if r.shuffled]),
        search=replace(first.search, seconds=float(np.mean([r.search.seconds for r in reports]))),
        provenance=replace(first.provenance, seed=[s for r in reports for s in _seeds(r.provenance)]),
        health=unsound[0] if unsound else first.health,
        fields={n: replace(fields[n], rank=rank) for rank, n in enumerate(ranking, 1)},
    )

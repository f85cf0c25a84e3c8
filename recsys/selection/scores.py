"""The scores that every selector returns, and the policy that turns scores into a decision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.errors import ConfigError
from recsys.selection.figures import SearchNotes

__all__ = [
    "UNSETTLED",
    "FieldScores",
    "KeepsNothing",
    "Verdict",
    "check_policy",
    "decide",
    "intervals",
    "without_repeats",
]

UNSETTLED = (0.25, 0.75)  # a gate between these has not settled
_PROTECTED = ("protected", "named in select.protect")


class KeepsNothing(ConfigError):
    """No field is worth its price."""


@dataclass(frozen=True)
class FieldScores:
    """A selector's answer.

    Args:
        score: For each field, how much it matters; higher is more. The ranking.
        keep: Whether the method itself would keep the field; None if it gives an order and no cut.
        details: For each field, named figures of the method (gate, weight, price, …).
        notes: Facts of the search.
    """

    score: dict[str, float]
    keep: dict[str, bool] | None
    details: dict[str, dict[str, float]]
    notes: SearchNotes

    @property
    def ranking(self) -> list[str]:
        """Names from most to least important; ties in alphabetical order."""
        return sorted(self.score, key=lambda n: (-self.score[n], n))


@dataclass(frozen=True)
class Verdict:
    """What to do with a field: `keep`, `drop`, `uncertain` (which keeps it) or `protected`, and why."""

    field: str
    verdict: str
    reason: str


def intervals(scores: FieldScores) -> dict[str, tuple[float, float]]:
    """Field → 95 % interval of its score over repeats, if it is a mean of R ≥ 2 repeats.

    mean ± t₀.₉₇₅(R − 1)·s/√R, from `deviation` of the details (which divides by R) and `repeats`.
    """
    repeats = scores.notes.repeats or 1
    if repeats < 2:
        return {}
    from scipy.stats import t

    half = float(t.ppf(0.975, repeats - 1)) / math.sqrt(repeats - 1)
    half_of = {n: half * d["deviation"] for n, d in scores.details.items() if "deviation" in d}
    return {n: (scores.score[n] - h, scores.score[n] + h) for n, h in half_of.items()}


def _in_doubt(scores: FieldScores) -> dict[str, str]:
    """Field whose price is within the interval of its worth → the reason for doubt."""
    price = scores.notes.price
    if price is None:
        return {}
    reasons = {
        n: f"its price {price:.1e} is within its interval: repeat more"
        for n, (low, high) in intervals(scores).items()
        if low <= price <= high
    }
    for name, d in scores.details.items():
        if "delta_logloss_error" in d:
            half, price = 1.96 * d["delta_logloss_error"], d["price"]
            if abs(d["delta_logloss"] - price) <= half:
                reasons[name] = (
                    f"its price {price:.1e} is within what shuffling it costs, {d['delta_logloss']:.1e} ± {half:.1e}"
                )
    return reasons


def _why(scores: FieldScores, name: str) -> str:
    """The reason for which a method keeps or drops a field."""
    d, keep = scores.details.get(name, {}), (scores.keep or {})[name]
    if "price" not in d:
        return "worth at least its price" if keep else "not worth its price"
    price = f"its price of {d['price']:.1e} nats a row"
    if "delta_logloss_error" in d:
        half = 1.96 * d["delta_logloss_error"]
        return f"worth {d['delta_logloss']:.1e} ± {half:.1e}, {'above' if keep else 'below'} {price}"
    return f"its gate {'stays open' if keep else 'closes'} at {price}"


def decide(
    scores: FieldScores,
    top_k: int | None = None,
    protect: Sequence[str] = (),
    doubt: str = "",
    no_cut: int | None = None,
) -> list[Verdict]:
    """Keep the top k, or the fields that the method would keep, and all protected fields.

    Without top_k, a field is uncertain, and therefore kept, if its price is within an interval: that of its
    score over repeats, or that over rows of what shuffling it costs, if that was measured.

    Args:
        scores: The answer of a selector.
        top_k: Count of fields to keep, protected ones included; None follows the method.
        protect: Fields that must stay.
        doubt: Why scores are not reliable; every field is then uncertain and kept. Empty if they are reliable.
        no_cut: top_k for a method that gives an order and no cut.

    Returns:
        One verdict a field, in order of importance.

    Raises:
        ConfigError: If a protected field does not exist; if top_k is out of range, or is missing and needed.
        KeepsNothing: If no field is kept.
    """
    if top_k is None and scores.keep is None:
        top_k = no_cut
    check_policy(list(scores.score), top_k, protect)
    if doubt:
        return [Verdict(n, *(_PROTECTED if n in protect else ("uncertain", doubt))) for n in scores.ranking]
    if top_k is None and scores.keep is None:
        raise ConfigError(
            f"selection={scores.notes.method} gives an order of fields and no cut: set select.top_k, or "
            f"select.no_cut for such methods alone, 1 to {len(scores.score)}"
        )
    free = (top_k or 0) - len(set(protect))
    judged: list[Verdict] = []
    in_doubt = _in_doubt(scores)
    for name in scores.ranking:
        if name in protect:
            judged.append(Verdict(name, *_PROTECTED))
        elif top_k is not None:
            verdict, place = ("keep", "in") if free > 0 else ("drop", "out of")
            judged.append(Verdict(name, verdict, f"{place} the top {top_k}"))
            free -= 1
        elif name in in_doubt:
            judged.append(Verdict(name, "uncertain", in_doubt[name]))
        elif scores.keep is not None:
            judged.append(Verdict(name, "keep" if scores.keep[name] else "drop", _why(scores, name)))
    if all(v.verdict == "drop" for v in judged):
        raise KeepsNothing("selection keeps no field: lower selection.price, or set select.top_k")
    return judged


def without_repeats(verdicts: Sequence[Verdict], groups: Sequence[Sequence[str]]) -> list[Verdict]:
    """In each group of redundant fields, keep only the most important of those that would be kept.

    Args:
        verdicts: In order of importance. Protected fields stay.
        groups: Names of fields, each in one group at most.
    """
    group_of = {n: i for i, g in enumerate(groups) for n in g}
    first: dict[int, str] = {}
    judged: list[Verdict] = []
    for v in verdicts:
        group = group_of.get(v.field)
        if group is None or v.verdict == "drop":
            judged.append(v)
        elif group in first and v.verdict in ("keep", "uncertain"):  # redundant to the first one that is kept
            judged.append(Verdict(v.field, "drop", f"repeats {first[group]}"))
        else:
            first.setdefault(group, v.field)
            judged.append(v)
    return judged


def check_policy(names: Sequence[str], top_k: int | None, protect: Sequence[str]) -> None:
    """Refuse a policy that does not fit these fields, before a long search begins.

    Raises:
        ConfigError: If a protected field does not exist or top_k is out of range.
    """
    if unknown := set(protect) - set(names):
        raise ConfigError(f"select.protect: no field {sorted(unknown)}: expected some of {', '.join(names)}")
    least = max(1, len(set(protect)))
    if top_k is not None and not least <= top_k <= len(names):
        raise ConfigError(f"select.top_k: expected {least} to {len(names)}, got {top_k}: give one, or null")

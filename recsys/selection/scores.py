"""What every selector returns, and the one policy that turns scores into a decision."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys.errors import ConfigError

__all__ = ["FieldScores", "Verdict", "decide"]


@dataclass(frozen=True)
class FieldScores:
    """A selector's answer.

    Args:
        score: For each field, how much it matters; higher is more. The ranking.
        keep: Whether the method itself would keep the field.
        details: For each field, named figures of the method (gate, weight, price, …).
        about: Figures of the search: steps, seconds, price, curves.
    """

    score: dict[str, float]
    keep: dict[str, bool]
    details: dict[str, dict[str, float]]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def ranking(self) -> list[str]:
        """Names from most to least important; ties in alphabetical order."""
        return sorted(self.score, key=lambda n: (-self.score[n], n))


@dataclass(frozen=True)
class Verdict:
    """What to do with a field: `keep`, `drop` or `protected`, and why."""

    field: str
    verdict: str
    reason: str


def decide(scores: FieldScores, top_k: int | None = None, protect: Sequence[str] = ()) -> list[Verdict]:
    """Keep the top k, or what the method would keep; protected fields always.

    Args:
        scores: Of a selector.
        top_k: Count of fields to keep, protected ones included; None follows the method.
        protect: Fields that must stay.

    Returns:
        One verdict a field, in order of importance.

    Raises:
        ConfigError: If a protected field does not exist, top_k is out of range, or nothing is kept.
    """
    if unknown := set(protect) - set(scores.score):
        raise ConfigError(f"select.protect: no field {sorted(unknown)}: expected some of {', '.join(scores.score)}")
    if top_k is not None and not max(1, len(protect)) <= top_k <= len(scores.score):
        raise ConfigError(f"select.top_k: expected {max(1, len(protect))} to {len(scores.score)}, got {top_k}")
    free = (top_k or 0) - len(set(protect))
    made = []
    for name in scores.ranking:
        if name in protect:
            made.append(Verdict(name, "protected", "named in select.protect"))
        elif top_k is not None:
            made.append(
                Verdict(name, "keep" if free > 0 else "drop", f"{'in' if free > 0 else 'out of'} the top {top_k}")
            )
            free -= 1
        else:
            worth = "worth at least its price" if scores.keep[name] else "not worth its price"
            made.append(Verdict(name, "keep" if scores.keep[name] else "drop", worth))
    if all(v.verdict == "drop" for v in made):
        raise ConfigError("selection keeps no field: lower selection.price, or set select.top_k")
    return made

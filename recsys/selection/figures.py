"""What a search measures, as it stands in a report. Nothing heavy is imported here: reports are read without torch."""

from dataclasses import dataclass, field

__all__ = ["ProbeFindings", "SearchNotes", "ShuffledCost"]


@dataclass(frozen=True)
class SearchNotes:
    """What a selector says of its search; the scores stand elsewhere.

    Args:
        method: Name of the selector.
        price: Nats a row that a field must be worth to be kept; None if the method has no price.
        steps: How many it took, in all passes over gates or batches.
        repeats: How many repeats each score is the mean of.
        warnings: Sentences for the user.
        gate_bce: Loss at each step of the gates that decide. Only a method that learns gates in front of the trained
            model itself fills it.
        dimensions: For each field that was split, the gate of each of its dimensions.
        score_note: How a score is to be read, if the method's name does not say it.
        seconds: That the search took; `recsys.selection.search.search_fields` measures them.
        figures: Further numbers of the method, by name.
    """

    method: str
    price: float | None = None
    steps: int | None = None
    repeats: int | None = None
    warnings: list[str] = field(default_factory=list[str])
    gate_bce: list[float] = field(default_factory=list[float])
    dimensions: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    score_note: str = ""
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class ShuffledCost:
    """What a model loses if fields are shuffled over rows; all three count sample weights.

    Args:
        delta_logloss: Nats a row, positive if the model loses.
        delta_logloss_error: Its standard error over rows.
        delta_auc: Negative if the model loses.
    """

    delta_logloss: float
    delta_logloss_error: float
    delta_auc: float


@dataclass(frozen=True)
class ProbeFindings:
    """What probe fields say of the fields that are kept.

    Args:
        probes: How many there were.
        probes_kept: How many of them were kept.
        false_discovery_rate: Share of the kept fields that are useless, as the kept probes imply.
        at_most: The same if one more probe had been kept.
    """

    probes: int
    probes_kept: int
    false_discovery_rate: float
    at_most: float

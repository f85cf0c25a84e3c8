"""Measurements of a search in a report. Nothing heavy is imported here, so that reports are read without torch."""

from dataclasses import dataclass, field

__all__ = ["ProbeFindings", "SearchNotes", "ShuffledCost"]


@dataclass(frozen=True)
class SearchNotes:
    """Facts of a selector's search other than its scores.

    Args:
        method: Name of the selector.
        price: Nats a row that a field must be worth to be kept; None if the method has no price.
        steps: Steps that it took, in all passes over gates or batches.
        repeats: Repeats of which each score is the mean.
        warnings: Sentences for the user.
        gate_bce: Loss at each step of the gates that decide. Only a method that learns gates in front of the trained
            model itself fills it.
        dimensions: Field that was split → the gate of each of its dimensions.
        score_note: How to read a score, if the method's name does not say it.
        seconds: Duration of the search, which `recsys.selection.search.search_fields` measures.
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
    """Changes of a model's metrics if fields are shuffled over rows; all three count sample weights.

    Args:
        delta_logloss: Change in nats a row; positive if the model gets worse.
        delta_logloss_error: Standard error of `delta_logloss` over rows.
        delta_auc: Change of AUC; negative if the model gets worse.
    """

    delta_logloss: float
    delta_logloss_error: float
    delta_auc: float


@dataclass(frozen=True)
class ProbeFindings:
    """An estimate from probe fields of how many kept fields are useless.

    Args:
        probes: Count of probes.
        probes_kept: Count of probes that were kept.
        false_discovery_rate: Share of the kept fields that are useless, as the kept probes imply.
        at_most: The same if one more probe had been kept.
    """

    probes: int
    probes_kept: int
    false_discovery_rate: float
    at_most: float

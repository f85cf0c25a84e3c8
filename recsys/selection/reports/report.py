"""A selection report: the results of a search as a frozen dataclass, written to and read from report.json."""

from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from recsys.selection.figures import ProbeFindings, SearchNotes, ShuffledCost
from recsys.selection.reports.form import from_json, shape_of, to_json

__all__ = ["SHAPE", "VERSION", "Curve", "CurveSummary", "Difference", "FieldReport", "Health", "Mean", "Provenance",
           "RepeatedFields", "Repeats", "Report", "Savings"]  # fmt: skip

VERSION = 5  # version of report.json; other versions are refused


class Mean(TypedDict):
    """A mean; for two values or more also their standard deviation, and the mean's 95 % interval."""

    mean: float
    deviation: NotRequired[float]
    low: NotRequired[float]
    high: NotRequired[float]


class Difference(TypedDict):
    """A mean difference, its standard error, its 95 % interval and the two-sided p value of no difference."""

    mean: float
    error: float
    low: float
    high: float
    p: float
    p_holm: NotRequired[float]
    deviation: NotRequired[float]


class CurveSummary(TypedDict):
    """See `recsys.selection.reports.curve.curve_summary`."""

    at_k: dict[str, Mean]
    area: Mean | None
    kept_change: Mean | Difference
    full: Mean
    smallest_k: int | None


class Curve(TypedDict):
    """Test metric of models that were retrained on the top k fields.

    metric: `auc` or `logloss`. grid: K counts of fields. by_seed: seed → K values. full: seed → value on all fields.
    kept: seed → value on the fields that the method keeps. random: `by_seed` of a random order.
    """

    metric: str
    grid: list[int]
    by_seed: dict[str, list[float]]
    full: dict[str, float]
    kept: dict[str, float]
    random: NotRequired[dict[str, list[float]] | None]
    summary: NotRequired[CurveSummary]


@dataclass(frozen=True)
class Health:
    """Whether the model can tell fields apart: a selector cannot be better than its model.

    Args:
        train_auc: AUC over at most 100,000 training rows.
        valid_auc: AUC over held-out rows.
        gain: Held-out logloss saved over a constant, nats a row.
        gain_error: Standard error of `gain`.
        agreement: Of two halves of the held-out rows, see `recsys.selection.halves.agreement_of_halves`.
        verdict: `sound`, `no signal` or `inconclusive`.
        reason: Reason for the verdict; empty if it is `sound`.
        rank_agreement: Agreement on the fields' order; None if all fields are worth the same on one half.
    """

    train_auc: float
    valid_auc: float
    gain: float
    gain_error: float
    agreement: float
    verdict: str
    reason: str
    rank_agreement: float | None = None


@dataclass(frozen=True)
class Savings:
    """Savings by dropping fields.

    Args:
        before: The model on all fields: fields, width (of x_BW), parameters, table_bytes, optimizer_bytes, and
            us_per_row of scoring and train_us_per_row of a training step, if they were measured.
        figures: `before` − `after`, by the same names.
        note: Why nothing could be measured; all differences are then 0. Empty if it was measured.
        after: The model on the kept fields; None if it cannot be built.
        us_per_row_interval: 95 % interval of the difference: low and high.
        train_us_per_row_interval: The same for a training step.
    """

    before: dict[str, float]
    figures: dict[str, float]
    note: str
    after: dict[str, float] | None = None
    us_per_row_interval: list[float] = field(default_factory=lambda: [0.0, 0.0])
    train_us_per_row_interval: list[float] = field(default_factory=lambda: [0.0, 0.0])


@dataclass(frozen=True)
class RepeatedFields:
    """Redundant fields, in order of importance, and the smallest redundancy that links them."""

    fields: list[str]
    redundancy: float


@dataclass(frozen=True)
class Repeats:
    """Groups of fields that repeat each other.

    Args:
        looked_at: Count of fields that were compared.
        rows: Count of rows on which they were compared.
        threshold: The least redundancy that links two fields.
        found: The groups.
    """

    looked_at: int
    rows: int
    threshold: float
    found: list[RepeatedFields]


@dataclass(frozen=True)
class Provenance:
    """Data, model and settings that a report comes from; `recsys compare` shows them side by side.

    Args:
        data: Name of the prepared data.
        model: Configuration of the model.
        seed: Seed of the search, or seeds of all searches whose mean the report is.
        split: Shape and rows.
        policy: Settings of `select`.
        checkpoint: Folder of the model, relative to the folder of runs.
        selection: Configuration of the selector.
        train: Configuration of the training.
        versions: Versions of packages.
    """

    data: str
    model: dict[str, object]
    seed: int | list[int]
    split: dict[str, object] = field(default_factory=dict[str, object])
    policy: dict[str, object] = field(default_factory=dict[str, object])
    checkpoint: str = ""
    selection: dict[str, object] = field(default_factory=dict[str, object])
    train: dict[str, object] = field(default_factory=dict[str, object])
    versions: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class FieldReport:
    """Results of a search for one field.

    Args:
        rank: Rank from 1, the most important.
        score: Score by the method; higher is more important.
        verdict: `keep`, `drop`, `uncertain` or `protected`; the last two keep the field.
        reason: Reason for the verdict.
        cluster: The most important field of this one's redundant group; None if it is in no group.
        interval: 95 % interval of the score: low and high.
        kind, cardinality, width: Of the field.
        rows, table_bytes, optimizer_bytes: Of tables that only this field reads.
        figures: Further figures of the method, by name: gate, price, delta_logloss, …
    """

    rank: int
    score: float
    verdict: str
    reason: str
    kind: str
    cardinality: int
    width: int
    rows: int
    table_bytes: int
    optimizer_bytes: int
    cluster: str | None
    interval: list[float] | None = None
    figures: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def kept(self) -> bool:
        """Whether the field stays."""
        return self.verdict != "drop"


@dataclass(frozen=True)
class Report:
    """All results of a search.

    Args:
        method: Name of the selector.
        provenance: Where the report comes from.
        search: Facts of the search.
        health: Whether the model can tell fields apart.
        probes: Estimate from probe fields; None if there were none.
        savings: Savings by dropping the fields that are not kept.
        shuffled: Cost of shuffling all dropped fields; None if nothing is dropped, or it was not measured.
        clusters: Fields that repeat each other.
        fields: Name → field, in order of importance.
        curve: Metric of models retrained on the top k; None if none were.
    """

    method: str
    provenance: Provenance
    search: SearchNotes
    health: Health
    probes: ProbeFindings | None
    savings: Savings
    shuffled: ShuffledCost | None
    clusters: Repeats
    fields: dict[str, FieldReport]
    curve: Curve | None = None

    @property
    def kept(self) -> list[str]:
        """The fields that stay, in order of importance."""
        return [n for n, f in self.fields.items() if f.kept]

    def to_json(self) -> dict[str, Any]:
        """What report.json holds."""
        return {"version": VERSION, **to_json(self)}

    @classmethod
    def from_json(cls, value: Any) -> "Report":
        """Undo `to_json`; the value must have been checked against `SHAPE`."""
        return from_json(cls, value)


SHAPE = shape_of(Report)
SHAPE["savings"] |= dict.fromkeys(("table_bytes", "width"), (int, float))
"""What report.json must hold."""

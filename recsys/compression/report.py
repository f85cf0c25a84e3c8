"""The size and error of each part of a compressed model, compared with the trained model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.frame.ctr import CTR
from recsys.tables.contract import TableForm

__all__ = ["PartReport", "compare", "compare_layers", "relative_error"]


@dataclass(frozen=True)
class PartReport:
    """The size and error of one table or dense layer after compression.

    Args:
        part: Name of the table or layer.
        kind: `table` or `layer`.
        rows: V of a table, outputs of a layer.
        dim: D of a table, inputs of a layer.
        bytes_before: Bytes of the trained part.
        bytes_after: Bytes after all steps.
        error: ‖W − Ŵ‖_F / ‖W‖_F, with W the trained numbers, Ŵ those that scoring reads.
        weighted_error: For a table √(Σ_v p_v·‖w_v − ŵ_v‖² / Σ_v p_v·‖w_v‖²), p_v the share of training
            lookups that read row v; None for a layer.
        storage: How it is stored, by its form's `describe`: bits, rank, rows that are held …
        note: Notes of the methods, or empty.
    """

    part: str
    kind: Literal["table", "layer"]
    rows: int
    dim: int
    bytes_before: int
    bytes_after: int
    error: float
    weighted_error: float | None
    storage: Mapping[str, int | str] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """A JSON-ready form."""
        return asdict(self)


def relative_error(w_VD: Tensor, approximate_VD: Tensor, weight_V: Tensor | None = None) -> float:
    """√(Σ_v weight_v·‖w_v − ŵ_v‖² / Σ_v weight_v·‖w_v‖²); None means equal weights."""
    weight_V1 = torch.ones(len(w_VD), 1) if weight_V is None else weight_V[:, None]
    lost, whole = ((weight_V1 * t.double().square()).sum() for t in (w_VD - approximate_VD, w_VD))
    return float((lost / whole.clamp(min=1e-30)).sqrt())


def compare(
    before: Mapping[str, TableForm],
    after: Mapping[str, TableForm],
    reads: Mapping[str, Tensor],
    notes: Mapping[str, str],
) -> list[PartReport]:
    """A report on each table.

    Args:
        before: The trained tables.
        after: The compressed tables.
        reads: For each table, how often training rows read each of its V rows.
        notes: Table → notes of the methods.
    """
    reports: list[PartReport] = []
    for name, trained in before.items():
        smaller, w, approximate = after[name], trained.dense(), after[name].dense()
        errors = relative_error(w, approximate), relative_error(w, approximate, reads[name])
        sizes = trained.rows, trained.dim, trained.nbytes, smaller.nbytes
        reports.append(PartReport(name, "table", *sizes, *errors, smaller.describe(), notes.get(name, "")))
    return reports


def compare_layers(before: CTR, after: nn.Module, notes: Mapping[str, str]) -> list[PartReport]:
    """A report on each matrix of the dense layers that changed and kept its shape.

    Args:
        before: The trained model.
        after: The compressed model.
        notes: Layer → notes of the methods.
    """
    trained = {n: p for n, p in before.dense_named().items() if p.ndim == 2}
    reports: list[PartReport] = []
    for name, weight in after.named_parameters():
        old = trained.get(name)
        if old is None or old.shape != weight.shape or torch.equal(old, weight):
            continue
        error, nbytes = relative_error(old.detach(), weight.detach()), old.numel() * old.element_size()
        outputs, inputs = old.shape
        note = notes.get(name, "")
        reports.append(PartReport(name, "layer", outputs, inputs, nbytes, nbytes, error, None, note=note))
    return reports

"""What became of each table, measured against the table that was trained, whatever steps came between."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from recsys.tables.forms import Table

__all__ = ["TableReport", "compare", "relative_error"]


@dataclass(frozen=True)
class TableReport:
    """What became of one table.

    Args:
        table: Its name.
        rows: V.
        held: Rows that are held after; fewer than V if ids share one.
        dim: D.
        rank: r that is kept; D if the table was not factorised.
        bits: Of one held number.
        bytes_before: Storage of the trained table.
        bytes_after: Storage after all steps.
        error: ‖W − Ŵ‖_F / ‖W‖_F, W the trained table, Ŵ what scoring reads.
        weighted_error: √(Σ_v p_v·‖w_v − ŵ_v‖² / Σ_v p_v·‖w_v‖²), p_v the share of training lookups
            that read row v.
        note: What the method says of it, or empty.
    """

    table: str
    rows: int
    held: int
    dim: int
    rank: int
    bits: int
    bytes_before: int
    bytes_after: int
    error: float
    weighted_error: float
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """A JSON-ready form."""
        return asdict(self)


def relative_error(w_VD: Tensor, approximate_VD: Tensor, weight_V: Tensor | None = None) -> float:
    """√(Σ_v weight_v·‖w_v − ŵ_v‖² / Σ_v weight_v·‖w_v‖²); all rows alike without weights."""
    weight_V1 = torch.ones(len(w_VD), 1) if weight_V is None else weight_V[:, None]
    lost, whole = ((weight_V1 * t.double().square()).sum() for t in (w_VD - approximate_VD, w_VD))
    return float((lost / whole.clamp(min=1e-30)).sqrt())


def compare(
    before: Mapping[str, Table], after: Mapping[str, Table], reads: Mapping[str, Tensor], notes: Mapping[str, str]
) -> list[TableReport]:
    """One report a table.

    Args:
        before: The trained tables.
        after: What they became.
        reads: For each table, how often training rows read each of its V rows.
        notes: What the methods say of single tables.
    """
    reports = []
    for name, old in before.items():
        new, w, approximate = after[name], old.dense(), after[name].dense()
        errors = relative_error(w, approximate), relative_error(w, approximate, reads[name])
        sizes = old.rows, new.codes.shape[0], old.dim, new.rank, new.bits, old.nbytes, new.nbytes
        reports.append(TableReport(name, *sizes, *errors, notes.get(name, "")))
    return reports

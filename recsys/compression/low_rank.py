"""What truncated SVD and its weighted forms share: which rank for which table, and whether it pays."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.tables import Table

__all__ = ["TableReport", "break_even", "compress_tables", "factorise", "relative_error"]


@dataclass(frozen=True)
class TableReport:
    """What became of one table.

    Args:
        table: Its name.
        rows: V.
        dim: D.
        rank: r that is kept; D where the table was kept whole.
        bytes_before: Storage before.
        bytes_after: Storage after.
        error: ‖W − Ŵ‖_F / ‖W‖_F.
        note: Why it was kept whole, or empty.
    """

    table: str
    rows: int
    dim: int
    rank: int
    bytes_before: int
    bytes_after: int
    error: float
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """A JSON-ready form."""
        return asdict(self)


def break_even(rows: int, dim: int) -> float:
    """A rank must be below V·D / (V + D), or the factors hold more numbers than the table."""
    return rows * dim / (rows + dim)


def relative_error(w_VD: Tensor, approximate_VD: Tensor) -> float:
    """‖W − Ŵ‖_F / ‖W‖_F."""
    return float((w_VD - approximate_VD).norm() / w_VD.norm().clamp(min=1e-30))


def factorise(w_VD: Tensor, rank: int, weight_V: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best rank-r A·B under row weights: min ‖diag(weight)·(W − A·B)‖_F, by truncated SVD.

    Args:
        w_VD: The table.
        rank: r.
        weight_V: > 0; None weighs all rows alike.

    Returns:
        A of V×r and B of r×D; the rows of B are orthonormal.
    """
    w = w_VD.double()
    weight = torch.ones(len(w), dtype=w.dtype) if weight_V is None else weight_V.double()
    # B spans the leading eigenvectors of the D×D Gram matrix: far cheaper than an SVD of V×D.
    weighted = w * weight[:, None]
    _, vectors = torch.linalg.eigh(weighted.T @ weighted)
    basis_rD = vectors[:, -rank:].flip(1).T
    return (w @ basis_rD.T).float(), basis_rD.float()


def compress_tables(
    tables: Mapping[str, Table],
    rank: int,
    ranks: Mapping[str, int] | None,
    weight: Callable[[str, Table], Tensor | None],
) -> tuple[dict[str, Table], list[TableReport]]:
    """Factorise every dense table that gains by it.

    Args:
        tables: Dense tables.
        rank: For every table; one that is too small to gain is kept whole.
        ranks: Other ranks for some tables, by name.
        weight: Row weights of a table, or None.

    Raises:
        ConfigError: If a rank is below 1, names an unknown table, is past break-even for the table
            it names, or `rank` is past break-even for every table.
    """
    chosen = {name: (ranks or {}).get(name, rank) for name in tables}
    if unknown := set(ranks or {}) - set(tables):
        raise ConfigError(f"compression.ranks: no table {sorted(unknown)}: expected some of {', '.join(tables)}")
    if min(chosen.values()) < 1:
        raise ConfigError(f"compression.rank must be at least 1, got {min(chosen.values())}: raise it")
    limit = {name: break_even(t.rows, t.dim) for name, t in tables.items()}
    bad = [n for n in (ranks or {}) if chosen[n] >= limit[n]]
    largest = max(tables, key=lambda n: tables[n].rows)
    if bad or all(chosen[n] >= limit[n] for n in tables):
        name = bad[0] if bad else largest
        raise ConfigError(
            f"rank {chosen[name]} is past break-even for table {name!r} ({tables[name].rows}x{tables[name].dim}): "
            f"it must be below {limit[name]:.2f} to make it smaller; lower compression.rank"
        )
    made: dict[str, Table] = {}
    reports = []
    for name, table in tables.items():
        w = table.dense()
        if chosen[name] >= limit[name]:
            made[name] = table
            note = f"kept whole: rank {chosen[name]} is past break-even {limit[name]:.2f}"
        else:
            codes, basis = factorise(w, chosen[name], weight(name, table))
            made[name], note = Table(codes, basis=basis), ""
        new = made[name]
        error = relative_error(w, new.dense())
        kept = new.codes.shape[1]
        reports.append(TableReport(name, table.rows, table.dim, kept, table.nbytes, new.nbytes, error, note))
    return made, reports

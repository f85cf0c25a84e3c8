"""Code shared by truncated SVD and its weighted forms: the rank for each table, and whether it saves bytes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.tables.forms import Table

__all__ = ["break_even", "compress_tables", "factorise"]


def break_even(rows: int, dim: int) -> float:
    """V·D / (V + D): a rank must be below it, or the factors hold more numbers than the table."""
    return rows * dim / (rows + dim)


def factorise(w_VD: Tensor, rank: int, weight_V: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best rank-r A·B under row weights: min ‖diag(weight)·(W − A·B)‖_F, by truncated SVD.

    Args:
        w_VD: The table.
        rank: r.
        weight_V: Weights > 0; None means equal weights.

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
) -> tuple[dict[str, Table], dict[str, str]]:
    """Factorise every dense table that becomes smaller by it.

    Args:
        tables: Dense tables.
        rank: The rank for every table; a table that would not become smaller is kept whole.
        ranks: Other ranks for some tables, by name.
        weight: Row weights of a table, or None.

    Returns:
        The tables, and a note for each that was kept whole.

    Raises:
        ConfigError: If a rank is below 1, `ranks` names an unknown table or holds a rank past
            break-even for its table, or `rank` is past break-even for every table.
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
    smaller, notes = {}, {}
    for name, table in tables.items():
        if chosen[name] >= limit[name]:
            smaller[name] = table
            notes[name] = f"kept whole: rank {chosen[name]} is past break-even {limit[name]:.2f}"
        else:
            codes, basis = factorise(table.dense(), chosen[name], weight(name, table))
            smaller[name] = Table(codes, basis=basis)
    return smaller, notes

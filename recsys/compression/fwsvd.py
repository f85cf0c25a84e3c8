"""Fisher-weighted SVD of each table."""

from collections.abc import Mapping

from torch import Tensor

from recsys.compression.low_rank import compress_tables
from recsys.config.ranges import Count
from recsys.errors import ConfigError
from recsys.tables.forms import Table

__all__ = ["fisher_weights", "fwsvd"]


def fisher_weights(fisher_V: Tensor) -> Tensor:
    """√(F / mean(F) + 1e-5): the paper's √ΣF, independent of the gradient's scale.

    The constant inside the root gives rows that training never updated a weight above 0.
    """
    return (fisher_V.double() / fisher_V.double().mean().clamp(min=1e-30) + 1e-5).sqrt()


def fwsvd(
    tables: Mapping[str, Table],
    reads: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    rank: Count,
    ranks: Mapping[str, Count] | None = None,
) -> tuple[dict[str, Table], dict[str, str]]:
    """W ≈ A·B of rank r with the least ‖Î(W − A·B)‖_F, Î = diag(√Fisher of each row).

    With Î·W = U S Vᵀ the solution is A = Î⁻¹ U_r S_r = W·V_r, B = V_rᵀ.

    Args:
        tables: Dense tables, by name.
        reads: Not used.
        fisher: For each table, Adagrad's sum over steps of mean_d(g²) for each row, with g the gradient
            summed over the batch. It is a free but rough estimate: it takes squares of batch sums instead
            of sums of squares, and at all weights of the training (with `fresh_tables`, since tables were
            last drawn) instead of the final weights.
        rank: r, for tables that become smaller by it.
        ranks: Other ranks for some tables.

    Returns:
        The tables, and a note for each that was kept whole.

    Raises:
        ConfigError: If a rank is past break-even, or a table's Fisher information is missing.

    Source: Hsu et al., Language model compression with weighted low-rank factorization, ICLR 2022,
    equation 8. We take F from the optimiser, not from extra passes, and scale it to mean 1.
    """
    if lacking := {n for n, t in tables.items() if t.dim > 1} - set(fisher):  # tables of width 1 are never factorised
        raise ConfigError(
            f"fwsvd needs the squared gradients of {sorted(lacking)}, which Adagrad remembers: train with "
            "table_optimizer=rowwise_adagrad and compress that model, or use compression=svd"
        )
    return compress_tables(tables, rank, ranks, lambda name, table: fisher_weights(fisher[name]))

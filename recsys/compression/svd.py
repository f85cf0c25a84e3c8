"""Truncated SVD of each table."""

from collections.abc import Mapping

from torch import Tensor

from recsys.compression.low_rank import compress_tables
from recsys.config.ranges import Count
from recsys.tables.forms import Table

__all__ = ["svd"]


def svd(
    tables: Mapping[str, Table],
    reads: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    rank: Count,
    ranks: Mapping[str, Count] | None = None,
) -> tuple[dict[str, Table], dict[str, str]]:
    """W ≈ A·B of rank r with the least ‖W − A·B‖_F.

    Args:
        tables: Dense tables, by name.
        reads: Not used.
        fisher: Not used: all rows have equal weights.
        rank: r, for tables that become smaller by it.
        ranks: Other ranks for some tables.

    Returns:
        The tables, and a note for each that was kept whole.

    Raises:
        ConfigError: If a rank is past break-even.

    Source: Eckart and Young, 1936.
    """
    return compress_tables(tables, rank, ranks, lambda name, table: None)

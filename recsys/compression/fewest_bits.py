"""For each table, the fewest bits at which the error of its rows is tolerable."""

from collections.abc import Mapping

from torch import Tensor

from recsys.compression.report import relative_error
from recsys.compression.rounding import held_reads, rounded
from recsys.config.ranges import Share
from recsys.errors import ConfigError
from recsys.tables.contract import TableForm
from recsys.tables.forms import Table, only_numbers

__all__ = ["fewest_bits"]


def fewest_bits(
    tables: Mapping[str, TableForm], reads: Mapping[str, Tensor], fisher: Mapping[str, Tensor], error: Share
) -> tuple[dict[str, Table], dict[str, str]]:
    """Each table in 4, 8, 16 or 32 bits a number: the first whose error by rounding is at most `error`.

    The error is √(Σ_v p_v·‖w_v − ŵ_v‖² / Σ_v p_v·‖w_v‖²), p_v the share of training lookups that read row v.

    Args:
        tables: Rows of numbers: dense or low-rank tables, with or without a shared row.
        reads: For each table, how often training rows read each of its V rows.
        fisher: Not used.
        error: Above 0 and below 1.

    Returns:
        The tables; no notes.

    Raises:
        ConfigError: If `error` is out of range, or a table has another form.
    """
    if not 0 < error < 1:
        raise ConfigError(
            f"quantization.error: expected a number above 0 and below 1, got {error!r}: set it, for instance to 0.2"
        )
    smaller = dict[str, Table]()
    for name, table in only_numbers(tables, "quantization").items():
        weight_R = held_reads(table, reads[name])
        for bits in (4, 8, 16, 32):
            fewer = rounded(table, bits, weight_R)
            if relative_error(table.held(), fewer.held(), weight_R) <= error:
                break
        smaller[name] = fewer
    return smaller, {}

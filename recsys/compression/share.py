"""One shared row for all ids that training hardly read."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.config.ranges import Count
from recsys.errors import ConfigError
from recsys.tables.forms import Table, id_map

__all__ = ["share"]


def _shared(w_VD: Tensor, reads_V: Tensor, kept_V: Tensor) -> Tensor:
    """The mean of the dropped rows that were trained, or of all trained rows if there are none → 1×D."""
    trained_V = reads_V > 0
    for shared_V in (trained_V & ~kept_V, trained_V):
        if shared_V.any():
            return w_VD[shared_V].mean(0, keepdim=True)
    return w_VD.mean(0, keepdim=True)


def share(
    tables: Mapping[str, Table], reads: Mapping[str, Tensor], fisher: Mapping[str, Tensor], min_reads: Count
) -> tuple[dict[str, Table], dict[str, str]]:
    """Drop the rows that training read fewer than `min_reads` times; their ids read one shared row.

    A row that was never read still holds its random initial numbers, and one that was read once
    holds the noise of one label. The shared row is the mean of the trained rows among them. Beside the
    rows, a map of half a byte an id is stored (`recsys.tables.forms.id_map`). A table stays whole if its
    map would take as many bytes as the dropped rows in four bits.

    Args:
        tables: Dense tables, by name.
        reads: For each table, how often training rows read each of its V rows.
        fisher: Not used.
        min_reads: 1 drops the rows that were never read, 2 also those that were read once.

    Returns:
        The tables, and a note for each that stays whole.

    Raises:
        ConfigError: If `min_reads` is below 1.
    """
    if min_reads < 1:
        raise ConfigError(
            f"compression.min_reads: expected at least 1, got {min_reads}: raise it, or leave it out, ~compression"
        )
    smaller, notes = {}, {}
    for name, table in tables.items():
        kept_V = reads[name] >= min_reads
        words, dropped = id_map(kept_V), int((~kept_V).sum())
        if dropped * table.dim / 2 <= words.numel() * words.element_size():
            smaller[name], notes[name] = table, f"kept whole: {dropped} rows to drop take no more than a map of ids"
        else:
            w_VD = table.dense()
            codes = torch.cat([_shared(w_VD, reads[name], kept_V), w_VD[kept_V]])
            smaller[name] = Table(codes, words=words, ids=table.rows)
    return smaller, notes

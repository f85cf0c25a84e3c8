"""How often training reads each row of each table."""

from itertools import pairwise

import torch
from torch import Tensor

from recsys.data.split import Split
from recsys.frame.contracts import RoutedEmbedding

__all__ = ["count_reads"]


@torch.no_grad()
def count_reads(
    embedding: RoutedEmbedding, rows: dict[str, int], shards: Split, size: int = 1 << 16
) -> dict[str, Tensor]:
    """Count a split's lookups with the route of training. Rows of sample weight 0 do not count: they train nothing.

    Args:
        embedding: A scheme over trained tables; its `route` gives a batch's table rows by key.
        rows: V of each table, by name.
        shards: The split.
        size: Rows a batch.

    Returns:
        For each table V counts, int64.
    """
    ends = torch.tensor([0, *rows.values()]).cumsum(0).tolist()
    start = dict(zip(rows, ends, strict=False))
    begins = {key: start[k.table] for k, keys in zip(embedding.lookups, embedding.keys, strict=True) for key in keys}
    reads_V = torch.zeros(ends[-1], dtype=torch.long)
    for batch in shards.batches(size):
        ids = embedding.route(batch)
        starts = torch.tensor([begins[key] for key in ids.keys()])  # noqa: SIM118  # not a dict
        read = ids.values() + torch.repeat_interleave(starts, torch.tensor(ids.length_per_key()))
        if batch.weight_B is not None:
            read = read[torch.repeat_interleave((batch.weight_B > 0).repeat(len(begins)), ids.lengths())]
        reads_V += torch.bincount(read, minlength=len(reads_V))
    return {name: reads_V[a:b] for name, (a, b) in zip(rows, pairwise(ends), strict=True)}

"""Where each field stands in x_BW, and how to permute its rows. F fields, W the joined width."""

import zlib

import numpy as np
import torch
from torch import Tensor

from recsys.data.shards import Shards

__all__ = ["change_rates", "field_generators", "permuted_rows"]


def field_generators(names: list[str], seed: int) -> list[torch.Generator]:
    """A random generator for each field, seeded by its name: order and other fields change nothing."""
    return [torch.Generator().manual_seed((seed << 32) + zlib.crc32(n.encode())) for n in names]


def permuted_rows(generators: list[torch.Generator], rows: int) -> Tensor:
    """An independent permutation of the rows for every field → index_BF."""
    return torch.stack([torch.randperm(rows, generator=g) for g in generators], 1)


def change_rates(shards: Shards, most_rows: int = 100_000) -> dict[str, float]:
    """c = P(x ≠ x of another row) = 1 − Σ_v p_v² for each field, over the first `most_rows` rows."""
    batch = shards.batch(slice(0, most_rows))
    rates, start = {}, 0
    for f in shards.schema.sparse:
        block = batch.ids_BL[:, start : start + f.max_length].numpy()
        start += f.max_length
        rates[f.name] = _rate(block)
    start = 0
    for f in shards.schema.numeric:
        rates[f.name] = _rate(batch.dense_BN[:, start : start + f.max_length].numpy())
        start += f.max_length
    return rates


def _rate(block: np.ndarray) -> float:
    row = np.ascontiguousarray(block).view(np.dtype((np.void, block.dtype.itemsize * block.shape[1])))
    count = np.unique(row.ravel(), return_counts=True)[1]
    return float(1 - np.square(count / count.sum()).sum())

"""The rows that a baseline is fitted on, and the logits that it gives.

B rows, L id columns, N numbers.
"""

from collections.abc import Callable

import numpy as np

from recsys.data.shards import Shards
from recsys.data.split import Split

__all__ = ["CHUNK", "Chosen", "Part", "Predict", "rows_of", "scored"]

CHUNK = 65_536

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids_BL, dense_BN → logit_B
Chosen = dict[str, float]  # settings that a fit chose, by name
Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]  # ids_BL, dense_BN, label_B, weight_B


def rows_of(shards: Split, most: int, seed: int) -> Part:
    """The rows of a split that have weight, or a random sample of `most` of them, in their order."""
    total, weight_B = len(shards), shards.weight_B
    ids, dense, label = [], [], []
    counting = np.arange(total) if weight_B is None else np.flatnonzero(weight_B)
    kept = np.zeros(total, bool)
    kept[counting[np.random.default_rng(seed).permutation(len(counting))[:most]]] = True
    for start, batch in zip(range(0, total, CHUNK), shards.batches(CHUNK), strict=True):
        pick = kept[start : start + CHUNK]
        ids.append(batch.ids_BL.numpy()[pick].astype(np.int32))
        dense.append(batch.dense_BN.numpy()[pick])
        label.append(batch.label_B.numpy()[pick])
    weight = None if weight_B is None else np.asarray(weight_B)[kept]
    return np.concatenate(ids), np.concatenate(dense), np.concatenate(label), weight


def scored(shards: Shards, predict: Predict) -> np.ndarray:
    """Logits of every row of a split, a chunk at a time."""
    return np.concatenate([predict(b.ids_BL.numpy(), b.dense_BN.numpy()) for b in shards.batches(CHUNK)])

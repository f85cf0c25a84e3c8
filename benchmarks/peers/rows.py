"""The rows that peers train on, from the arrays of a prepared set. B rows, F fields, N numbers."""

from pathlib import Path

import numpy as np
import torch

MOST_ROWS = 200_000  # that a peer's loader gets: enough for every turn, and quick to copy


def arrays(job, rows=MOST_ROWS):
    """→ ids_BF int32, dense_BN float32, label_B float32, of the first rows."""
    folder = Path(job["folder"]) / "train"
    return tuple(np.array(np.load(folder / f"{n}.npy", mmap_mode="r")[:rows]) for n in ("ids", "dense", "label"))


def names(job):
    """Names of the fields and of the numbers."""
    return [f"c{i + 1}" for i in range(len(job["ids"]))], [f"i{i + 1}" for i in range(job["numbers"])]


def columns(job):
    """Name → its column as an array, fields first; and label_B."""
    ids_BF, dense_BN, label_B = arrays(job)
    fields, numbers = names(job)
    named = {n: np.ascontiguousarray(ids_BF[:, i]) for i, n in enumerate(fields)}
    named |= {n: np.ascontiguousarray(dense_BN[:, i]) for i, n in enumerate(numbers)}
    return named, label_B


def batches(named, label_B, job):
    """Some batches in memory: ({name: tensor}, label_B) each."""
    made = []
    order = np.random.default_rng(job["seed"]).permutation(len(label_B))
    size = min(job["batch"], len(label_B))
    for b in range(min(job["kept_batches"], len(label_B) // size)):
        rows = order[b * size : (b + 1) * size]
        made.append(({n: torch.from_numpy(x[rows]) for n, x in named.items()}, torch.from_numpy(label_B[rows])))
    return made


def forever(loader):
    """The batches of a loader, again and again."""
    while True:
        yield from loader

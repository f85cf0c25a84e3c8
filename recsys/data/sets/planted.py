"""Planted click data: it is known which fields matter, so that a selector can be checked."""

import numpy as np
import pyarrow as pa

from recsys.config.ranges import Seed
from recsys.errors import ConfigError

__all__ = ["INFORMATIVE", "NOISE", "SPARSE", "load"]

_SCALARS = (0.6, 0.4, 0.25, 0.12)
_SPARSE = ((0.005, 2.5), (0.008, 2.0), (0.012, 1.6), (0.02, 1.2))  # active share, effect

SPARSE = [f"sparse_{i}" for i in range(4)]
INFORMATIVE = [
    *(f"scalar_{i}" for i in range(4)),
    *(f"cat_{i}" for i in range(4)),
    "vector",
    "duplicate",
    "pair_a",
    "pair_b",
]
NOISE = [
    *(f"noise_scalar_{i}" for i in range(4)),
    *(f"noise_cat_{i}" for i in range(4)),
    *(f"noise_id_{i}" for i in range(4)),
    *(f"noise_vector_{i}" for i in range(3)),
    *(f"noise_sparse_{i}" for i in range(4)),
]


def load(rows: int = 120_000, seed: Seed = 0, permute_label: bool = False) -> pa.Table:
    """35 fields of which 16 matter; logit = Σ effects − 1.2, so about 3 in 10 rows click.

    Informative: 4 scalars (.6/.4/.25/.12), 4 categoricals of 50, a 64-wide vector with one signal
    direction, an exact duplicate of scalar_0, a pair that matters only together, 4 that are active
    in .5–2 % of rows. Noise: 4 scalars, 4 categoricals of 50, 4 Zipf ids of 20,000 values, three
    64-wide vectors, 4 sparse.

    Args:
        rows: At least 1,000.
        seed: Fixes the table.
        permute_label: Whether to shuffle the label, which breaks every relation: the null case.

    Raises:
        ConfigError: If there are fewer than 1,000 rows.
    """
    if rows < 1000:
        raise ConfigError(f"data.source.rows must be at least 1000, got {rows}: raise it")
    r = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {}
    logit = np.full(rows, -1.2)
    for i, effect in enumerate(_SCALARS):
        columns[f"scalar_{i}"] = r.normal(size=rows)
        logit += effect * columns[f"scalar_{i}"]
    columns["duplicate"] = columns["scalar_0"]
    for i in range(4):
        columns[f"cat_{i}"] = r.integers(0, 50, rows)
        logit += (0.35 * r.normal(size=50))[columns[f"cat_{i}"]]
    direction = r.normal(size=64)
    columns["vector"] = r.normal(size=(rows, 64))
    logit += 0.5 * columns["vector"] @ (direction / np.linalg.norm(direction))
    columns["pair_a"], columns["pair_b"] = r.normal(size=rows), r.normal(size=rows)
    logit += 0.5 * columns["pair_a"] * columns["pair_b"]
    for i, (share, effect) in enumerate(_SPARSE):
        columns[f"sparse_{i}"] = (r.random(rows) < share).astype(np.int64)
        logit += effect * columns[f"sparse_{i}"]
    for i in range(4):
        columns[f"noise_scalar_{i}"] = r.normal(size=rows)
        columns[f"noise_cat_{i}"] = r.integers(0, 50, rows)
        columns[f"noise_id_{i}"] = np.minimum(r.zipf(1.2, rows), 20_000)
        columns[f"noise_sparse_{i}"] = (r.random(rows) < _SPARSE[i][0]).astype(np.int64)
    for i in range(3):
        columns[f"noise_vector_{i}"] = r.normal(size=(rows, 64))
    click = (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    columns["click"] = r.permutation(click) if permute_label else click
    return pa.table({n: _arrow(x) for n, x in columns.items()})


def _arrow(x: np.ndarray) -> pa.Array:
    if x.ndim == 1:
        return pa.array(x)
    flat = pa.array(x.astype(np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(0, x.size + 1, x.shape[1], dtype=np.int32)), flat)

"""A schema with every looked-up kind of field, two of which share a table, and batches of it."""

import numpy as np
import torch

from recsys.data.batch import Batch
from recsys.features.schema import Field, Schema

LENGTH = 6


def event_schema(length: int = LENGTH, ids: int = 40, cities: int = 9) -> Schema:
    """A product, past products in its table (of which it is the candidate), plain and weighted lists, numbers."""
    return Schema(
        (
            Field("city.name", "categorical", ("city",), ("string",), cities),
            Field("past", "sequence", ("past",), ("int",), ids, length, table="product"),
            Field("product", "categorical", ("product",), ("int",), ids),
            Field("tags", "multi", ("tags",), ("string",), 12, 3),
            Field("liked", "multi", ("liked", "stars"), ("int", "float"), ids, 4, table="product", weighted=True),
            Field("price", "numeric", ("price",), ("float",)),
            Field("age", "numeric", ("age",), ("float",)),
        ),
        "click",
        weight="importance",
    )


def event_batch(schema: Schema, rows: int = 64, seed: int = 0) -> Batch:
    """Ids with many duplicates; lists and sequences of every length from none to full; weights, zeros among them."""
    rng = np.random.default_rng(seed)
    ids = []
    for f in schema.sparse:
        drawn = rng.integers(0, f.cardinality, (rows, f.max_length))
        if f.kind != "categorical":
            drawn[np.arange(f.max_length) >= rng.integers(0, f.max_length + 1, (rows, 1))] = -1
        ids.append(drawn)
    weights = [rng.integers(0, 3, (rows, len(c))) * rng.random((rows, len(c))) for c in schema.weight_columns.values()]
    dense = [rng.normal(size=(rows, f.max_length)) for f in schema.numeric]
    dense_BN = np.concatenate([*dense, *weights], 1).astype(np.float32) if dense or weights else np.zeros((rows, 0))
    label_B = torch.from_numpy((rng.random(rows) < 0.4).astype(np.float32))
    return Batch.of(schema, torch.from_numpy(np.concatenate(ids, 1)), torch.from_numpy(dense_BN).float(), label_B)


def rows_of(batch: Batch, schema: Schema, rows: slice | torch.Tensor) -> Batch:
    """Some rows of a batch."""
    return Batch.of(schema, batch.ids_BL[rows], batch.dense_BN[rows], batch.label_B[rows])

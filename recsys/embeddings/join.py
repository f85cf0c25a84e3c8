"""The output of the tables → x_BW, the fields side by side in schema order.

B rows, W the width of all fields side by side, D embedding dim, L positions of a sequence.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recsys.data.batch import Batch
from recsys.embeddings.plan import Plan
from recsys.tables.lookup import joined, weighted_mean

__all__ = ["Join", "looked_up"]


def looked_up(bags: nn.Module, ids: KeyedJaggedTensor) -> KeyedTensor:
    """`bags(ids)`, without TorchRec's copies of the ids of each key and of all rows."""
    fused = cast(Any, bags)  # its parts have no public names
    if not isinstance(bags, FusedEmbeddingBagCollection) or len(fused._emb_modules) > 1:
        return bags(ids)
    keys = [key for table in fused.embedding_bag_configs() for key in table.feature_names]
    if ids.keys() != keys:
        place = {key: i for i, key in enumerate(ids.keys())}
        ids = ids.permute([place[key] for key in keys])
    weights = ids.weights() if fused.is_weighted() else None
    values = fused._emb_modules[0](ids.values().int(), ids.offsets().int(), weights)
    return KeyedTensor(fused._embedding_names, fused._length_per_key, values)


class Join:
    """A KeyedTensor in the order of the tables → x_BW in the order of the schema.

    Args:
        plan: The lookups.
    """

    def __init__(self, plan: Plan):
        schema, lookups, names = plan.schema, plan.lookups, list(plan.tables)
        self.plan = plan
        self._first = {keys[0]: i for i, keys in enumerate(plan.keys)}
        numbers = {name: i for i, name in enumerate(plan.pooled)}
        self._lists = {f.name: numbers[f.name] for f in schema.sparse if f.max_length > 1 and f.name in numbers}
        self._columns = {n: slice(c.start, c.stop) for n, c in schema.id_columns.items()}
        self._weights = {n: slice(c.start, c.stop) for n, c in schema.weight_columns.items()}
        self._numbers = sum(f.max_length for f in schema.numeric)
        sequences = {f.name for f in schema.sparse if f.kind == "sequence"}
        by_table = sorted(range(len(lookups)), key=lambda i: names.index(lookups[i].table))
        concats = all(k.combine == "concat" for k in lookups)
        changed = self._lists.keys() | self._weights.keys() | sequences
        self._in_order = not changed and concats and by_table == list(range(len(lookups)))

    def _per_lookup(self, looked_up: KeyedTensor) -> list[Tensor]:
        """The result of each lookup, in order of lookups instead of tables."""
        keys = looked_up.keys()
        order = [self._first[key] for key in keys if key in self._first]
        blocks = looked_up.values().split([self.plan.dims[i] * len(self.plan.keys[i]) for i in order], 1)
        by_lookup = dict(zip(order, blocks, strict=True))
        return [by_lookup[i] for i in range(len(order))]

    def _mean(self, sum_BD: Tensor, field: str, batch: Batch) -> Tensor:
        """A sum over a list → its mean; Σ w·x → Σ w·x / Σ w, and 0 if Σ w = 0."""
        if field not in self._weights:
            length_KB = batch.ids.lengths().view(len(batch.ids.keys()), -1)
            return sum_BD / length_KB[self._lists[field]].clamp(min=1).unsqueeze(1)
        present_BL = batch.ids_BL[:, self._columns[field]] >= 0
        return weighted_mean(sum_BD, (batch.dense_BN[:, self._weights[field]] * present_BL).sum(1, keepdim=True))

    def __call__(self, looked_up: KeyedTensor, batch: Batch) -> Tensor:
        """→ x_BW: lists are averaged, a sequence has its L positions side by side."""
        dense_BN = batch.dense_BN[:, : self._numbers]
        if self._in_order:
            return torch.cat([looked_up.values(), dense_BN], 1)
        parts: dict[str, list[Tensor]] = {}
        for k, part_BD in zip(self.plan.lookups, self._per_lookup(looked_up), strict=True):
            averaged = k.field in self._lists or k.field in self._weights
            parts.setdefault(k.field, []).append(self._mean(part_BD, k.field, batch) if averaged else part_BD)
        for name, reads in parts.items():
            f = self.plan.schema[name]
            parts[name] = reads = joined(reads, [k.combine for k in self.plan.lookups if k.field == name])
            if f.kind == "sequence" and len(reads) > 1:  # the reads of a position are adjacent
                parts[name] = [torch.cat([r.unflatten(1, (f.max_length, -1)) for r in reads], 2).flatten(1)]
        return torch.cat([*(p for reads in parts.values() for p in reads), dense_BN], 1)

"""Field ids → the table rows that each lookup reads. It has no parameters.

B rows, P lookups, L positions of a sequence.
"""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.embeddings.plan import Plan
from recsys.tables.lookup import table_rows

__all__ = ["Route"]


class Route(nn.Module):
    """A batch → a KeyedJaggedTensor whose keys are lookups, or positions of a sequence's lookup.

    The loader has packed a batch's pooled ids already (`Batch.ids`). If every lookup reads row = id,
    that tensor is used directly, under the lookups' keys.

    Args:
        plan: The lookups.
    """

    a: Tensor
    b: Tensor
    rows: Tensor
    divisor: Tensor
    pooled: Tensor

    def __init__(self, plan: Plan):
        super().__init__()
        lookups, number = plan.lookups, {name: i for i, name in enumerate(plan.pooled)}
        self.lookups = lookups
        reads = [i for i, k in enumerate(lookups) if k.field in number]
        for name, values in {
            "a": [k.coefficients()[0] for k in lookups],
            "b": [k.coefficients()[1] for k in lookups],
            "rows": [plan.tables[k.table][0] for k in lookups],
            "divisor": [k.divisor for k in lookups],
            "pooled": reads,
        }.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        self._source = [number[lookups[i].field] for i in reads]
        self._sequences = [i for i, k in enumerate(lookups) if k.field not in number]
        self._ordered = [key for i in [*reads, *self._sequences] for key in plan.keys[i]]
        self._divides = any(k.divisor > 1 for k in lookups)
        self._passes = all(lookups[i].direct for i in reads) and self._source == list(range(len(number)))
        self._columns = {n: slice(c.start, c.stop) for n, c in plan.schema.id_columns.items()}
        self._weights = {n: slice(c.start, c.stop) for n, c in plan.schema.weight_columns.items()}

    def _weighted(self, batch: Batch) -> KeyedJaggedTensor:
        """The pooled ids with their weights, which are 1 for a field without weights."""
        ids = batch.ids
        if not self._weights:
            return ids
        names, counts = ids.keys(), ids.length_per_key()
        parts = [
            batch.dense_BN[:, self._weights[n]][batch.ids_BL[:, self._columns[n]] >= 0]
            if n in self._weights
            else ids.values().new_ones(count, dtype=torch.float32)
            for n, count in zip(names, counts, strict=True)
        ]
        return KeyedJaggedTensor(names, ids.values(), torch.cat(parts), lengths=ids.lengths())

    def _pooled_rows(self, batch: Batch) -> KeyedJaggedTensor:
        """The table rows of every lookup of a pooled field."""
        ids = self._weighted(batch)
        if self._passes:
            return ids
        read = ids.permute(self._source)
        count_P = torch.tensor(read.length_per_key(), device=self.a.device)
        how = (self.a, self.b, self.rows, *([self.divisor] if self._divides else []))
        each = (torch.repeat_interleave(t[self.pooled], count_P) for t in how)
        rows = table_rows(read.values(), *each)
        return KeyedJaggedTensor(read.keys(), rows, read.weights_or_none(), lengths=read.lengths())

    def forward(self, batch: Batch) -> KeyedJaggedTensor:
        """→ the table rows of every lookup, keyed by lookup (and position)."""
        ids = self._pooled_rows(batch)
        weights = ids.weights_or_none()
        if not self._sequences:
            return KeyedJaggedTensor(self._ordered, ids.values(), weights, lengths=ids.lengths())
        values, lengths = [ids.values()], [ids.lengths()]
        for i in self._sequences:
            lookup = self.lookups[i]
            ids_LB = batch.ids_BL[:, self._columns[lookup.field]].t()
            present_LB = ids_LB >= 0
            read, how = ids_LB[present_LB], (self.a[i], self.b[i], self.rows[i], self.divisor[i])
            values.append(read if lookup.direct else table_rows(read, *how))
            lengths.append(present_LB.flatten().to(torch.int32))
        rows = torch.cat(values)
        if weights is not None:
            weights = torch.cat([weights, weights.new_ones(len(rows) - len(weights))])
        return KeyedJaggedTensor(self._ordered, rows, weights, lengths=torch.cat(lengths))

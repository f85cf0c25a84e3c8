"""Lookups in embedding tables as plain tensors, for exported graphs.

B rows of a batch, L id columns, P lookups, V table rows, r rank, D embedding dim.
"""

from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.features.schema import Schema
from recsys.tables.contract import TableForm
from recsys.tables.forms import HeldRows
from recsys.tables.lookup import Lookup, joined, joined_width, table_rows, weighted_mean

__all__ = ["PlainEmbedding"]


@dataclass(frozen=True)
class _Read:
    """One result of a lookup.

    Args:
        lookup: The lookup.
        columns: Its id columns; several are averaged.
        weights: As many columns of dense_BN, or none.
        padded: Whether an id may be −1, which gives zeros.
    """

    lookup: Lookup
    columns: range
    weights: range
    padded: bool

    @property
    def pooling(self) -> tuple[int, bool, bool]:
        """A key: reads with the same pooling are pooled together."""
        return len(self.columns), self.padded, len(self.weights) > 0


class _Group(nn.Module):
    """Reads whose tables one module scores.

    Args:
        tables: The tables, by name.
        reads: R reads, sorted by pooling; all their tables have one class, width and kind.
    """

    columns: Tensor
    weights: Tensor
    a: Tensor
    b: Tensor
    rows: Tensor
    divisor: Tensor | None

    def __init__(self, tables: Mapping[str, TableForm], reads: Sequence[_Read]):
        super().__init__()
        lookups = [r.lookup for r in reads for _ in r.columns]
        ab = [k.coefficients() for k in lookups]
        self.direct = all(k.direct for k in lookups)
        self.pads = any(r.padded or len(r.columns) > 1 for r in reads)
        columns = [c for r in reads for c in r.columns]
        self.first, self.side_by_side = columns[0], columns == list(range(columns[0], columns[0] + len(columns)))
        self.register_buffer("columns", torch.tensor(columns))
        self.register_buffer("a", torch.tensor([a for a, _ in ab]))
        self.register_buffer("b", torch.tensor([b for _, b in ab]))
        self.register_buffer("rows", torch.tensor([tables[k.table].rows for k in lookups]))
        divisors = [k.divisor for k in lookups]
        self.register_buffer("divisor", torch.tensor(divisors) if max(divisors) > 1 else None)
        read = [tables[k.table] for k in lookups]
        self.scorer = read[0].scorer(read)
        poolings = [r.pooling for r in reads]
        self.pools = [(p, p[0] * poolings.count(p)) for p in dict.fromkeys(poolings)]  # pooling, count of lookups
        # A buffer, since a list would become a tensor without a name, which weights.safetensors cannot hold.
        self.register_buffer("weights", torch.tensor([c for r in reads for c in r.weights], dtype=torch.long))

    def _look(self, ids_BL: Tensor) -> tuple[Tensor, Tensor | None]:
        """→ looked-up x_BPD and present_BP, 1 where the id is not padding; None if no read pads."""
        if self.side_by_side:
            ids_BP = ids_BL[:, self.first : self.first + len(self.columns)]
        else:
            ids_BP = ids_BL.index_select(1, self.columns)
        present_BP = (ids_BP >= 0).float() if self.pads else None
        if self.pads:
            ids_BP = ids_BP.clamp(min=0)
        if not self.direct:
            ids_BP = table_rows(ids_BP, self.a, self.b, self.rows, self.divisor)
        return self.scorer(ids_BP), present_BP

    def forward(self, ids_BL: Tensor, dense_BN: Tensor) -> Tensor:
        """→ x_BRD, lists averaged."""
        x_BPD, present_BP = self._look(ids_BL)
        if present_BP is None:
            return x_BPD
        parts, start, weight_start = [], 0, 0
        for (length, padded, weighted), count in self.pools:
            x_BCD, present_BC1 = x_BPD[:, start : start + count], present_BP[:, start : start + count].unsqueeze(-1)
            start += count
            if weighted:
                columns = self.weights[weight_start : weight_start + count]
                weight_start += count
                w_BC1 = present_BC1 * dense_BN.index_select(1, columns).unsqueeze(-1)
                total, weight = ((t * w_BC1).unflatten(1, (-1, length)).sum(2) for t in (x_BCD, x_BCD.new_ones(())))
                x_BCD = weighted_mean(total, weight)
            elif length > 1:
                total = (x_BCD * present_BC1).unflatten(1, (-1, length)).sum(2)
                x_BCD = total / present_BC1.unflatten(1, (-1, length)).sum(2).clamp(min=1)
            elif padded:
                x_BCD = x_BCD * present_BC1
            parts.append(x_BCD)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class PlainEmbedding(nn.Module):
    """An embedding scheme as plain tensors: ids_BL, dense_BN → x_BW, for scoring only.

    Args:
        schema: The fields.
        tables: Tables of any form, by name.
        lookups: All reads; a field's reads are side by side in this order, or combined as they say.
    """

    order: Tensor | None

    def __init__(self, schema: Schema, tables: Mapping[str, TableForm], lookups: Sequence[Lookup]):
        super().__init__()
        self.schema, self.tables, self.lookups = schema, dict(tables), list(lookups)
        self.widths = {f.name: f.max_length for f in schema.fields}  # right for numbers; the others follow
        for f in schema.sparse:
            mine = [k for k in lookups if k.field == f.name]
            width = joined_width(mine, [tables[k.table].dim for k in mine])
            self.widths[f.name] = width * (f.max_length if f.kind == "sequence" else 1)
        self._numbers = sum(f.max_length for f in schema.numeric)
        self._plan()

    def _reads(self) -> list[_Read]:
        """All results in x_BW, in order: each is a read of one id column, or of a list's columns."""
        reads: list[_Read] = []
        for f in self.schema.sparse:
            ids, weights = self.schema.id_columns[f.name], self.schema.weight_columns.get(f.name, range(0))
            mine = [k for k in self.lookups if k.field == f.name]
            if f.kind == "sequence":  # the reads of a position are adjacent
                reads += [_Read(k, range(c, c + 1), weights, padded=True) for c in ids for k in mine]
            else:
                reads += [_Read(k, ids, weights, padded=f.kind == "multi") for k in mine]
        return reads

    def _plan(self) -> None:
        """Make a group for each kind of table, so that a table is held once, and compute where each result goes."""
        reads, tables = self._reads(), self.tables
        kinds: dict[tuple[type, int, Hashable], list[int]] = {}
        for i, read in enumerate(reads):
            t = tables[read.lookup.table]
            kinds.setdefault((type(t), t.dim, t.kind), []).append(i)
        self.groups = nn.ModuleList()
        placed: list[tuple[int, int, int]] = []  # (order of the read, its column in the joined output, width)
        column = 0
        for (_, dim, _), members in kinds.items():
            members.sort(key=lambda i: reads[i].pooling)  # stable, and reads of the same pooling are adjacent
            self.groups.append(_Group(tables, [reads[i] for i in members]))
            for i in members:
                placed.append((i, column, dim))
                column += dim
        index = [a + d for _, a, dim in sorted(placed) for d in range(dim)]
        self._joins = any(r.lookup.combine != "concat" for r in reads)
        self._dims = [tables[r.lookup.table].dim for r in reads]
        # The first read of a field, or of a position of its sequence, is not combined with earlier ones.
        positions = [(r.lookup.field, r.columns) for r in reads]
        begins = [i == 0 or positions[i] != positions[i - 1] for i in range(len(reads))]
        self._combine = ["concat" if new else r.lookup.combine for new, r in zip(begins, reads, strict=True)]
        self.register_buffer("order", None if index == list(range(column)) else torch.tensor(index))

    def lookup(self, ids_BL: Tensor, dense_BN: Tensor) -> Tensor:
        """→ x_BW, the fields side by side in schema order; lists are averaged, sequences are L·D wide."""
        parts = [group(ids_BL, dense_BN).flatten(1) for group in self.groups]
        if parts and self.order is not None:
            parts = [torch.cat(parts, 1).index_select(1, self.order)]
        if self._joins:
            parts = joined(torch.cat(parts, 1).split(self._dims, 1), self._combine)
        return torch.cat([*parts, dense_BN[:, : self._numbers]], 1)

    def forward(self, batch: Batch) -> Tensor:
        """→ x_BW of a batch."""
        return self.lookup(batch.ids_BL, batch.dense_BN)

    @contextmanager
    def packed(self) -> Generator[None]:
        """Inside it, a forward pass spreads the rows anew, so that a traced graph holds only the stored form."""
        held = [(m, m.spread) for m in self.groups.modules() if isinstance(m, HeldRows)]
        try:
            for module, _ in held:
                module.spread = None
            yield
        finally:
            for module, spread_VR in held:
                module.spread = spread_VR

    def scoring(self) -> "PlainEmbedding":
        """Itself: it is plain already."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(t.nbytes for t in self.tables.values())

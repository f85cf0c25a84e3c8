"""Embedding tables as plain tensors, looked up: what an exported graph holds.

B rows of a batch, L id columns, P lookups, V table rows, r rank, D embedding dim.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.features.schema import Schema
from recsys.tables.forms import Table, places, spread
from recsys.tables.lookup import Lookup, joined, joined_width, table_rows, weighted_mean

__all__ = ["PlainEmbedding"]


@dataclass(frozen=True)
class _Read:
    """One result of a lookup.

    Args:
        lookup: Where it reads.
        columns: Its id columns; more than one are averaged.
        weights: As many columns of dense_BN, or none.
        padded: Whether an id may be −1, which reads as zeros.
    """

    lookup: Lookup
    columns: range
    weights: range
    padded: bool

    @property
    def pooling(self) -> tuple[int, bool, bool]:
        """Reads of one pooling are pooled at once."""
        return len(self.columns), self.padded, len(self.weights) > 0


class _Group(nn.Module):
    """Reads whose tables share a form, made with one gather.

    A look through an id map, or into half a byte, costs more than the bytes it saves once they are in
    memory. So the rows are spread out when a model is made or a graph is loaded: one for each id, one
    number in a byte or more. What is stored stays small.

    Args:
        tables: The tables, by name.
        reads: R reads, sorted by pooling; all tables have one rank, dim and precision.
    """

    columns: Tensor
    weights: Tensor
    a: Tensor
    b: Tensor
    rows: Tensor
    divisor: Tensor | None
    start: Tensor
    codes: Tensor
    spread: Tensor | None
    scale: Tensor | None
    offset: Tensor | None
    basis: Tensor | None
    words: Tensor | None
    places: Tensor

    def __init__(self, tables: Mapping[str, Table], reads: Sequence[_Read]):
        super().__init__()
        lookups = [r.lookup for r in reads for _ in r.columns]
        names = list(dict.fromkeys(k.table for k in lookups))
        ab = [k.coefficients() for k in lookups]
        self.direct = all(k.direct for k in lookups)
        first = tables[names[0]]
        self.rank = first.rank
        self.pads = any(r.padded or len(r.columns) > 1 for r in reads)
        columns = [c for r in reads for c in r.columns]
        self.first, self.side_by_side = columns[0], columns == list(range(columns[0], columns[0] + len(columns)))
        self.register_buffer("columns", torch.tensor(columns))
        self.register_buffer("a", torch.tensor([a for a, _ in ab]))
        self.register_buffer("b", torch.tensor([b for _, b in ab]))
        self.register_buffer("rows", torch.tensor([tables[k.table].rows for k in lookups]))
        divisors = [k.divisor for k in lookups]
        self.register_buffer("divisor", torch.tensor(divisors) if max(divisors) > 1 else None)
        used = [tables[n] for n in names]
        begins = dict(zip(names, [0, *torch.tensor([t.rows for t in used]).cumsum(0).tolist()], strict=False))
        self.register_buffer("start", torch.tensor([begins[k.table] for k in lookups]))
        self.sizes = [(len(t.codes), 0 if t.words is None else len(t.words), t.rows) for t in used]
        self.register_buffer("sizes_T3", torch.tensor(self.sizes))  # for whoever reads the weights file
        maps = [t.words for t in used if t.words is not None]
        self.register_buffer("codes", torch.cat([t.codes for t in used]))
        self.register_buffer("words", torch.cat(maps) if maps else None)
        self.register_buffer("places", places() if maps else None)
        packed = maps or self.codes.shape[1] != self.rank
        self.register_buffer("spread", self._spread() if packed else None, persistent=False)
        for part in ("scale", "offset", "basis"):
            there = getattr(first, part) is not None
            stacked = torch.stack([getattr(tables[k.table], part) for k in lookups]) if there else None
            self.register_buffer(part, stacked)
        poolings = [r.pooling for r in reads]
        self.pools = [(p, p[0] * poolings.count(p)) for p in dict.fromkeys(poolings)]  # and how many lookups
        # A buffer: a list would become a tensor without a name, which weights.safetensors does not hold.
        self.register_buffer("weights", torch.tensor([c for r in reads for c in r.weights], dtype=torch.long))

    def _spread(self) -> Tensor:
        return spread(self.codes, self.rank, self.words, self.places, self.sizes)

    def _look(self, ids_BL: Tensor) -> tuple[Tensor, Tensor | None]:
        """→ looked-up x_BPD and there_BP, 1 where the id is not padding; None if no read pads."""
        if self.side_by_side:
            ids_BP = ids_BL[:, self.first : self.first + len(self.columns)]
        else:
            ids_BP = ids_BL.index_select(1, self.columns)
        there_BP = (ids_BP >= 0).float() if self.pads else None
        if self.pads:
            ids_BP = ids_BP.clamp(min=0)
        if not self.direct:
            ids_BP = table_rows(ids_BP, self.a, self.b, self.rows, self.divisor)
        codes = self._spread() if self.spread is None else self.spread
        x_BPr = nn.functional.embedding(ids_BP + self.start, codes).float()
        if self.scale is not None and self.offset is not None:
            x_BPr = torch.addcmul(self.offset, x_BPr, self.scale)
        if self.basis is None:
            return x_BPr, there_BP
        x_BPD = x_BPr[..., :1] * self.basis[:, 0]
        for i in range(1, self.rank):  # r fused multiply-adds: a batched product of matrices this thin is slower
            x_BPD = torch.addcmul(x_BPD, x_BPr[..., i : i + 1], self.basis[:, i])
        return x_BPD, there_BP

    def forward(self, ids_BL: Tensor, dense_BN: Tensor) -> Tensor:
        """→ x_BRD, lists averaged."""
        x_BPD, there_BP = self._look(ids_BL)
        if there_BP is None:
            return x_BPD
        parts, at, weight_at = [], 0, 0
        for (length, padded, weighted), count in self.pools:
            x_BCD, there_BC1 = x_BPD[:, at : at + count], there_BP[:, at : at + count].unsqueeze(-1)
            at += count
            if weighted:
                columns = self.weights[weight_at : weight_at + count]
                weight_at += count
                w_BC1 = there_BC1 * dense_BN.index_select(1, columns).unsqueeze(-1)
                total, weight = ((t * w_BC1).unflatten(1, (-1, length)).sum(2) for t in (x_BCD, x_BCD.new_ones(())))
                x_BCD = weighted_mean(total, weight)
            elif length > 1:
                total = (x_BCD * there_BC1).unflatten(1, (-1, length)).sum(2)
                x_BCD = total / there_BC1.unflatten(1, (-1, length)).sum(2).clamp(min=1)
            elif padded:
                x_BCD = x_BCD * there_BC1
            parts.append(x_BCD)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class PlainEmbedding(nn.Module):
    """An embedding scheme as plain tensors: ids_BL, dense_BN → x_BW, for scoring only.

    Args:
        schema: The fields.
        tables: Dense, low-rank or quantised tables.
        lookups: All reads; a field's reads stand together in its output, in this order, or join as they say.
    """

    order: Tensor | None

    def __init__(self, schema: Schema, tables: Mapping[str, Table], lookups: Sequence[Lookup]):
        super().__init__()
        self.schema, self.tables, self.lookups = schema, dict(tables), list(lookups)
        self.widths = {f.name: f.max_length for f in schema.fields}  # of numbers
        for f in schema.sparse:
            mine = [k for k in lookups if k.field == f.name]
            width = joined_width(mine, [tables[k.table].dim for k in mine])
            self.widths[f.name] = width * (f.max_length if f.kind == "sequence" else 1)
        self._numbers = sum(f.max_length for f in schema.numeric)
        self._plan()

    def _reads(self) -> list[_Read]:
        """Every result that x_BW is made of, in its order: a read of one id column, or of a list's columns."""
        found: list[_Read] = []
        for f in self.schema.sparse:
            ids, weights = self.schema.id_columns[f.name], self.schema.weight_columns.get(f.name, range(0))
            mine = [k for k in self.lookups if k.field == f.name]
            if f.kind == "sequence":  # position by position: a position's reads stand together
                found += [_Read(k, range(c, c + 1), weights, padded=True) for c in ids for k in mine]
            else:
                found += [_Read(k, ids, weights, padded=f.kind == "multi") for k in mine]
        return found

    def _plan(self) -> None:
        """One group for each form of table, so that a table is held once; say where each result goes."""
        reads, tables = self._reads(), self.tables
        forms: dict[tuple[object, ...], list[int]] = {}
        for i, read in enumerate(reads):
            t = tables[read.lookup.table]
            forms.setdefault((t.bits, t.dim, t.rank, t.scale is None, t.basis is None), []).append(i)
        self.groups = nn.ModuleList()
        placed: list[tuple[int, int, int]] = []  # (order of the read, its column in the joined output, width)
        at = 0
        for form, members in forms.items():
            members.sort(key=lambda i: reads[i].pooling)  # stable: what is pooled alike stands together
            self.groups.append(_Group(tables, [reads[i] for i in members]))
            dim = int(form[1])  # type: ignore[call-overload]
            for i in members:
                placed.append((i, at, dim))
                at += dim
        index = [a + d for _, a, dim in sorted(placed) for d in range(dim)]
        self._joins = any(r.lookup.combine != "concat" for r in reads)
        self._dims = [tables[r.lookup.table].dim for r in reads]
        # The first read of a field, or of a position of its sequence, joins nothing.
        places = [(r.lookup.field, r.columns) for r in reads]
        begins = [i == 0 or places[i] != places[i - 1] for i in range(len(reads))]
        self._combine = ["concat" if new else r.lookup.combine for new, r in zip(begins, reads, strict=True)]
        self.register_buffer("order", None if index == list(range(at)) else torch.tensor(index))

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
        """Within it a forward pass spreads the rows anew: a graph that is traced holds what is stored, no more."""
        held = [(group, group.spread) for group in self.groups if isinstance(group, _Group)]
        try:
            for group, _ in held:
                group.spread = None
            yield
        finally:
            for group, spread_VR in held:
                group.spread = spread_VR

    def plain(self) -> "PlainEmbedding":
        """Itself: it is plain already."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(t.nbytes for t in self.tables.values())

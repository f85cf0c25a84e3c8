"""Tables on TorchRec, updated by a fused optimiser in the backward pass.

What every scheme shares: it says which tables there are and who reads them; this looks them up.
A sequence is not pooled here: each of its positions is a key of its own, of at most one id, so
that it shares a table with its candidate, and one fused update covers both.

B rows, K fields, P lookups, L positions of a sequence, W the width of all fields side by side.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recsys.data.batch import Batch
from recsys.embeddings.optimizers.rowwise_adagrad import rowwise_adagrad
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.frame.contracts import TableOptimizer
from recsys.tables.forms import Table
from recsys.tables.lookup import Lookup, joined, joined_width, table_rows, weighted_mean
from recsys.tables.plain import PlainEmbedding

__all__ = ["FusedLookups", "check_dim", "ids_of_tables"]


def check_dim(name: str, dim: int) -> int:
    """Return `dim` if FBGEMM can take it.

    Raises:
        ConfigError: If it is not a positive multiple of 4.
    """
    if dim <= 0 or dim % 4:
        near = max(4, 4 * round(dim / 4))
        raise ConfigError(f"{name} must be a multiple of 4 (FBGEMM kernels), got {dim}: set {name}={near}")
    return dim


def ids_of_tables(schema: Schema) -> dict[str, int]:
    """Count of ids for each field that has a table of its own, or whose table others read.

    A table keeps its owner's name where selection dropped the owner: those who read it still share it.

    Raises:
        ConfigError: If fields that share a table count its ids differently.
    """
    ids: dict[str, int] = {}
    for f in schema.sparse:
        owner = f.table or f.name
        if ids.setdefault(owner, f.cardinality) != f.cardinality:
            raise ConfigError(
                f"fields that read the table {owner!r} must have its {ids[owner]} ids, "
                f"got {f.cardinality} of {f.name!r}: prepare the data again"
            )
    return ids


class _OneKey(NamedTuple):
    ids: Tensor
    counts: Tensor
    factors: Tensor | None

    def values(self) -> Tensor:
        return self.ids

    def lengths(self) -> Tensor:
        return self.counts

    def weights(self) -> Tensor | None:
        return self.factors


class _ByKey:
    """A KeyedJaggedTensor as FusedEmbeddingBagCollection reads it; TorchRec's own to_dict takes 7 ms for 500 keys."""

    def __init__(self, ids: KeyedJaggedTensor):
        self._ids = ids

    def to_dict(self) -> dict[str, _OneKey]:
        """Key → its ids, how many each row has, and their weights."""
        keys, count = self._ids.keys(), self._ids.length_per_key()
        length_KB = self._ids.lengths().view(len(keys), -1)
        weights = self._ids.weights_or_none()
        factors = [None] * len(keys) if weights is None else weights.split(count)
        parts = zip(self._ids.values().split(count), length_KB.unbind(0), factors, strict=True)
        return {key: _OneKey(*part) for key, part in zip(keys, parts, strict=True)}


class FusedLookups(nn.Module):
    """The lookups of a scheme on one `FusedEmbeddingBagCollection`.

    The tables never see a dense gradient. Row-wise Adagrad updates them, unless `use_optimizer` says otherwise.

    Args:
        schema: The fields.
        tables: Name → (rows, dim).
        lookups: All reads, at least one for each sparse field.
        init: Weights start uniform in ±init.
        centres: Tables whose weights start uniform in centre ± init instead, by name.
    """

    a: Tensor
    b: Tensor
    rows: Tensor
    divisor: Tensor
    pooled: Tensor

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, tuple[int, int]],
        lookups: Sequence[Lookup],
        init: float,
        centres: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.schema, self.init = schema, init
        self.centres = {t: 0.0 for t in tables} | dict(centres or {})
        order = {f.name: i for i, f in enumerate(schema.sparse)}
        self.lookups = sorted(lookups, key=lambda k: order[k.field])
        self.table_names = list(tables)
        self._dims = [tables[k.table][1] for k in self.lookups]
        self.keys = [self._keys_of(i) for i in range(len(self.lookups))]
        self.widths = {f.name: f.max_length for f in schema.fields}  # of numbers
        for f in schema.sparse:
            mine = [i for i, k in enumerate(self.lookups) if k.field == f.name]
            width = joined_width([self.lookups[i] for i in mine], [self._dims[i] for i in mine])
            self.widths[f.name] = width * len(self.keys[mine[0]])
        self._tables, self.optimizer = dict(tables), rowwise_adagrad()
        self.bags = self._bags(torch.get_default_device())
        ab = [k.coefficients() for k in self.lookups]
        self.register_buffer("a", torch.tensor([a for a, _ in ab]), persistent=False)
        self.register_buffer("b", torch.tensor([b for _, b in ab]), persistent=False)
        self.register_buffer(
            "rows",
            torch.tensor([tables[k.table][0] for k in self.lookups]),
            persistent=False,
        )
        divisors = torch.tensor([k.divisor for k in self.lookups], dtype=torch.long)
        self.register_buffer("divisor", divisors, persistent=False)
        self._plan()

    def _keys_of(self, i: int) -> list[str]:
        """The keys of a lookup: one, or one for each position of a sequence."""
        f = self.schema[self.lookups[i].field]
        return [f"{i}/{f.name}/{at}" for at in range(f.max_length)] if f.kind == "sequence" else [f"{i}/{f.name}"]

    def _bags(self, device: torch.device) -> FusedEmbeddingBagCollection:
        readers: dict[str, list[str]] = {t: [] for t in self._tables}
        for k, keys in zip(self.lookups, self.keys, strict=True):
            readers[k.table] += keys
        return FusedEmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=f"t{i}",  # a module's name may hold no dot; a field's may
                    num_embeddings=rows,
                    embedding_dim=dim,
                    feature_names=readers[t],
                    pooling=PoolingType.SUM,
                    weight_init_min=self.centres[t] - self.init,
                    weight_init_max=self.centres[t] + self.init,
                )
                for i, (t, (rows, dim)) in enumerate(self._tables.items())
            ],
            optimizer_type=self.optimizer.kind,
            optimizer_kwargs={"lr": 0.01, **self.optimizer.settings},
            is_weighted=bool(self.schema.weight_columns),
            device=device,
        )

    def _plan(self) -> None:
        """What a batch's ids become, and where each lookup's result stands."""
        schema = self.schema
        pooled = [f.name for f in schema.sparse if f.kind != "sequence"]
        at = {name: i for i, name in enumerate(pooled)}
        reads = [i for i, k in enumerate(self.lookups) if k.field in at]
        self.register_buffer("pooled", torch.tensor(reads, dtype=torch.long), persistent=False)
        self._source = [at[self.lookups[i].field] for i in reads]
        self._sequences = [i for i, k in enumerate(self.lookups) if k.field not in at]
        self._ordered = [key for i in [*reads, *self._sequences] for key in self.keys[i]]
        self._divides = any(k.divisor > 1 for k in self.lookups)
        self._passes = all(self.lookups[i].direct for i in reads) and self._source == list(range(len(pooled)))
        self._first = {keys[0]: i for i, keys in enumerate(self.keys)}
        self._lists = {f.name: at[f.name] for f in schema.sparse if f.max_length > 1 and f.name in at}
        self._columns = {n: slice(c.start, c.stop) for n, c in schema.id_columns.items()}
        self._weights = {n: slice(c.start, c.stop) for n, c in schema.weight_columns.items()}
        self._numbers = sum(f.max_length for f in schema.numeric)
        changed = self._lists.keys() | self._weights.keys() | {self.lookups[i].field for i in self._sequences}
        by_table = sorted(range(len(self.lookups)), key=lambda i: self.table_names.index(self.lookups[i].table))
        joins = any(k.combine != "concat" for k in self.lookups)
        self._stands = not changed and not joins and by_table == list(range(len(self.lookups)))

    def _weighted(self, batch: Batch) -> KeyedJaggedTensor:
        """The pooled ids with their weights: 1 where the field has none."""
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

    def route(self, batch: Batch) -> KeyedJaggedTensor:
        """Field ids → the table rows of every lookup, keyed by lookup (and position)."""
        ids = self._weighted(batch)
        if not self._passes:
            read = ids.permute(self._source)
            count_P = torch.tensor(read.length_per_key(), device=self.a.device)
            how = (self.a, self.b, self.rows, *([self.divisor] if self._divides else []))
            each = (torch.repeat_interleave(t[self.pooled], count_P) for t in how)
            rows = table_rows(read.values(), *each)
            ids = KeyedJaggedTensor(read.keys(), rows, read.weights_or_none(), lengths=read.lengths())
        if not self._sequences:
            return KeyedJaggedTensor(self._ordered, ids.values(), ids.weights_or_none(), lengths=ids.lengths())
        values, lengths = [ids.values()], [ids.lengths()]
        for i in self._sequences:
            ids_LB = batch.ids_BL[:, self._columns[self.lookups[i].field]].t()
            there_LB = ids_LB >= 0
            read = ids_LB[there_LB]
            direct = self.lookups[i].direct
            values.append(read if direct else table_rows(read, self.a[i], self.b[i], self.rows[i], self.divisor[i]))
            lengths.append(there_LB.flatten().to(torch.int32))
        joined = torch.cat(values)
        weights = ids.weights_or_none()
        if weights is not None:
            weights = torch.cat([weights, weights.new_ones(len(joined) - len(weights))])
        return KeyedJaggedTensor(self._ordered, joined, weights, lengths=torch.cat(lengths))

    def _per_lookup(self, looked: KeyedTensor) -> list[Tensor]:
        """The result of each lookup, in order of lookups, whatever order the tables have."""
        stand = [self._first[key] for key in looked.keys() if key in self._first]  # noqa: SIM118  # not a dict
        blocks = looked.values().split([self._dims[i] * len(self.keys[i]) for i in stand], 1)
        by_lookup = dict(zip(stand, blocks, strict=True))
        return [by_lookup[i] for i in range(len(stand))]

    def _mean(self, part_BD: Tensor, field: str, batch: Batch) -> Tensor:
        """A sum over a list → its mean; Σ w·x → Σ w·x / Σ w, and 0 where Σ w = 0."""
        if field not in self._weights:
            length_KB = batch.ids.lengths().view(len(batch.ids.keys()), -1)
            return part_BD / length_KB[self._lists[field]].clamp(min=1).unsqueeze(1)
        there_BL = batch.ids_BL[:, self._columns[field]] >= 0
        return weighted_mean(part_BD, (batch.dense_BN[:, self._weights[field]] * there_BL).sum(1, keepdim=True))

    def forward(self, batch: Batch) -> Tensor:
        """→ x_BW: the fields in schema order; lists are averaged, sequences are L·D wide, position by position."""
        if not self.keys:  # numbers only
            return batch.dense_BN
        looked, dense_BN = self.bags(_ByKey(self.route(batch))), batch.dense_BN[:, : self._numbers]
        if self._stands:  # as the tables give it
            return torch.cat([looked.values(), dense_BN], 1)
        parts: dict[str, list[Tensor]] = {}
        for k, part in zip(self.lookups, self._per_lookup(looked), strict=True):
            averaged = k.field in self._lists or k.field in self._weights
            parts.setdefault(k.field, []).append(self._mean(part, k.field, batch) if averaged else part)
        for name, reads in parts.items():
            f = self.schema[name]
            parts[name] = reads = joined(reads, [k.combine for k in self.lookups if k.field == name])
            if f.kind == "sequence" and len(reads) > 1:  # a position's reads stand together
                parts[name] = [torch.cat([r.unflatten(1, (f.max_length, -1)) for r in reads], 2).flatten(1)]
        return torch.cat([*(p for reads in parts.values() for p in reads), dense_BN], 1)

    def plain(self) -> PlainEmbedding:
        """The same lookups over copies of the tables as plain tensors."""
        tables = {name: Table(weight.clone()) for name, weight in self._weights_by_table().items()}
        return PlainEmbedding(self.schema, tables, self.lookups).to(self.a.device)

    def dense_parameters(self) -> tuple[nn.Parameter, ...]:
        """None: all that is learned here is in the tables."""
        return ()

    def use_optimizer(self, optimizer: TableOptimizer) -> None:
        """Let it update the tables from now on. Weights stay; what another optimiser remembers is gone."""
        if optimizer == self.optimizer:
            return
        weights, self.optimizer = self._weights_by_table(), optimizer
        self.bags = self._bags(self.a.device)
        for name, weight in self._weights_by_table().items():
            weight.copy_(weights[name])

    def _weights_by_table(self) -> dict[str, Tensor]:
        """The tables themselves, not copies."""
        bags = self.bags.embedding_bags
        return {t: bags[f"t{i}"].weight.detach() for i, t in enumerate(self._tables)}

    def _table_of(self, key: str) -> str:
        """The table of a parameter of the fused optimiser."""
        return self.table_names[int(key.split(".")[-2].removeprefix("t"))]

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the tables' optimiser remembers, by table; a copy. Empty if it remembers nothing."""
        return {table: momentum.detach().clone() for table, momentum in self._momenta().items()}

    def _momenta(self) -> dict[str, Tensor]:
        """What the optimiser remembers itself, not a copy: Σ over steps of g² (Adagrad) or of mean_d(g²) (row-wise)."""
        optimizer, momenta = self.bags.fused_optimizer(), dict[str, Tensor]()
        for key, weight in optimizer.params.items():  # empty for an optimiser that remembers nothing
            (momenta[self._table_of(key)],) = optimizer.state[weight].values()
        return momenta

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave, so that training goes on exactly."""
        for table, momentum in self._momenta().items():
            momentum.copy_(state[table])

    @torch.no_grad()
    def reset_tables(self) -> None:
        """Draw all tables anew and forget their gradient history."""
        for table, weight in self._weights_by_table().items():
            weight.uniform_(self.centres[table] - self.init, self.centres[table] + self.init)
        for momentum in self._momenta().values():
            momentum.zero_()

    def set_learning_rate(self, lr: float) -> None:
        """The rate of the next updates, > 0."""
        optimizer = self.bags.fused_optimizer()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()  # hands the rate to FBGEMM; the update itself runs in the backward pass

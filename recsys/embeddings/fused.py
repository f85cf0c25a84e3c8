"""Tables on TorchRec, updated by a fused row-wise Adagrad in the backward pass.

What every scheme shares: it says which tables there are and who reads them; this looks them up.
B rows, K fields, P lookups, W the width of all fields side by side.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.errors import ConfigError
from recsys.schema import Schema
from recsys.tables import Lookup, PlainEmbedding, Table, salted_rows

__all__ = ["FusedLookups", "check_dim"]


def check_dim(name: str, dim: int) -> int:
    """Return `dim` if FBGEMM can take it.

    Raises:
        ConfigError: If it is not a positive multiple of 4.
    """
    if dim <= 0 or dim % 4:
        near = max(4, 4 * round(dim / 4))
        raise ConfigError(f"{name} must be a multiple of 4 (FBGEMM kernels), got {dim}: set {name}={near}")
    return dim


class FusedLookups(nn.Module):
    """The lookups of a scheme on one `FusedEmbeddingBagCollection`.

    The tables never see a dense gradient: m_r += mean_d(G_r²); W_r −= lr·G_r / (√m_r + eps), with
    G_r the summed gradient of row r.

    Args:
        schema: The fields.
        tables: Name → (rows, dim).
        lookups: All reads, at least one for each sparse field.
        init: Weights start uniform in ±init.
    """

    a: Tensor
    b: Tensor
    rows: Tensor

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, tuple[int, int]],
        lookups: Sequence[Lookup],
        init: float,
    ):
        super().__init__()
        self.schema, self.init = schema, init
        order = {f.name: i for i, f in enumerate(schema.sparse)}
        self.lookups = sorted(lookups, key=lambda k: order[k.field])
        self.table_names = list(tables)
        self.keys = [f"{i}/{k.field}" for i, k in enumerate(self.lookups)]
        self.widths = {f.name: 0 for f in schema.fields}
        for k in self.lookups:
            self.widths[k.field] += tables[k.table][1]
        self.widths.update({f.name: f.max_length for f in schema.numeric})
        readers = {t: [n for n, k in zip(self.keys, self.lookups, strict=True) if k.table == t] for t in tables}
        self.bags = FusedEmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=f"t{i}",  # a module's name may hold no dot; a field's may
                    num_embeddings=rows,
                    embedding_dim=dim,
                    feature_names=readers[t],
                    pooling=PoolingType.SUM,
                    weight_init_min=-init,
                    weight_init_max=init,
                )
                for i, (t, (rows, dim)) in enumerate(tables.items())
            ],
            optimizer_type=RowWiseAdagrad,
            optimizer_kwargs={
                "lr": 0.01,
                "eps": 1e-8,
            },
        )
        self._source = [order[k.field] for k in self.lookups]
        self._passes = self._source == list(range(len(schema.sparse))) and all(k.salt is None for k in self.lookups)
        ab = [k.coefficients() for k in self.lookups]
        self.register_buffer("a", torch.tensor([a for a, _ in ab]), persistent=False)
        self.register_buffer("b", torch.tensor([b for _, b in ab]), persistent=False)
        self.register_buffer(
            "rows",
            torch.tensor([tables[k.table][0] for k in self.lookups]),
            persistent=False,
        )
        self._lists = [f.name for f in schema.sparse if f.max_length > 1]

    def route(self, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Field ids → the table rows of every lookup, keyed by lookup."""
        if self._passes:
            return KeyedJaggedTensor(self.keys, ids.values(), lengths=ids.lengths())
        read = ids.permute(self._source)
        count_P = torch.tensor(read.length_per_key())
        a, b, rows = (torch.repeat_interleave(t, count_P) for t in (self.a, self.b, self.rows))
        return KeyedJaggedTensor(self.keys, salted_rows(read.values(), a, b, rows), lengths=read.lengths())

    def forward(self, batch: Batch) -> Tensor:
        """→ x_BW: the fields in schema order, whatever order the tables have; lists are averaged."""
        if not self.keys:  # numbers only
            return batch.dense_BN
        looked = self.bags(self.route(batch.ids))
        by_key = looked.to_dict()
        parts = [by_key[key] for key in self.keys]
        if self._lists:
            at = {f.name: i for i, f in enumerate(self.schema.sparse)}
            length_KB = batch.ids.lengths().view(len(at), -1)
            for i, k in enumerate(self.lookups):
                if k.field in self._lists:
                    parts[i] = parts[i] / length_KB[at[k.field]].clamp(min=1).unsqueeze(1)
        return torch.cat([*parts, batch.dense_BN], 1)

    def plain(self) -> PlainEmbedding:
        """The same lookups over copies of the tables as plain tensors."""
        bags = self.bags.embedding_bags
        tables = {t: Table(bags[f"t{i}"].weight.detach().clone()) for i, t in enumerate(self.table_names)}
        return PlainEmbedding(self.schema, tables, self.lookups)

    def fisher(self) -> dict[str, Tensor]:
        """For each table, the row-wise Adagrad state: Σ over steps of mean_d(g²), one value a row."""
        optimizer = self.bags.fused_optimizer()
        found = {}
        for key, weight in optimizer.params.items():
            table = self.table_names[int(key.split(".")[-2].removeprefix("t"))]
            (found[table],) = (m.detach().clone() for m in optimizer.state[weight].values())
        return found

    def load_fisher(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `fisher` gave, so that training goes on exactly."""
        optimizer = self.bags.fused_optimizer()
        for key, weight in optimizer.params.items():
            table = self.table_names[int(key.split(".")[-2].removeprefix("t"))]
            for momentum in optimizer.state[weight].values():
                momentum.copy_(state[table])

    @torch.no_grad()
    def reset(self) -> None:
        """Draw all tables anew and forget their gradient history."""
        optimizer = self.bags.fused_optimizer()
        for weight in optimizer.params.values():
            weight.uniform_(-self.init, self.init)
            for momentum in optimizer.state[weight].values():
                momentum.zero_()

    def set_learning_rate(self, lr: float) -> None:
        """The rate of the next updates, > 0."""
        optimizer = self.bags.fused_optimizer()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()  # hands the rate to FBGEMM; the update itself runs in the backward pass

"""An embedding scheme with the tables of a frozen logistic regression added: one number for each id.

B rows, L id columns, F linear fields, R ids of all of these, W the width of all fields side by side, V the width
without the linear columns.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.frame.contracts import RoutedEmbedding, TableOptimizer, TableRows
from recsys.frame.linear import linear_fields
from recsys.tables.forms import Table
from recsys.tables.lookup import Lookup, weighted_mean
from recsys.tables.plain import PlainEmbedding

__all__ = ["WithLinear"]


class WithLinear(nn.Module):
    """A scheme's fields; each of `linear_fields` has one column more, from a linear table.

    The column of a list is the mean over its ids, weighted if the list is. Linear tables are never trained.

    Args:
        schema: The fields.
        inner: The scheme, which the network reads.

    Raises:
        ConfigError: If a field is called as the linear table of another one.
    """

    weight_R: Tensor
    first_L: Tensor
    mine_L: Tensor

    def __init__(self, schema: Schema, inner: RoutedEmbedding):
        super().__init__()
        self.schema, self.inner, names = schema, inner, linear_fields(schema)
        if taken := [n for n in names if f"{n} linear" in schema.names]:
            raise ConfigError(
                f"train.linear: the weights of field {taken[0]!r} are called {taken[0] + ' linear'!r}, as another "
                "field is: rename that field, or set train.linear=false"
            )
        self.fields = [schema[name] for name in names]
        self.widths = {n: w + (n in names) for n, w in inner.widths.items()}
        linear = [Lookup(name, f"{name} linear") for name in names]
        self.lookups = [*inner.lookups, *linear]
        self.keys = [*inner.keys, *([f"linear/{name}"] for name in names)]
        self._sizes = [inner.widths[f.name] for f in schema.sparse]
        self._alike = len(names) == len(schema.sparse) and len(set(self._sizes)) == 1
        self._columns = {n: slice(c.start, c.stop) for n, c in schema.id_columns.items()}
        self._weights = {n: slice(c.start, c.stop) for n, c in schema.weight_columns.items()}
        first_L, rows = torch.zeros(sum(c.stop - c.start for c in self._columns.values()), dtype=torch.long), 0
        self._rows: dict[str, slice] = {}
        for f in self.fields:
            first_L[self._columns[f.name]] = rows
            self._rows[f.name] = slice(rows, rows + f.cardinality)
            rows += f.cardinality
        mine_L = torch.zeros(len(first_L), dtype=torch.bool)
        for f in self.fields:
            mine_L[self._columns[f.name]] = True
        self.register_buffer("first_L", first_L, persistent=False)
        self.register_buffer("mine_L", mine_L, persistent=False)  # not the columns of sequences
        self.register_buffer("weight_R", torch.zeros(rows))

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set the weight of each id, for each of `linear_fields`."""
        for name, rows in self._rows.items():
            self.weight_R[rows] = weights[name].to(self.weight_R)

    def _linear(self, batch: Batch) -> Tensor:
        """→ x_BF, the linear columns."""
        ids_BL = batch.ids_BL
        there_BL = (ids_BL >= 0) & self.mine_L
        read_BL = self.weight_R[torch.where(there_BL, ids_BL + self.first_L, 0)] * there_BL
        parts: list[Tensor] = []
        for f in self.fields:
            column = self._columns[f.name]
            read = read_BL[:, column]
            if f.name in self._weights:
                weight = batch.dense_BN[:, self._weights[f.name]] * (ids_BL[:, column] >= 0)
                read = weighted_mean((read * weight).sum(1, keepdim=True), weight.sum(1, keepdim=True))
            elif f.max_length > 1:
                count_B1 = (ids_BL[:, column] >= 0).sum(1, keepdim=True).clamp(min=1)
                read = read.sum(1, keepdim=True) / count_B1
            parts.append(read)
        return torch.cat(parts, 1)

    def forward(self, batch: Batch) -> Tensor:
        """→ x_BW, the fields in schema order."""
        x_BV = self.inner(batch)
        if not self.fields:
            return x_BV
        looked_up, numbers_BN = x_BV.tensor_split([sum(self._sizes)], 1)
        linear_BF = self._linear(batch)
        if self._alike:
            both_BFD = torch.cat([looked_up.unflatten(1, (len(self._sizes), -1)), linear_BF.unsqueeze(2)], 2)
            return torch.cat([both_BFD.flatten(1), numbers_BN], 1)
        column = dict(zip((f.name for f in self.fields), linear_BF.split(1, 1), strict=True))
        blocks = zip(self.schema.sparse, looked_up.split(self._sizes, 1), strict=True)
        parts = [p for f, block in blocks for p in ([block, column[f.name]] if f.name in column else [block])]
        return torch.cat([*parts, numbers_BN], 1)

    def scoring(self) -> PlainEmbedding:
        """The same lookups over copies of all tables; a linear one is called as its field, with ` linear` behind."""
        tables = self.inner.scoring().tables
        linear = {f"{n} linear": Table(self.weight_R[rows].clone().unsqueeze(1)) for n, rows in self._rows.items()}
        return PlainEmbedding(self.schema, {**tables, **linear}, self.lookups).to(self.weight_R.device)

    def route(self, batch: Batch) -> KeyedJaggedTensor:
        """The table rows that a batch reads, by key: those of the scheme, then those of the linear tables."""
        inner, ids = self.inner.route(batch), batch.ids
        weights = inner.weights_or_none()
        if weights is not None:
            weights = torch.cat([weights, weights.new_ones(len(ids.values()))])
        values = torch.cat([inner.values(), ids.values().to(inner.values())])
        keys = [*inner.keys(), *(f"linear/{name}" for name in ids.keys())]  # noqa: SIM118  # not a dict
        return KeyedJaggedTensor(keys, values, weights, lengths=torch.cat([inner.lengths(), ids.lengths()]))

    def dense_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of the scheme."""
        return self.inner.dense_parameters()

    def use_optimizer(self, optimizer: TableOptimizer) -> None:
        """Let it update the scheme's tables."""
        self.inner.use_optimizer(optimizer)

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser state of the scheme's tables."""
        return self.inner.optimizer_state()

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the optimiser state of the scheme's tables."""
        self.inner.load_optimizer_state(state)

    def held(self) -> list[TableRows]:
        """The rows of the scheme's tables; the linear tables are in `weight_R`."""
        return self.inner.held()

    def reset_tables(self, seed: int) -> None:
        """Draw the scheme's tables anew; the linear tables stay."""
        self.inner.reset_tables(seed)

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the scheme's tables."""
        self.inner.set_learning_rate(lr)

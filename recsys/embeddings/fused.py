"""The code that all schemes share: a plan of tables and lookups → route → TorchRec's tables → join.

B rows, W the width of all fields side by side.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.embeddings.bags import fused_bags, momenta, table_weights
from recsys.embeddings.join import Join
from recsys.embeddings.optimizers.rowwise_adagrad import rowwise_adagrad
from recsys.embeddings.plan import Plan
from recsys.embeddings.route import Route
from recsys.features.schema import Schema
from recsys.frame.contracts import TableOptimizer, TableRows
from recsys.tables.forms import Table
from recsys.tables.lookup import Lookup
from recsys.tables.plain import PlainEmbedding

__all__ = ["FusedLookups"]


class FusedLookups(nn.Module):
    """The lookups of a scheme in one `FusedEmbeddingBagCollection`.

    The tables never see a dense gradient. Row-wise Adagrad updates them, unless `use_optimizer` says otherwise.

    Args:
        schema: The fields.
        tables: Name → (rows, dim).
        lookups: All reads, at least one for each sparse field.
        init: Initial weights are uniform in ±init.
        centres: Table → centre; its initial weights are uniform in centre ± init instead.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, tuple[int, int]],
        lookups: Sequence[Lookup],
        init: float,
        centres: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.plan = Plan.of(schema, tables, lookups)
        self.schema, self.lookups, self.keys, self.widths = schema, self.plan.lookups, self.plan.keys, self.plan.widths
        centre = dict.fromkeys(tables, 0.0) | dict(centres or {})
        self._starts = {t: (c - init, c + init) for t, c in centre.items()}
        self.optimizer = rowwise_adagrad()
        self.bags = self._bags(torch.get_default_device())
        self._route, self._join = Route(self.plan), Join(self.plan)

    def _bags(self, device: torch.device) -> FusedEmbeddingBagCollection:
        return fused_bags(self.plan, self._starts, self.optimizer, device)

    def route(self, batch: Batch) -> KeyedJaggedTensor:
        """Field ids → the table rows of every lookup, keyed by lookup (and position)."""
        return self._route(batch)

    def forward(self, batch: Batch) -> Tensor:
        """→ x_BW: the fields in schema order; lists are averaged, a sequence has its L positions side by side."""
        if not self.keys:  # numbers only
            return batch.dense_BN
        return self._join(self.bags(self.route(batch)), batch)

    def scoring(self) -> PlainEmbedding:
        """The same lookups over copies of the tables as plain tensors."""
        tables = {name: Table(weight.clone()) for name, weight in table_weights(self.bags, self.plan).items()}
        return PlainEmbedding(self.schema, tables, self.lookups).to(self._route.a.device)

    def dense_parameters(self) -> tuple[nn.Parameter, ...]:
        """Empty: only tables are trained here."""
        return ()

    def use_optimizer(self, optimizer: TableOptimizer) -> None:
        """Let it update the tables from now on. Weights stay; the state of the earlier optimiser is lost."""
        if optimizer == self.optimizer:
            return
        weights, self.optimizer = table_weights(self.bags, self.plan), optimizer
        self.bags = self._bags(self._route.a.device)
        for name, weight in table_weights(self.bags, self.plan).items():
            weight.copy_(weights[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """Table → a copy of its optimiser state; empty for an optimiser without state."""
        return {table: momentum.detach().clone() for table, momentum in momenta(self.bags, self.plan).items()}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the output of `optimizer_state`, so that training resumes exactly."""
        for table, momentum in momenta(self.bags, self.plan).items():
            momentum.copy_(state[table])

    def held(self) -> list[TableRows]:
        """Every row of every table."""
        states = momenta(self.bags, self.plan)
        weights = table_weights(self.bags, self.plan)
        return [TableRows(t, 0, len(weight_RD), weight_RD, states.get(t)) for t, weight_RD in weights.items()]

    @torch.no_grad()
    def reset_tables(self) -> None:
        """Draw all tables anew and reset their optimiser state."""
        for table, weight in table_weights(self.bags, self.plan).items():
            weight.uniform_(*self._starts[table])
        for momentum in momenta(self.bags, self.plan).values():
            momentum.zero_()

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the next updates, > 0."""
        optimizer = self.bags.fused_optimizer()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()  # hands the rate to FBGEMM; the update itself runs in the backward pass

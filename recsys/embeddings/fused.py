"""The code that all schemes share: a plan of tables and lookups → route → TorchRec's tables → join.

B rows, W the width of all fields side by side.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.data.ranks import Ranks
from recsys.embeddings.bags import draw_rows, fused_bags, fused_rows, gathered
from recsys.embeddings.join import Join, looked_up
from recsys.embeddings.optimizers.rowwise_adagrad import rowwise_adagrad
from recsys.embeddings.plan import Plan
from recsys.embeddings.route import Route
from recsys.embeddings.sharded import ShardedBags
from recsys.features.schema import Schema
from recsys.frame.contracts import TableOptimizer, TableRows
from recsys.tables.forms import Table
from recsys.tables.lookup import Lookup
from recsys.tables.plain import PlainEmbedding

__all__ = ["FusedLookups"]


class FusedLookups(nn.Module):
    """The lookups of a scheme in one `FusedEmbeddingBagCollection`, or in `ShardedBags` if there are several processes.

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
        self.optimizer, self.ranks = rowwise_adagrad(), Ranks.current()
        self.bags = self._bags(torch.get_default_device(), self.optimizer)
        self._route, self._join = Route(self.plan), Join(self.plan)

    def _bags(self, device: torch.device, optimizer: TableOptimizer) -> FusedEmbeddingBagCollection | ShardedBags:
        if self.ranks.world > 1 and self.plan.tables:
            return ShardedBags(self.plan, self._starts, optimizer, device, self.ranks)
        return fused_bags(self.plan, self._starts, optimizer, device)

    def route(self, batch: Batch) -> KeyedJaggedTensor:
        """Field ids → the table rows of every lookup, keyed by lookup (and position)."""
        return self._route(batch)

    def forward(self, batch: Batch) -> Tensor:
        """→ x_BW: the fields in schema order; lists are averaged, a sequence has its L positions side by side."""
        if not self.keys:  # numbers only
            return batch.dense_BN
        return self._join(looked_up(self.bags, self.route(batch)), batch)

    def scoring(self) -> PlainEmbedding:
        """The same lookups over copies of the tables as plain tensors."""
        device, parts = self._route.a.device, [(h.table, h.start, h.weight_RD) for h in self.held() if h.saved]
        tables = {t: Table(x_VD) for t, x_VD in gathered(parts, self.plan.tables, self.ranks, device).items()}
        return PlainEmbedding(self.schema, tables, self.lookups).to(device)

    def dense_parameters(self) -> tuple[nn.Parameter, ...]:
        """Empty: only tables are trained here."""
        return ()

    def use_optimizer(self, optimizer: TableOptimizer) -> None:
        """Let it update the tables from now on. Weights stay; the state of the earlier optimiser is lost."""
        if optimizer == self.optimizer:
            return
        before, bags = self.held(), self._bags(self._route.a.device, optimizer)
        self.bags, self.optimizer = bags, optimizer
        for old, new in zip(before, self.held(), strict=True):
            new.weight_RD.copy_(old.weight_RD)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Table → a copy of its optimiser state, gathered from all processes; empty for an optimiser without state."""
        held = [(h.table, h.start, h.state, h.saved) for h in self.held() if h.state is not None]
        mine = {t: tuple(state.shape[1:]) for t, _, state, _ in held}
        widths = {t: width for of_rank in self.ranks.gather(mine) for t, width in of_rank.items()}
        shapes = {t: (rows, *widths[t]) for t, (rows, _) in self.plan.tables.items() if t in widths}
        parts = [(t, start, state) for t, start, state, saved in held if saved]
        return gathered(parts, shapes, self.ranks, self._route.a.device)

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the output of `optimizer_state`, so that training resumes exactly."""
        for h in self.held():
            if h.state is not None:
                h.state.copy_(state[h.table][h.start : h.start + len(h.state)])

    def held(self) -> list[TableRows]:
        """The rows of each table that this process holds; in one process, every row."""
        if isinstance(self.bags, ShardedBags):
            return self.bags.held()
        return fused_rows(self.bags, self.plan)

    def reset_tables(self, seed: int) -> None:
        """Draw all tables anew, the same for a seed on any number of processes, and reset their optimiser state."""
        held = self.held()
        draw_rows(held, self.plan, self._starts, torch.Generator().manual_seed(seed))
        for h in held:
            if h.state is not None:
                h.state.zero_()

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the next updates, > 0."""
        if isinstance(self.bags, ShardedBags):
            self.bags.set_learning_rate(lr)
            return
        optimizer = self.bags.fused_optimizer()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()  # hands the rate to FBGEMM; the update itself runs in the backward pass

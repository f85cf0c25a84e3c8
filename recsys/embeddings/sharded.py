"""TorchRec's tables spread over several processes: each process holds some tables, some rows of each, or copies.

B rows of this process, K keys, W the width of all keys, P processes, C columns.
"""

import logging
import os
from typing import Any, Literal, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.distributed.utils import optimizer_type_to_emb_opt_type
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recsys.data.ranks import Ranks
from recsys.embeddings.bags import (
    Starts,
    check_optimizer,
    draw_rows,
    fused_bags,
    fused_rows,
    only_state,
    table_configs,
    table_name,
)
from recsys.embeddings.plan import Plan
from recsys.errors import ConfigError
from recsys.frame.contracts import TableOptimizer, TableRows
from recsys.tables.rowwise_adagrad import use_fast_update

__all__ = ["ShardedBags"]

_FREE = 0.15  # share of the free memory that the planner leaves free
Kind = Literal["table_wise", "row_wise", "data_parallel"]

logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)  # it warns of how it must be called


class _Sharder(EmbeddingBagCollectionSharder):
    """TorchRec lists row-wise sharding for GPUs only; it also works on CPUs."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return ["table_wise", "row_wise"]


class ShardedBags(nn.Module):
    """The tables of a plan on several processes, as one `EmbeddingBagCollection` of whole batches.

    A process looks up its own rows of a batch. The tables learn from the rows of all processes, from the mean of their
    gradients. Tables that are spread, whole or by rows, are sharded by TorchRec's `DistributedModelParallel`. A table
    that is copied (data-parallel) is a `FusedEmbeddingBagCollection` on every process, which looks up the joined batch
    and takes its gradient: thereby the optimiser is the same, and all copies stay equal bit for bit.

    Args:
        plan: Tables and lookups.
        starts: Table → range of its uniform initial weights.
        optimizer: Optimiser of the tables.
        device: Where this process holds its rows.
        ranks: The processes, and how the tables are spread.

    Raises:
        ConfigError: If the tables do not fit into the memory of the processes.
    """

    def __init__(self, plan: Plan, starts: Starts, optimizer: TableOptimizer, device: torch.device, ranks: Ranks):
        super().__init__()
        self.plan, self.ranks, self.device = plan, ranks, device
        copied = list(plan.tables) if ranks.sharding == "data_parallel" else []
        spread = [t for t in plan.tables if t not in copied]
        with torch.random.fork_rng(_gpus(device)):  # constructors draw weights, which `draw_rows` replaces
            # In tuples, since state_dict must not see them: `held` tells what a process holds.
            self._spread = (_spread_bags(plan, starts, optimizer, device, ranks, spread) if spread else None,)
            self._copies = (fused_bags(plan, starts, optimizer, device, copied) if copied else None,)
        self._keys = _keys_of(plan, spread), _keys_of(plan, copied)
        self._order = _keys_of(plan, list(plan.tables))
        cut = any(len(h.weight_RD) < h.total for h in self.held())
        self._pads = bool(ranks.maximum(int(cut)))
        draw_rows(self.held(), plan, starts)

    def forward(self, rows: KeyedJaggedTensor) -> KeyedTensor:
        """→ the sum of each key, in the order of the tables."""
        keys, parts = list[str](), list[Tensor]()
        for look_up, wanted in zip((self._look_up_spread, self._look_up_copies), self._keys, strict=True):
            if wanted:
                looked_up = look_up(_chosen(rows, wanted))
                keys += looked_up.keys()
                parts += looked_up.values().split(looked_up.length_per_key(), 1)
        by_key = dict(zip(keys, parts, strict=True))
        ordered = [by_key[key] for key in self._order]
        return KeyedTensor(self._order, [p.shape[1] for p in ordered], torch.cat(ordered, 1))

    def _look_up_spread(self, rows: KeyedJaggedTensor) -> KeyedTensor:
        (bags,) = self._spread
        assert bags is not None
        size = rows.stride()
        if self._pads and torch.is_grad_enabled():  # TorchRec's row-wise backward needs equal counts of rows
            rows = _padded(rows, self.ranks.maximum(size))
        looked_up = cast(KeyedTensor, bags(rows).wait())
        return KeyedTensor(looked_up.keys(), looked_up.length_per_key(), looked_up.values()[:size])

    def _look_up_copies(self, rows: KeyedJaggedTensor) -> KeyedTensor:
        (bags,) = self._copies
        assert bags is not None
        if not torch.is_grad_enabled():
            return cast(KeyedTensor, bags(rows))
        joined, sizes = _joined(rows, self.ranks)
        looked_up = cast(KeyedTensor, bags(joined))
        mine_BW = cast(Tensor, _Mine.apply(looked_up.values(), sizes, self.ranks))
        return KeyedTensor(looked_up.keys(), looked_up.length_per_key(), mine_BW)

    def held(self) -> list[TableRows]:
        """The rows that this process holds, in the order of tables; rank 0 saves the tables that all have copied."""
        held = [h for bags in self._copies if bags for h in fused_rows(bags, self.plan, self.ranks.first)]
        held += [h for bags in self._spread if bags for h in _spread_rows(bags, self.plan)]
        order = {t: i for i, t in enumerate(self.plan.tables)}
        return sorted(held, key=lambda h: (order[h.table], h.start))

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the next updates."""
        optimizers = [b.fused_optimizer() for b in self._copies if b] + [b.fused_optimizer for b in self._spread if b]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()  # hands the rate to FBGEMM


class _Mine(Function):
    """The rows of this process of a joined lookup; backward, the gradient of the joined rows, averaged over ranks."""

    @staticmethod
    def forward(ctx: Any, x_BW: Tensor, sizes: list[int], ranks: Ranks) -> Tensor:
        ctx.ranks, start = ranks, sum(sizes[: ranks.rank])
        return x_BW[start : start + sizes[ranks.rank]].clone()

    @staticmethod
    def backward(ctx: Any, grad_BW: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return torch.cat(ctx.ranks.gather_rows(grad_BW.contiguous())) / ctx.ranks.world, None, None


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _keys_of(plan: Plan, tables: list[str]) -> list[str]:
    """The keys that read these tables, table by table."""
    pairs = list(zip(plan.lookups, plan.keys, strict=True))
    return [key for t in tables for k, keys in pairs if k.table == t for key in keys]


def _chosen(rows: KeyedJaggedTensor, keys: list[str]) -> KeyedJaggedTensor:
    given = rows.keys()
    return rows if len(keys) == len(given) else rows.permute([given.index(k) for k in keys])


def _padded(rows: KeyedJaggedTensor, size: int) -> KeyedJaggedTensor:
    """The same, with rows that read nothing behind, up to `size`."""
    if rows.stride() == size:
        return rows
    lengths_KB = rows.lengths().view(len(rows.keys()), -1)
    lengths = nn.functional.pad(lengths_KB, (0, size - rows.stride())).flatten()
    return KeyedJaggedTensor(rows.keys(), rows.values(), rows.weights_or_none(), lengths=lengths)


def _joined(rows: KeyedJaggedTensor, ranks: Ranks) -> tuple[KeyedJaggedTensor, list[int]]:
    """What all ranks read, key by key and within a key rank by rank; and each rank's count of rows."""
    keys, weights = rows.keys(), rows.weights_or_none()
    lengths_PKB = [x.view(len(keys), -1) for x in ranks.gather_rows(rows.lengths())]
    counts_PK = [x.sum(1).tolist() for x in lengths_PKB]

    def joined(x: Tensor) -> Tensor:
        parts = [of_rank.split(n) for of_rank, n in zip(ranks.gather_rows(x), counts_PK, strict=True)]
        return torch.cat([p[k] for k in range(len(keys)) for p in parts])

    lengths = torch.cat(lengths_PKB, 1).flatten()
    all_rows = KeyedJaggedTensor(
        keys, joined(rows.values()), None if weights is None else joined(weights), lengths=lengths
    )
    return all_rows, [x.shape[1] for x in lengths_PKB]


def _spread_bags(
    plan: Plan, starts: Starts, optimizer: TableOptimizer, device: torch.device, ranks: Ranks, tables: list[str]
) -> ShardedEmbeddingBagCollection:
    """Tables that are nowhere whole before they are sharded: they are described on `meta`."""
    check_optimizer(optimizer, device)
    whole = EmbeddingBagCollection(
        tables=table_configs(plan, starts, tables),
        is_weighted=bool(plan.schema.weight_columns),
        device=torch.device("meta"),
    )
    use_fast_update()
    kind = optimizer_type_to_emb_opt_type(optimizer.kind)
    sharder = _Sharder(fused_params={"optimizer": kind, "learning_rate": 0.01, **optimizer.settings})
    model = DistributedModelParallel(
        whole,
        env=ShardingEnv.from_process_group(cast(dist.ProcessGroup, dist.group.WORLD)),
        device=device,
        plan=_planned(whole, sharder, device, ranks),
        sharders=[cast(Any, sharder)],
        init_data_parallel=False,
    )
    return cast(ShardedEmbeddingBagCollection, model.module)


def _planned(whole: EmbeddingBagCollection, sharder: _Sharder, device: torch.device, ranks: Ranks) -> ShardingPlan:
    """TorchRec's plan for the memory that is free.

    A table stays whole if it has too few rows for all processes: on CPUs, FBGEMM's backward pass reads past its arrays
    if the last table of a process has no rows.
    """
    near = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
    free = _free_bytes(device, near)
    memory = {"hbm_cap": free, "ddr_cap": 0} if device.type == "cuda" else {"hbm_cap": 0, "ddr_cap": free}
    kinds = ["table_wise", "row_wise"] if ranks.sharding == "auto" else [ranks.sharding]
    planner = EmbeddingShardingPlanner(
        topology=Topology(ranks.world, device.type, local_world_size=near, **memory),
        storage_reservation=FixedPercentageStorageReservation(_FREE),
        constraints={
            c.name: ParameterConstraints(
                sharding_types=kinds if _enough(c.num_embeddings, ranks.world) else ["table_wise"]
            )
            for c in whole.embedding_bag_configs()
        },
    )
    try:
        return planner.collective_plan(whole, [cast(Any, sharder)], cast(dist.ProcessGroup, dist.group.WORLD))
    except PlannerError as error:
        size = sum(c.num_embeddings * c.embedding_dim * 4 for c in whole.embedding_bag_configs())
        raise ConfigError(
            f"embedding: expected tables that fit into {ranks.world} times {free / 2**30:.1f} GiB of free memory, got "
            f"{size / 2**30:.1f} GiB and the state of their optimiser: set distributed.sharding=row_wise, start more "
            "processes, or take embedding=hashed"
        ) from error


def _enough(rows: int, world: int) -> bool:
    """Whether each process gets a row if each but the last gets ⌈rows / world⌉."""
    return (world - 1) * -(-rows // world) < rows


def _free_bytes(device: torch.device, near: int) -> int:
    """The free memory of a process: of its GPU, or its part of that of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // near


def _spread_rows(bags: ShardedEmbeddingBagCollection, plan: Plan) -> list[TableRows]:
    """The rows that this process holds of the tables that TorchRec has sharded."""
    states = {
        (key, shard.metadata.shard_offsets[0]): shard.tensor
        for key, of_table in bags.fused_optimizer.state_dict()["state"].items()
        for state in [only_state(of_table)]
        for shard in (state.local_shards() if state is not None else ())
    }
    weights = bags.state_dict()
    held: list[TableRows] = []
    for i, (table, (total, _)) in enumerate(plan.tables.items()):
        name = f"embedding_bags.{table_name(i)}.weight"
        for shard in weights[name].local_shards() if name in weights else ():
            if len(shard.tensor):
                start = shard.metadata.shard_offsets[0]
                held.append(TableRows(table, start, total, shard.tensor.detach(), states.get((name, start))))
    return held

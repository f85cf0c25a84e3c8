"""TorchRec's tables, which hold the rows; their optimiser updates them inside the backward pass.

V rows of a table, D embedding dim.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.data.ranks import Ranks
from recsys.embeddings.plan import Plan
from recsys.errors import ConfigError
from recsys.frame.contracts import TableOptimizer, TableRows
from recsys.tables.rowwise_adagrad import use_fast_update

__all__ = [
    "Starts",
    "check_optimizer",
    "draw_rows",
    "fused_bags",
    "fused_rows",
    "gathered",
    "only_state",
    "table_configs",
    "table_name",
]

State = TypeVar("State")
Starts = Mapping[str, tuple[float, float]]
"""Table → range of its uniform initial weights."""

_BLOCK = 1 << 22  # numbers that are drawn at once
_ON_CPU = (SGD, Adagrad, RowWiseAdagrad)  # all that FBGEMM has there

logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # it warns about TorchRec's own call


def table_name(number: int) -> str:
    """TorchRec's name of the table with this number: a module's name must not contain a dot; a field's may."""
    return f"t{number}"


def table_configs(plan: Plan, starts: Starts, chosen: Iterable[str]) -> list[EmbeddingBagConfig]:
    """TorchRec's description of some tables of a plan, which pool by a sum."""
    readers: dict[str, list[str]] = {t: [] for t in plan.tables}
    for k, keys in zip(plan.lookups, plan.keys, strict=True):
        readers[k.table] += keys
    kept = set(chosen)
    return [
        EmbeddingBagConfig(
            name=table_name(i),
            num_embeddings=rows,
            embedding_dim=dim,
            feature_names=readers[t],
            pooling=PoolingType.SUM,
            weight_init_min=starts[t][0],
            weight_init_max=starts[t][1],
        )
        for i, (t, (rows, dim)) in enumerate(plan.tables.items())
        if t in kept
    ]


def check_optimizer(optimizer: TableOptimizer, device: torch.device) -> None:
    """Check that FBGEMM updates tables on a device by an optimiser, with all of its settings.

    Raises:
        ConfigError: If it has none of that kind, would ignore a setting, or if the optimiser keeps several states.
    """
    if len(optimizer.states) > 1:
        raise ConfigError(_several_states(list(optimizer.states)))
    if device.type != "cpu":
        return
    if optimizer.kind not in _ON_CPU:
        raise ConfigError(
            f"table_optimizer: expected {', '.join(k.__name__ for k in _ON_CPU)}, which FBGEMM has on CPUs, got "
            f"{optimizer.kind.__name__}: choose one of them, or train with device=cuda"
        )
    if ignored := [n for n in optimizer.settings if n != "eps"]:
        raise ConfigError(
            f"table_optimizer: expected no setting but eps, got {', '.join(ignored)}, which FBGEMM ignores on CPUs: "
            "leave it out; train.table_l2 makes table rows decay on every device"
        )


def only_state(states: Mapping[str, State]) -> State | None:
    """The state of a table's optimiser, by FBGEMM's names; None if it has none.

    Raises:
        ConfigError: If there are several: a checkpoint has room for one.
    """
    if len(states) > 1:
        raise ConfigError(_several_states(list(states)))
    return next(iter(states.values()), None)


def _several_states(names: Sequence[str]) -> str:
    return (
        f"table_optimizer: expected at most one state of each table, which checkpoints hold, got {', '.join(names)}: "
        "set table_optimizer=rowwise_adagrad, adagrad or sgd"
    )


def fused_bags(
    plan: Plan, starts: Starts, optimizer: TableOptimizer, device: torch.device, chosen: Iterable[str] | None = None
) -> FusedEmbeddingBagCollection:
    """The tables of a plan in one process.

    Args:
        plan: Tables and lookups.
        starts: Table → range of its uniform initial weights.
        optimizer: Optimiser of the tables.
        device: Where the tables are.
        chosen: Names of the tables; all by default.

    Raises:
        ConfigError: As `check_optimizer`.
    """
    check_optimizer(optimizer, device)
    use_fast_update()
    return FusedEmbeddingBagCollection(
        tables=table_configs(plan, starts, plan.tables if chosen is None else chosen),
        optimizer_type=optimizer.kind,
        optimizer_kwargs={"lr": 0.01, **optimizer.settings},
        is_weighted=bool(plan.schema.weight_columns),
        device=device,
    )


def fused_rows(bags: FusedEmbeddingBagCollection, plan: Plan, saved: bool = True) -> list[TableRows]:
    """The tables of `fused_bags`, with the state of their optimiser: Σ of g² (Adagrad) or of mean_d(g²) (row-wise)."""
    optimizer = bags.fused_optimizer()  # without parameters if its kind has no state
    states = {key.split(".")[-2]: only_state(optimizer.state[w]) for key, w in optimizer.params.items()}
    names = {table_name(i): t for i, t in enumerate(plan.tables)}
    held: list[TableRows] = []
    for name, bag in bags.embedding_bags.items():
        weight_VD = bag.weight.detach()
        held.append(TableRows(names[name], 0, len(weight_VD), weight_VD, states.get(name), saved))
    return held


@torch.no_grad()
def draw_rows(held: Sequence[TableRows], plan: Plan, starts: Starts, generator: torch.Generator | None = None) -> None:
    """Draw all tables of a plan in order, block by block, and keep the rows that this process holds.

    Thereby the tables are the same on any number of processes, and on any device: the numbers are drawn on the CPU.

    Args:
        held: Rows that get new weights.
        plan: The tables.
        starts: Table → range of its uniform initial weights.
        generator: Random generator; torch's own by default.
    """
    for table, (rows, dim) in plan.tables.items():
        mine = [h for h in held if h.table == table]
        for first in range(0, rows, step := max(1, _BLOCK // dim)):
            block_RD = torch.empty(min(step, rows - first), dim, device="cpu")
            block_RD.uniform_(*starts[table], generator=generator)
            for h in mine:
                start, stop = max(first, h.start), min(first + len(block_RD), h.start + len(h.weight_RD))
                if start < stop:
                    h.weight_RD[start - h.start : stop - h.start] = block_RD[start - first : stop - first]


def gathered(
    parts: Iterable[tuple[str, int, Tensor]], shapes: Mapping[str, tuple[int, ...]], ranks: Ranks, device: torch.device
) -> dict[str, Tensor]:
    """Whole tensors on every rank, from the rows that each rank holds.

    Args:
        parts: Name, number of the first row, rows; together, all ranks give each row once.
        shapes: Name → shape of the whole.
        ranks: The processes.
        device: Where the whole tensors are.
    """
    whole = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
    for name, start, rows in parts:
        whole[name][start : start + len(rows)] = rows
    return {name: ranks.add(tensor) for name, tensor in whole.items()}

"""TorchRec's tables, which hold the rows; their optimiser updates them inside the backward pass."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

from recsys.embeddings.plan import Plan
from recsys.frame.contracts import TableOptimizer
from recsys.tables.rowwise_adagrad import use_fast_update

__all__ = ["fused_bags", "momenta", "table_weights"]

logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # it warns about TorchRec's own call


def fused_bags(
    plan: Plan, starts: Mapping[str, tuple[float, float]], optimizer: TableOptimizer, device: torch.device
) -> FusedEmbeddingBagCollection:
    """The tables of a plan, which pool by a sum.

    Args:
        plan: Tables and lookups.
        starts: Table → range of its uniform initial weights.
        optimizer: Optimiser of the tables.
        device: Where the tables are.
    """
    use_fast_update()
    readers: dict[str, list[str]] = {t: [] for t in plan.tables}
    for k, keys in zip(plan.lookups, plan.keys, strict=True):
        readers[k.table] += keys
    return FusedEmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t{i}",  # a module's name must not contain a dot; a field's may
                num_embeddings=rows,
                embedding_dim=dim,
                feature_names=readers[t],
                pooling=PoolingType.SUM,
                weight_init_min=starts[t][0],
                weight_init_max=starts[t][1],
            )
            for i, (t, (rows, dim)) in enumerate(plan.tables.items())
        ],
        optimizer_type=optimizer.kind,
        optimizer_kwargs={"lr": 0.01, **optimizer.settings},
        is_weighted=bool(plan.schema.weight_columns),
        device=device,
    )


def table_weights(bags: FusedEmbeddingBagCollection, plan: Plan) -> dict[str, Tensor]:
    """Name → table, not copied."""
    return {t: bags.embedding_bags[f"t{i}"].weight.detach() for i, t in enumerate(plan.tables)}


def momenta(bags: FusedEmbeddingBagCollection, plan: Plan) -> dict[str, Tensor]:
    """Table → state of its optimiser, not copied: Σ over steps of g² (Adagrad) or of mean_d(g²) (row-wise)."""
    names, optimizer, remembered = list(plan.tables), bags.fused_optimizer(), dict[str, Tensor]()
    for key, weight in optimizer.params.items():  # empty for an optimiser without state
        table = names[int(key.split(".")[-2].removeprefix("t"))]
        (remembered[table],) = optimizer.state[weight].values()
    return remembered

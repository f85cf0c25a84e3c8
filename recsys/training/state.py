"""What the weights and the next step of a training depend on, by name, and its restoration."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.data.ranks import Ranks
from recsys.errors import DataError
from recsys.frame.contracts import TableRows, TrainableEmbedding
from recsys.frame.ctr import CTR
from recsys.training.tensors.read import TensorFolder

__all__ = [
    "count_numbers",
    "dense_state",
    "held_rows",
    "load_dense",
    "load_optimizers",
    "load_weights",
    "named_optimizers",
]


def held_rows(model: CTR) -> list[TableRows]:
    """The rows of trained tables that this process holds; none if the tables are compressed."""
    return model.embedding.held() if isinstance(model.embedding, TrainableEmbedding) else []


def dense_state(model: CTR) -> dict[str, Tensor]:
    """Name → each tensor of a model's state that is no row of a trained table; not copied."""
    tables = {r.weight_RD.untyped_storage().data_ptr() for r in held_rows(model) if r.weight_RD.numel()}
    plain = {n: x for n, x in model.state_dict().items() if type(x) in (Tensor, nn.Parameter)}  # not a sharded one
    return {n: x for n, x in plain.items() if x.untyped_storage().data_ptr() not in tables}


def count_numbers(model: CTR, prefix: str = "") -> int:
    """Count of the numbers in a model's tables, on whatever processes, and in its dense state.

    Args:
        model: The model.
        prefix: Of the dense state, only names that begin with this count.
    """
    mine = {r.table: r.total * r.weight_RD.shape[1] for r in held_rows(model)}
    tables = {t: n for of_rank in Ranks.current().gather(mine) for t, n in of_rank.items()}
    return sum(tables.values()) + sum(x.numel() for n, x in dense_state(model).items() if n.startswith(prefix))


def load_dense(model: CTR, saved: Mapping[str, Tensor], source: TensorFolder) -> None:
    """Fill the model's `dense_state`.

    Args:
        model: Changed in place.
        saved: The values.
        source: Where they are from.

    Raises:
        DataError: If names or shapes are others than the model's.
    """
    state = dense_state(model)
    wanted, got = ({n: tuple(x.shape) for n, x in tensors.items()} for tensors in (state, saved))
    if wanted != got:
        wrong = sorted(n for n in wanted.keys() | got.keys() if wanted.get(n) != got.get(n))[0]
        raise DataError(
            f"{source.folder}: expected {wrong!r} with shape {wanted.get(wrong)}, got {got.get(wrong)}: {source.mend}"
        )
    with torch.no_grad():
        for name, x in state.items():
            x.copy_(saved[name])


def load_weights(model: CTR, source: TensorFolder, rest: Mapping[str, Any]) -> None:
    """Fill the model from a folder: the rows that this process holds with their optimiser state, and the dense part.

    Raises:
        DataError: If the folder is damaged, or is that of another model.
    """
    try:
        dense = rest["model"]
    except KeyError as error:
        raise DataError(f"{source.folder}: expected the state of a model, got none: {source.mend}") from error
    source.read_rows(held_rows(model))
    load_dense(model, dense, source)


def _names(model: CTR, optimizer: Optimizer) -> list[str]:
    """The name of each parameter of an optimiser, in the order of its state."""
    known = {id(p): n for n, p in model.named_parameters()}
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    return [known.get(id(p), str(i)) for i, p in enumerate(parameters)]


def named_optimizers(model: CTR, optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    """The state of each optimiser, by names of the model's parameters; tensors are not copied."""
    states = list[dict[str, Any]]()
    for optimizer in optimizers:
        names, state = _names(model, optimizer), optimizer.state_dict()
        groups = [{**g, "params": [names[i] for i in g["params"]]} for g in state["param_groups"]]
        states.append({"state": {names[i]: s for i, s in state["state"].items()}, "param_groups": groups})
    return states


def load_optimizers(model: CTR, optimizers: Sequence[Optimizer], saved: Sequence[Mapping[str, Any]]) -> None:
    """Restore the output of `named_optimizers`."""
    for optimizer, state in zip(optimizers, saved, strict=True):
        number = {name: i for i, name in enumerate(_names(model, optimizer))}
        groups = [{**g, "params": [number[n] for n in g["params"]]} for g in state["param_groups"]]
        optimizer.load_state_dict({"state": {number[n]: s for n, s in state["state"].items()}, "param_groups": groups})

"""Bytes of the optimiser states of a model."""

import math

import torch
from torch import Tensor, nn

from recsys.config.factory import Part, make
from recsys.data.ranks import Ranks
from recsys.frame.ctr import CTR
from recsys.training.loop import dense_parameters
from recsys.training.state import held_rows

__all__ = ["dense_bytes", "table_bytes"]


def table_bytes(model: CTR) -> dict[str, int]:
    """Table → bytes of its optimiser state, on whatever processes, if there is one. Rows are counted, not gathered."""
    mine = {r.table: r.total * _row_bytes(r.state) for r in held_rows(model) if r.state is not None}
    return {table: size for of_rank in Ranks.current().gather(mine) for table, size in of_rank.items()}


def _row_bytes(state: Tensor) -> int:
    return math.prod(state.shape[1:]) * state.element_size()


def dense_bytes(model: CTR, optimizer: Part) -> int:
    """Bytes of the dense layers' optimiser state after a step of copies, without its counts of steps.

    Args:
        model: The model; it is not changed.
        optimizer: An option of the group `optimizer`.
    """
    copies = [nn.Parameter(torch.zeros_like(p)) for p in dense_parameters(model)]
    for copy in copies:
        copy.grad = torch.zeros_like(copy)
    total = 0
    for one in make(optimizer, "optimizer")(copies, 1e-3, 0.0):
        one.step()
        held = [v for state in one.state.values() for v in state.values()]
        total += sum(v.nbytes for v in held if isinstance(v, Tensor) and v.ndim > 0)
    return total

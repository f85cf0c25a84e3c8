"""Bytes of the optimiser states of a model."""

import torch
from torch import Tensor, nn

from recsys.config.factory import Part, make
from recsys.frame.ctr import CTR
from recsys.training.checkpoint import optimizer_state
from recsys.training.loop import dense_parameters

__all__ = ["dense_bytes", "table_bytes"]


def table_bytes(model: CTR) -> dict[str, int]:
    """Table → bytes of its optimiser state, if there is one."""
    return {table: memory.nbytes for table, memory in optimizer_state(model).items()}


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

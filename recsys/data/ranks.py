"""The processes that train one model together: torchrun starts them, and this process has a rank among them.

Every rank runs the same code on its own rows of each batch. What decides the course of a run (a loss, a metric, a stop)
is made equal on all ranks before it is used.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Ranks"]

Item = TypeVar("Item")
_WAIT = timedelta(days=1)  # the other ranks wait while rank 0 prepares data or exports


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: Its number, from 0.
        world: Count of processes.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Ranks":
        """Those of the process group, if there is one; else this process alone."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else cls()

    @classmethod
    def join(cls, backend: str) -> "Ranks":
        """Join the process group that torchrun describes in the environment; without torchrun, this process is alone.

        Args:
            backend: `gloo` on CPUs, `nccl` on GPUs.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            dist.init_process_group(backend, timeout=_WAIT)
        return cls.current()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what exists once."""
        return self.rank == 0

    def share(self, size: int) -> slice:
        """The rows of this rank in a batch of `size` rows; shares differ by at most one row."""
        return slice(self.rank * size // self.world, (self.rank + 1) * size // self.world)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of x over all ranks; x itself if this process is alone."""
        if self.world == 1:
            return x
        total = x.clone()
        dist.all_reduce(total)
        return total

    def gather(self, item: Item) -> list[Item]:
        """The item of every rank, by rank; an item must be picklable."""
        if self.world == 1:
            return [item]
        items: list[Any] = [None] * self.world
        dist.all_gather_object(items, item)
        return items

    def broadcast(self, item: Item) -> Item:
        """The item of rank 0, on every rank."""
        if self.world == 1:
            return item
        held: list[Any] = [item]
        dist.broadcast_object_list(held, 0, device=torch.device("cpu") if dist.get_backend() == "gloo" else None)
        return held[0]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()

"""The processes that train one model together: torchrun starts them, and this process has a rank among them.

Every rank runs the same code on its own rows of each batch. What decides the course of a run (a loss, a metric, a stop)
is made equal on all ranks before it is used.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.data.processes import world_size

__all__ = ["ALONE", "Ranks", "Sharding"]

Item = TypeVar("Item")
Sharding = Literal["auto", "table_wise", "row_wise", "data_parallel"]
"""How tables are spread over ranks: each table on one rank, its rows on all, a copy on each; auto lets a planner choose
between the first two for each table."""

_WAIT = timedelta(days=1)  # the other ranks wait while rank 0 prepares data or exports
_START = timedelta(minutes=10)  # for which a process waits until all have started
_FAILURE = "failure"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: Its number, from 0.
        world: Count of processes.
        sharding: How tables are spread over them.
    """

    rank: int = 0
    world: int = 1
    sharding: Sharding = "auto"
    _current: ClassVar[list["Ranks"]] = []
    _board: ClassVar[list[dist.Store]] = []  # where a process that fails writes why, once `join` has found it

    @classmethod
    def current(cls) -> "Ranks":
        """Those that `as_current` names; this process alone outside of it."""
        return cls._current[-1] if cls._current else cls()

    @contextmanager
    def as_current(self) -> Generator["Ranks"]:
        """Within it, models are built, trained and scored on these ranks, which must all run the same code."""
        self._current.append(self)
        try:
            yield self
        finally:
            self._current.pop()

    @classmethod
    def join(cls, sharding: Sharding = "auto") -> "Ranks":
        """Join the process group that torchrun describes in the environment; without torchrun, this process is alone.

        Tensors on CPUs travel by gloo, those on GPUs by NCCL.
        """
        if world_size() == 1:
            return cls()
        if not dist.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            store, rank, world = next(dist.rendezvous("env://", timeout=_START))
            # torchrun may keep its store when it starts dead processes again: their addresses must not be read then
            store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            cls._board.append(dist.PrefixStore("recsys", store))
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            group = dist.PrefixStore("group", store)
            dist.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=_WAIT)
        return cls(dist.get_rank(), dist.get_world_size(), sharding)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what exists once."""
        return self.rank == 0

    def share(self, size: int) -> slice:
        """The rows of this rank in a batch of `size` rows; shares differ by at most one row."""
        return slice(self.rank * size // self.world, (self.rank + 1) * size // self.world)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of x over all ranks; x itself if this process is alone."""
        return self.add(x.clone()) if self.world > 1 else x

    def add(self, x: Tensor) -> Tensor:
        """`sum`, in place."""
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def maximum(self, number: int) -> int:
        """The largest number of any rank."""
        if self.world == 1:
            return number
        number_1 = torch.tensor([number])
        dist.all_reduce(number_1, dist.ReduceOp.MAX)
        return int(number_1)

    def gather(self, item: Item) -> list[Item]:
        """The item of every rank, by rank; an item must be picklable."""
        if self.world == 1:
            return [item]
        items: list[Any] = [None] * self.world
        dist.all_gather_object(items, item)
        return items

    def gather_rows(self, x_RC: Tensor) -> list[Tensor]:
        """The tensor of every rank, by rank; they may differ in their count of rows, R."""
        if self.world == 1:
            return [x_RC]
        count_1 = torch.tensor([len(x_RC)], device=x_RC.device)
        counts = [torch.empty_like(count_1) for _ in range(self.world)]
        dist.all_gather(counts, count_1)
        most = max(int(c) for c in counts)
        padded_RC = x_RC.new_zeros((most, *x_RC.shape[1:]))
        padded_RC[: len(x_RC)] = x_RC
        parts = [torch.empty_like(padded_RC) for _ in range(self.world)]
        dist.all_gather(parts, padded_RC)
        return [p[: int(c)] for p, c in zip(parts, counts, strict=True)]

    def broadcast(self, item: Item) -> Item:
        """The item of rank 0, on every rank."""
        if self.world == 1:
            return item
        held: list[Any] = [item]
        dist.broadcast_object_list(held, 0, device=torch.device("cpu"))
        return held[0]

    def fail(self, reason: str, seconds: float = 0) -> str:
        """Write for the others why this process leaves → the reason of the first that left, "" if none wrote one.

        Args:
            reason: The reason; "" if it leaves since another one has left.
            seconds: For which it waits for a reason of another process.
        """
        for board in self._board[-1:]:
            try:
                if reason:
                    return board.compare_set(
                        _FAILURE, "", reason if reason.startswith("rank ") else f"rank {self.rank}: {reason}"
                    ).decode()
                board.wait([_FAILURE], timedelta(seconds=seconds))
                return board.get(_FAILURE).decode()
            except RuntimeError:  # nobody wrote, or the process that holds the board has ended
                return ""
        return ""

    def tell(self, key: str, text: str) -> None:
        """Leave a text for other ranks, which need not wait for it; any thread may call this."""
        for board in self._board[-1:]:
            with suppress(RuntimeError):  # the process that holds the board has ended
                board.set(key, text)

    def told(self, key: str) -> str:
        """The text that another rank left; "" if there is none yet."""
        for board in self._board[-1:]:
            with suppress(RuntimeError):
                return board.get(key).decode() if board.check([key]) else ""
        return ""

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            self.maximum(0)


ALONE = Ranks()
"""One process: its share of a batch is the whole batch."""

"""Several processes that train together, in forks of the test's process."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from recsys.data.ranks import Ranks, Sharding

__all__ = ["in_ranks"]

_PATIENCE = 120  # seconds


def _child(
    rank: int, world: int, port: int, sharding: Sharding, work: Callable[..., Any], given: tuple[Any, ...],
    answer: Connection,
) -> None:  # fmt: skip
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {k: str(v) for k, v in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()}
    try:
        with Ranks.join(sharding).as_current() as ranks:
            answer.send_bytes(pickle.dumps((work(ranks, *given), None)))
    except BaseException:
        answer.send_bytes(pickle.dumps((None, traceback.format_exc())))
    finally:
        os._exit(0)


def in_ranks(
    world: int, work: Callable[..., Any], *given: Any, sharding: Sharding = "auto", killed: Sequence[int] = ()
) -> list[Any]:
    """What `work(ranks, *given)` returns on each rank, which must be picklable; None for those that are killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(world)]
    children = [
        fork.Process(target=_child, args=(r, world, port, sharding, work, given, pipes[r][1])) for r in range(world)
    ]
    for child in children:
        child.start()
    answers: list[tuple[Any, str | None]] = [(None, None)] * world
    for r, (mine, _) in enumerate(pipes):
        if r not in killed:
            answers[r] = pickle.loads(mine.recv_bytes()) if mine.poll(_PATIENCE) else (None, "no answer")
    for child in children:
        if any(error for _, error in answers):
            child.kill()
        child.join(_PATIENCE)
    errors = [f"rank {r}: {error}" for r, (_, error) in enumerate(answers) if error]
    assert not errors, "\n".join(errors)
    return [value for value, _ in answers]

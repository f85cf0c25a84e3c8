"""Measures the rates of this machine that a prediction needs, in about 20 seconds."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from recsys.capacity.hardware import Hardware

__all__ = ["measured"]

_AT_LEAST = 0.4  # seconds of each measurement
_TABLE = 1 << 28  # bytes of the table whose rows are read, far more than the caches of most processors hold
_LARGE = 1 << 26  # bytes of a large message


def _seconds(call: Callable[[], object], threads: int | None = None) -> float:
    """The least seconds of one call. They are counted by the processor's time: other work does not add to that.

    Args:
        call: What is timed.
        threads: Count of threads that it keeps busy; torch's by default.
    """
    call()
    threads = threads or torch.get_num_threads()
    best, until = float("inf"), time.perf_counter() + _AT_LEAST
    while time.perf_counter() < until or best == float("inf"):
        started = time.process_time()
        call()
        best = min(best, (time.process_time() - started) / threads)
    return best


def _flops(dtype: torch.dtype) -> float:
    a, b = torch.randn(4096, 512, dtype=dtype), torch.randn(512, 512, dtype=dtype)
    return 2 * 4096 * 512 * 512 / _seconds(lambda: a @ b)


def _gather(dim: int) -> float:
    table_RD = torch.ones(_TABLE // (4 * dim), dim)
    rows = torch.randint(len(table_RD), (1 << 18,))
    return 4 * dim * len(rows) / _seconds(lambda: table_RD.index_select(0, rows))


def _copy() -> float:
    x = torch.ones(_LARGE // 4)
    y = torch.empty_like(x)
    return 2 * _LARGE / _seconds(lambda: y.copy_(x))


def _operation() -> float:
    """Seconds of a small operation: a third of its forward and backward pass, which has two."""
    x, count = torch.ones(8, requires_grad=True), 32

    def chain() -> None:
        y = x
        for _ in range(count):
            y = y * 1.01
        y.sum().backward()

    return _seconds(chain, threads=1) / (3 * count)


def _disk(folder: Path) -> float:
    block = os.urandom(1 << 24)
    with tempfile.TemporaryFile(dir=folder) as file:
        started = time.perf_counter()
        for _ in range(8):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return 8 * len(block) / (time.perf_counter() - started)


def _exchange(rank: int, store: str, results: "multiprocessing.SimpleQueue[tuple[float, float]]") -> None:
    """Time gloo's all-to-all between two processes: (seconds of a small one, bytes a second of a large one)."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )

    def swap(size: int, count: int) -> float:
        x, y = torch.ones(size), torch.empty(size)
        dist.all_to_all_single(y, x)
        dist.barrier()
        started = time.perf_counter()
        for _ in range(count):
            dist.all_to_all_single(y, x)
        return (time.perf_counter() - started) / count

    small, large = swap(2, 200), swap(_LARGE // 16, 10)
    if rank == 0:
        results.put((small, _LARGE / 4 / 2 / max(large - small, 1e-9)))
    dist.destroy_process_group()


def _links() -> tuple[float, float]:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        both = [spawn.Process(target=_exchange, args=(r, f"{folder}/store", results)) for r in (0, 1)]
        for process in both:
            process.start()
        for process in both:
            process.join()
    return results.get()


def measured(dim: int, folder: Path) -> Hardware:
    """Measure this machine, with one process and torch's present count of threads.

    Args:
        dim: Width of the table rows that are read, in numbers.
        folder: Where the disk is measured: that of the runs.
    """
    delay, link = _links()
    memory = psutil.virtual_memory().total
    processes = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    return Hardware(
        name="this machine",
        processes=processes,
        memory=memory / processes,
        base=float(psutil.Process().memory_info().rss),
        flops_bf16=_flops(torch.bfloat16),
        flops_fp32=_flops(torch.float32),
        gather=_gather(dim),
        copy=_copy(),
        operation=_operation(),
        link=link,
        link_delay=delay,
        network=link,
        network_delay=delay,
        disk=_disk(folder),
    )

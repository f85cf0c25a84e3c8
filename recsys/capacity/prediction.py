"""Memory, traffic and time of a step on some processes, by formulas that docs/scale.md explains.

B rows a step, b = B / R of them for each of R processes, C processes a machine, D width of a table's row.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recsys.capacity.hardware import Hardware
from recsys.capacity.workload import FLOAT, ID, TableSize, Workload

__all__ = ["Prediction", "placed", "predict"]

_ROOM = 0.9  # share of a process's memory that may be used
_DENSE = 4  # numbers a dense parameter: itself, its gradient, two moments
_PASSES = 6  # times that a byte of activations moves: forward written and read, backward twice as often
_AHEAD = 2  # batches that wait in memory
_ADAM = 7  # numbers that AdamW reads and writes a parameter

Sharding = Literal["whole", "table-wise", "row-wise"]


@dataclass(frozen=True)
class Prediction:
    """What a training takes on some processes.

    Args:
        processes: R.
        machines: Count of machines.
        batch: B.
        sharding: Table → how it is shared out.
        memory: Part → bytes of the fullest process.
        seconds: Kind of work → seconds of a step. They add up: nothing is assumed to overlap.
        fits: Whether the fullest process has room.
        sent: Bytes that a process sends in a step.
        checkpoint: Seconds to write one.
    """

    processes: int
    machines: int
    batch: int
    sharding: Mapping[str, Sharding]
    memory: Mapping[str, float]
    seconds: Mapping[str, float]
    fits: bool
    sent: float
    checkpoint: float

    @property
    def bytes(self) -> float:
        """Of the fullest process."""
        return sum(self.memory.values())

    @property
    def rows_per_second(self) -> float:
        """B / Σ seconds."""
        return self.batch / sum(self.seconds.values())

    @property
    def limit(self) -> str:
        """The work that takes most of a step."""
        return max(self.seconds, key=lambda k: self.seconds[k])


def _all(tables: Sequence[TableSize], kind: Sharding) -> dict[str, Sharding]:
    return {t.name: kind for t in tables}


def placed(work: Workload, processes: int, room: float) -> tuple[dict[str, Sharding], float]:
    """Share out the tables → how each is shared out, and bytes on the fullest process.

    Row-wise costs R times the traffic of table-wise: only tables that do not fit otherwise are shared out by row,
    the largest first. The others go whole to the emptiest process, the largest first (Graham's rule, 1969).

    Args:
        work: With its tables.
        processes: R.
        room: Bytes for tables on each process.
    """
    sizes = sorted(work.tables, key=work.bytes_of, reverse=True)
    if processes == 1:
        return _all(sizes, "whole"), work.table_bytes
    total, moved = work.table_bytes, 0
    for by_row, table in enumerate(sizes):
        part, whole = moved / processes, sizes[by_row:]
        least = part + max(work.bytes_of(table), (total - moved) / processes)
        if least <= room and (fullest := part + _fullest(list(map(work.bytes_of, whole)), processes)) <= room:
            return _all(sizes[:by_row], "row-wise") | _all(whole, "table-wise"), fullest
        moved += work.bytes_of(table)
    return _all(sizes, "row-wise"), total / processes


def _fullest(sizes: Sequence[int], processes: int) -> int:
    """Bytes of the fullest process if each table, the largest first, goes to the emptiest."""
    bins = [0] * min(processes, len(sizes))
    for size in sizes:
        heapq.heapreplace(bins, bins[0] + size)
    return max(bins)


def _sent(work: Workload, sharding: Mapping[str, Sharding], rows: float, processes: int) -> dict[str, float]:
    """Bytes that a process sends in a step: all-to-all of ids and pooled rows, ring all-reduce of dense gradients."""
    others = (processes - 1) / processes

    def pooled(kind: Sharding) -> float:
        chosen: list[TableSize] = [t for t in work.tables if sharding[t.name] == kind]
        return 2 * FLOAT * rows * sum(t.pooled for t in chosen)  # forward, and its gradient back

    return {
        "ids": ID * rows * work.reads * others,
        "pooled rows": pooled("table-wise") * others + pooled("row-wise") * (processes - 1),
        "dense gradients": 2 * FLOAT * work.dense_parameters * others,
    }


def _transfer(sent: Mapping[str, float], hardware: Hardware, processes: int) -> dict[str, float]:
    """Seconds that sending takes. All-to-all goes to every other process alike, a ring over its slowest link."""
    if processes == 1:
        return {}
    near = min(processes, hardware.processes)
    away = (processes - near) / (processes - 1)
    delay = hardware.network_delay if away else hardware.link_delay
    slowest = min(hardware.link, hardware.network) if away else hardware.link
    seconds = {
        kind: delay + size * ((1 - away) / hardware.link + away / hardware.network)
        for kind, size in sent.items()
        if kind != "dense gradients"
    }
    seconds["pooled rows"] += delay  # once forward, once backward
    return {**seconds, "dense gradients": delay + sent["dense gradients"] / slowest}


def predict(
    work: Workload, hardware: Hardware, processes: int, batch: int, precision: Literal["bf16", "fp32"], copied: int
) -> Prediction:
    """Memory, traffic and time of a training.

    Args:
        work: What is trained.
        hardware: On what.
        processes: R; they fill one machine after the other.
        batch: B, over all processes.
        precision: Of matrix products.
        copied: Most bytes of a checkpoint that a process copies before a thread writes them.
    """
    rows, machines = batch / processes, math.ceil(processes / hardware.processes)
    memory = {
        "process": hardware.base,
        "dense": float(_DENSE * FLOAT * work.dense_parameters),
        "activations": 2 * rows * work.activations,
        "batches": _AHEAD * rows * (ID * work.reads + FLOAT * work.numbers),
    }
    most = _ROOM * hardware.memory
    memory["checkpoint"] = float(min(copied, work.checkpoint_bytes / processes))
    sharding, memory["tables"] = placed(work, processes, most - sum(memory.values()))
    sent = _sent(work, sharding, rows, processes)
    flops = hardware.flops_bf16 if precision == "bf16" else hardware.flops_fp32
    pooled = sum(t.pooled for t in work.tables)
    seconds = {
        "matrix products": rows * work.train_flops / flops,
        "lookups and updates": rows * (work.gather_bytes / hardware.gather + 4 * FLOAT * pooled / hardware.copy),
        "elementwise": (_PASSES * rows * work.activations + _ADAM * FLOAT * work.dense_parameters) / hardware.copy,
        "starting operations": 3 * work.operations * hardware.operation,
        **_transfer(sent, hardware, processes),
    }
    return Prediction(
        processes,
        machines,
        batch,
        sharding,
        memory,
        seconds,
        sum(memory.values()) <= most,
        sum(sent.values()) if processes > 1 else 0.0,
        work.checkpoint_bytes / machines / hardware.disk,
    )

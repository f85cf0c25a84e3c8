"""The bandwidth limit of lookups: a copy, a gather of random rows alone, and FBGEMM's forward pass over the same ids.

Prints one line of JSON. `make gpu-check` runs it beside `recsys bench train`, so that both are of one machine and hour.

V rows of the table, D its width, N ids of a batch.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.embeddings.bags import fused_bags
from recsys.embeddings.optimizers.rowwise_adagrad import rowwise_adagrad
from recsys.embeddings.plan import Plan
from recsys.features.schema import Field, Schema
from recsys.tables.lookup import Lookup
from recsys.training.device import Device


def seconds(work: Callable[[], object], device: Device, repeats: int) -> float:
    """Median seconds of some work, after two runs that are not counted."""
    times: list[float] = []
    for _ in range(repeats + 2):
        device.wait()
        started = time.perf_counter()
        work()
        device.wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def measured(device: Device, rows: int, dim: int, ids: int, repeats: int) -> dict[str, Any]:
    """Bytes a second of each kind of reading; a gather reads and writes each row once, and reads its id."""
    place = device.torch_device
    schema = Schema((Field("a", "categorical", ("a",), ("int",), rows),), "y")
    plan = Plan.of(schema, {"a": (rows, dim)}, [Lookup("a", "a")])
    bags = fused_bags(plan, {"a": (-0.01, 0.01)}, rowwise_adagrad(), place)
    table_VD = bags.embedding_bags["t0"].weight.detach()
    random = torch.Generator().manual_seed(0)
    ids_N = torch.randint(0, rows, (ids,), generator=random).to(place)
    keyed = KeyedJaggedTensor(plan.keys[0], ids_N, lengths=torch.ones(ids, dtype=torch.int32, device=place))
    moved = ids * (2 * dim * 4 + 8)
    with torch.no_grad():
        times = {
            "copy": (2 * table_VD.numel() * 4, seconds(lambda: table_VD.clone(), device, repeats)),
            "gather": (moved, seconds(lambda: table_VD.index_select(0, ids_N), device, repeats)),
            "fbgemm": (moved, seconds(lambda: bags(keyed), device, repeats)),
        }
    return {
        "device": torch.cuda.get_device_name() if place.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "rows": rows,
        "dim": dim,
        "ids": ids,
        **{f"{name}_bytes_per_second": count / took for name, (count, took) in times.items()},
        "gather_ids_per_second": ids / times["gather"][1],
        "fbgemm_share_of_gather": times["gather"][1] / times["fbgemm"][1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the table")
    parser.add_argument("--dim", type=int, default=16, help="its width")
    parser.add_argument("--ids", type=int, default=26 * 65_536, help="of a batch")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args(arguments)
    print(json.dumps(measured(Device.choose(given.device), given.rows, given.dim, given.ids, given.repeats)))


if __name__ == "__main__":
    main()

"""Cost of a sequence's pooling against its length, as ratios within one run.

    .venv/bin/python benchmarks/sequences.py

For each length L: DIN and SDIM over histories that differ row by row (as in training, forward and
backward), and one user with many candidates (as in serving), where SDIM's table is made once and
then read. Prints a Markdown table; every figure is a ratio to SDIM at the shortest L in its column
group, so that it does not hang on the machine. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

from recsys.sequences.din import DIN
from recsys.sequences.sdim import SDIM

LENGTHS = (50, 100, 200, 500, 1000)


def best(job: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some repeats, after one that warms up."""
    job()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return min(times)


def learn(pooling: torch.nn.Module, query_BD: Tensor, keys_BLD: Tensor, there_BL: Tensor) -> None:
    """Forward and backward."""
    keys_BLD.grad = None
    pooling(query_BD, keys_BLD, there_BL).square().sum().backward()


@torch.no_grad()
def served(length: int, dim: int, candidates: int, repeats: int) -> dict[str, float]:
    """Seconds for one user's candidates, and for the table that SDIM makes once for the user."""
    din, sdim = DIN(dim), SDIM(dim)
    keys_1LD, there_1L = torch.randn(1, length, dim), torch.ones(1, length, dtype=torch.bool)
    query_CD = torch.randn(candidates, dim)
    keys_CLD, there_CL = keys_1LD.expand(candidates, -1, -1), there_1L.expand(candidates, -1)
    (table_RD,) = sdim.encode(keys_1LD, there_1L)
    return {
        "din": best(lambda: din(query_CD, keys_CLD, there_CL), repeats),
        "sdim, one step": best(lambda: sdim(query_CD, keys_CLD, there_CL), repeats),
        "sdim, read": best(lambda: sdim.read(table_RD, query_CD), repeats),
        "sdim, encode once": best(lambda: sdim.encode(keys_1LD, there_1L), repeats),
    }


def trained(length: int, dim: int, rows: int, repeats: int) -> dict[str, float]:
    """Seconds of a forward and backward pass of the pooling alone."""
    query_BD, there_BL = torch.randn(rows, dim), torch.ones(rows, length, dtype=torch.bool)
    keys_BLD = torch.randn(rows, length, dim, requires_grad=True)
    made = {"din": DIN(dim), "sdim": SDIM(dim)}
    return {n: best(lambda p=p: learn(p, query_BD, keys_BLD, there_BL), repeats) for n, p in made.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--rows", type=int, default=256, help="of a training batch")
    parser.add_argument("--candidates", type=int, default=200, help="of one user")
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = {n: trained(n, given.dim, given.rows, given.repeats) for n in LENGTHS}
    serve = {n: served(n, given.dim, given.candidates, given.repeats) for n in LENGTHS}
    unit = {"train": train[LENGTHS[0]]["sdim"], "serve": serve[LENGTHS[0]]["sdim, read"]}
    ratios = {
        g: {n: {k: round(v / unit[g], 2) for k, v in found.items()} for n, found in times.items()}
        for g, times in (("train", train), ("serve", serve))
    }
    heads = [f"{g}: {k}" for g in ratios for k in ratios[g][LENGTHS[0]]]
    print(f"| L | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for n in LENGTHS:
        print(f"| {n} | {' | '.join(f'{v:,.2f}' for g in ratios for v in ratios[g][n].values())} |")
    print(json.dumps({"unit_seconds": unit, "ratios": ratios}))


if __name__ == "__main__":
    main()

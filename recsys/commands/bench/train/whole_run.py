"""A whole run for `recsys bench train`: the command `recsys run` on prepared data, with evaluation and MLflow on.

Progress is read from run.json, as anybody who watches a run would, between steps in memory of a process that waits
meanwhile.
"""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.commands.bench.train.cases import Case, spec_of
from recsys.commands.bench.train.data import recsys_run
from recsys.commands.bench.train.results import WholeRun
from recsys.commands.bench.train.sides import Side
from recsys.errors import DataError

__all__ = ["Seen", "measure", "overrides_of"]

_PAUSE = 0.02  # seconds between two looks at run.json
_LOOKS = 2  # at validation, in the one epoch


@dataclass(frozen=True)
class Seen:
    """What run.json said of the training.

    Args:
        at: Seconds since 1970 when it was written.
        done: Rows trained.
    """

    at: float
    done: int


def overrides_of(case: Case, precision: str) -> list[str]:
    """The overrides of `recsys run` with which it trains the model of a case for one epoch."""
    spec = spec_of(case)
    changed = {f"{group}.{k}": v for group in ("model", "embedding") for k, v in spec[group].items() if k[0] != "_"}
    train = {
        "batch_size": case.batch,
        "max_epochs": 1,
        "embedding_dropout": 0.0,
        "evals_per_epoch": _LOOKS,
        "lr": 1e-3,
        "table_lr": 0.02,
        "precision": precision,
    }
    changed |= {f"train.{k}": v for k, v in train.items()}
    values = [f"{k}={json.dumps(v).replace(' ', '')}" for k, v in changed.items()]
    return [f"model={case.model}", "train=fixed", *values]


def _look(path: Path) -> Seen | None:
    """The progress of stage train; None if it is not there yet."""
    try:
        with path.open() as file:
            written, value = os.fstat(file.fileno()).st_mtime, json.load(file)
    except FileNotFoundError:
        return None
    if value["stage"] != "train" or not value["progress"] or not value["progress"]["done"]:
        return None
    return Seen(written, value["progress"]["done"])


def _run(command: Sequence[str], folder: Path, threads: int) -> tuple[float, float]:
    """Run it → seconds from the command to the first step, and rows a second from there to the last look."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    started, seen = time.time(), list[Seen]()
    with subprocess.Popen(
        [*command, f"hydra.run.dir={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            while process.poll() is None:
                now = _look(folder / "run.json")
                if now and (not seen or now.done > seen[-1].done):
                    seen.append(now)
                time.sleep(_PAUSE)
            assert process.stderr is not None
            words = process.stderr.read().strip().splitlines()
        finally:
            process.kill()
    if process.returncode:
        raise DataError(f"bench train: the whole run failed: {words[-1] if words else process.returncode}")
    if len(seen) < 2:
        raise DataError("bench train: the whole run is over before its speed can be seen: raise --rows")
    first, last = seen[0], seen[-1]
    return first.at - started, (last.done - first.done) / (last.at - first.at)


def measure(case: Case, side: Side, steps: int, folder: Path, runs: int, threads: int, precision: str) -> WholeRun:
    """Some runs, each between turns of steps in memory.

    Args:
        case: What both train.
        side: Our process for this case, warmed up.
        steps: Of a turn in memory.
        folder: The benchmark's, with the set's configuration.
        runs: How many runs.
        threads: Threads of each process.
        precision: Of both.

    Raises:
        DataError: If a run fails, or the data is too small.
    """
    command = recsys_run(folder, case.data, "prepare,train", overrides_of(case, precision))

    def in_memory() -> float:
        turn = side.turn("memory", steps)
        return turn.steps * case.batch / turn.seconds

    first, rates, memory_rates = list[float](), list[float](), [in_memory()]
    for _ in range(runs):
        mark = f"{time.time_ns():x}"
        seconds, rate = _run(command, folder / "runs" / f"whole-{mark}", threads)
        first.append(seconds)
        rates.append(rate)
        memory_rates.append(in_memory())
    return WholeRun(first, rates, memory_rates)

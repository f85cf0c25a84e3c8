"""What a measured process speaks: JSON lines on standard input and output. It says what it is, then takes turns.

`serve` is the process's side. The other side is `recsys.commands.bench.train.sides`. Standard library only, since the
environments of other libraries run this file too.

    ← the path of the job, as the first argument
    → {"modes": ["memory", "loader"], "about": {…}}     or {"cannot": "why"} and the end
    ← {"mode": "memory", "steps": 8}
    → {"seconds": 1.2, "loss": 0.56, "peak_bytes": 123, "anonymous_bytes": 120}
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Cannot", "Trainer", "memory", "serve"]


class Cannot(Exception):
    """A side cannot train this job, such as a library without this model; the text says why."""


@dataclass(frozen=True)
class Trainer:
    """A model that is ready to train.

    Args:
        modes: Name of a way to get batches → trains so many steps and returns the last loss.
        about: What to note beside the figures: versions, parameters, what differs from the other sides.
        rest: Seconds to wait after each turn, for a loader of its own processes to come to rest.
    """

    modes: Mapping[str, Callable[[int], float]]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rest: float = 0.0


def memory() -> dict[str, int]:
    """Peak of resident memory, files mapped into it included, and memory now without files, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "peak_bytes": 1024 * int(status["VmHWM"].split()[0]),
        "anonymous_bytes": 1024 * int(status["RssAnon"].split()[0]),
    }


def serve(build: Callable[[dict[str, Any]], Trainer]) -> None:
    """Build the trainer of the job in the file named by the first argument, and take turns until the input ends.

    Whatever libraries print goes to standard error.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)

        def answer(value: Mapping[str, Any]) -> None:
            answers.write(json.dumps(value) + "\n")
            answers.flush()

        try:
            trainer = build(json.loads(Path(sys.argv[1]).read_text()))
        except ImportError as error:
            return answer({"cannot": f"not installed: {error}"})
        except Cannot as error:
            return answer({"cannot": str(error)})
        answer({"modes": list(trainer.modes), "about": dict(trainer.about)})
        for line in sys.stdin:
            asked = json.loads(line)
            started = time.perf_counter()
            loss = trainer.modes[asked["mode"]](asked["steps"])
            seconds = time.perf_counter() - started
            time.sleep(trainer.rest)
            answer({"seconds": seconds, "loss": float(loss), **memory()})

"""`recsys sweep`: the overrides of a sweep, merged with those of the sweep that it resumes."""

import os
from argparse import Namespace
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from recsys.errors import ConfigError
from recsys.service.queue.records import Needs

if TYPE_CHECKING:
    from pipelines.sweep.executor import Begun, Executor

__all__ = ["main"]


def main(given: Namespace) -> int:
    """Search, and print the path of sweep.json."""
    if not any(o.startswith("resume=") for o in given.overrides):  # else its folder says whether it is in the queue
        _check(given, given.queue)
    from pipelines.continued import continued

    overrides = continued(given.overrides, "sweep")
    from pipelines.sweep.start import sweep
    from recsys.training.memory import keep_freed_memory

    keep_freed_memory()
    print(sweep(overrides, lambda begun: _executor(given, begun)), flush=True)
    return 0


def _wished(given: Namespace) -> tuple[dict[str, int], dict[str, int]]:
    """What was typed of the queue: what a trial takes of a machine, and the rest."""
    needs, others = ([f.name for f in fields(Needs)], ["parallel", "priority"])
    typed = {name: value for name in (*needs, *others) if (value := getattr(given, name)) is not None}
    return {n: v for n, v in typed.items() if n in needs}, {n: v for n, v in typed.items() if n in others}


def _check(given: Namespace, queued: bool) -> None:
    needs, others = _wished(given)
    if (needs or others) and not queued:
        raise ConfigError(f"--{next(iter({**others, **needs}))} is for trials in the queue: add --queue")
    if queued and os.environ.get("RECSYS_URL"):
        raise ConfigError(
            "RECSYS_URL: a sweep with --queue works on the database and the folder of runs themselves: unset it, and "
            "start the sweep on a machine that has both"
        )


def _executor(given: Namespace, begun: "Begun") -> "Executor":
    """What runs the trials: the queue if it is asked for, or has them already; else this process."""
    from recsys.service.trials import QueuedTrials, Wishes, read_wishes

    before = read_wishes(begun.folder)
    queued = given.queue or before is not None
    _check(given, queued)
    if not queued:
        from pipelines.sweep.executor import Here

        return Here()
    from recsys.service.queue.open import address, open_queue

    wishes, (needs, others) = before or Wishes(), _wished(given)
    wishes = replace(wishes, **others, needs=replace(wishes.needs, **needs))
    return QueuedTrials(open_queue(address(begun.runs)), begun, wishes)

"""`recsys submit`: queues a run, or each run of a sweep, and prints the ids."""

import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from recsys.service.door import Submission
from recsys.service.doors import open_door
from recsys.service.queue.records import Needs

__all__ = ["main"]


def main(given: Namespace) -> int:
    """Check, compose and queue → once it is in the table."""
    needs = {f.name: value for f in fields(Needs) if (value := getattr(given, f.name)) is not None}
    asked = Submission(
        list(given.overrides), given.multirun, given.name, given.priority, given.after, given.key, Needs(**needs),
        given.every,
    )  # fmt: skip
    runs = next((o.partition("=")[2] for o in reversed(given.overrides) if o.startswith("runs=")), "runs")
    door = open_door(Path(runs))
    try:
        if asked.every is not None:
            from recsys.commands.service.table import when  # imports rich

            schedule = door.schedule(asked)
            print(schedule.id)
            print(f"every {schedule.every}, {schedule.zone}; next {when(schedule.next_at)}", file=sys.stderr)
            return 0
        for row in door.submit(asked):
            print(row.id)
    finally:
        door.close()
    return 0

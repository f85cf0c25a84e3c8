"""`recsys logs`: what a run has said, and what it says until it ends."""

import sys
import time
from argparse import Namespace

from recsys.service.door import Door
from recsys.service.doors import open_door
from recsys.service.queue.records import ENDED, MOST_LISTED, QueuedRun

__all__ = ["exit_code", "main"]

_PAUSE = 0.3  # seconds between two looks
_NAMED = 3  # runs of a sweep


def main(given: Namespace) -> int:
    """Print the log; with `-f` until the run has ended → its exit code."""
    door = open_door(given.runs)
    try:
        return _follow(door, given.id) if given.follow else _print(door, given.id)
    finally:
        door.close()


def exit_code(row: QueuedRun) -> int:
    """Exit code of a command that has waited for a run: 0 if it finished, 128 + signal if a signal ended it."""
    if row.state == "finished":
        return 0
    if row.exit is None or row.exit == 0:
        return 1
    return row.exit if row.exit > 0 else 128 - row.exit


def _print(door: Door, id: str) -> int:
    row = door.get(id)
    if row.new.kind == "sweep":
        print(_of_sweep(door, id), file=sys.stderr)
    elif _rest(door, id, 0) == 0:
        print(f"{id} has said nothing yet: it is {row.word}{_because(row)}", file=sys.stderr)
    return 0


def _of_sweep(door: Door, id: str) -> str:
    """Where the logs of a sweep's runs are."""
    children = [row.id for row in reversed(door.runs(parent=id, limit=MOST_LISTED))]
    more = f" … {children[-1]}" if len(children) > _NAMED else ""
    return f"{id} is a sweep and has no log: recsys logs shows those of its runs, {', '.join(children[:_NAMED])}{more}"


def _rest(door: Door, id: str, start: int) -> int:
    """Print the log from a byte on → the byte to go on from."""
    while (part := door.log(id, start)).text:
        sys.stdout.buffer.write(part.text)
        sys.stdout.buffer.flush()
        start = part.next
    return part.next


def _follow(door: Door, id: str) -> int:
    start, shown = 0, ""
    if door.get(id).new.kind == "sweep":
        print(_of_sweep(door, id), file=sys.stderr)
    while True:
        row = door.get(id)  # before its log is read, so that its last lines are read
        start = _rest(door, id, start)
        state = f"{row.word}{_because(row)}"
        if row.state in ENDED:
            print(f"{id} {state}", file=sys.stderr)
            return exit_code(row)
        if row.state != "running" and state != shown:
            print(f"{id} is {state}", file=sys.stderr)
        shown = state
        time.sleep(_PAUSE)


def _because(row: QueuedRun) -> str:
    return f": {row.reason}" if row.reason else ""

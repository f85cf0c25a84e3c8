"""`recsys cancel`, `recsys resume` and `recsys retry`."""

import sys
from argparse import Namespace

from recsys.errors import ConfigError, in_one_line
from recsys.service.doors import open_door

__all__ = ["cancel", "resume", "retry"]


def cancel(given: Namespace) -> int:
    """Stop each of the runs; one that cannot be stopped keeps none of the others from it."""
    door, code = open_door(given.runs), 0
    try:
        for id in given.ids:
            try:
                row = door.cancel(id)
            except ConfigError as error:
                print(f"error: {in_one_line(error)}", file=sys.stderr)
                code = error.code
            else:
                print(f"{row.id} {row.word}")
    finally:
        door.close()
    return code


def resume(given: Namespace) -> int:
    """Queue a stopped run again."""
    door = open_door(given.runs)
    try:
        row = door.resume(given.id, given.dead)
    finally:
        door.close()
    print(f"{row.id} {row.word}")
    return 0


def retry(given: Namespace) -> int:
    """Queue a run's configuration as a new run, and print its id."""
    door = open_door(given.runs)
    try:
        print(door.retry(given.id).id)
    finally:
        door.close()
    return 0

"""`recsys schedules`: what is submitted again and again."""

from argparse import Namespace

from rich.text import Text

from recsys.commands.service.table import when
from recsys.errors import ConfigError, printable
from recsys.service.doors import open_door
from recsys.service.queue.records import Schedule
from recsys.terminal import console

__all__ = ["main"]

_MOST = 1000  # letters of a value


def main(given: Namespace) -> int:
    """List schedules, or remove one."""
    if (given.action == "remove") != (given.id is not None):
        raise ConfigError("schedules: expected `list`, or `remove` with an ID: recsys schedules lists them")
    door = open_door(given.runs)
    try:
        if given.action == "remove":
            print(f"{door.remove_schedule(given.id).id} removed; its runs stay")
            return 0
        schedules = door.schedules()
    finally:
        door.close()
    screen = console(width=200, stderr=False)
    if not schedules:
        screen.print("no schedules yet: recsys submit experiment=daily --every day@03:00")
    for schedule in schedules:
        screen.print(_shown(schedule))
    return 0


def _shown(schedule: Schedule) -> Text:
    """A schedule on two lines or three."""
    shown = Text(schedule.id, "bold").append(f"  every {schedule.every}, {schedule.zone}", "not bold")
    last = f"; last run {schedule.last_run}" if schedule.last_run else ""
    command = printable(" ".join(schedule.template.overrides), _MOST)
    shown.append(f"\n    next {when(schedule.next_at)}{last}\n    recsys submit {command}", "not bold")
    if schedule.problem:
        shown.append(f"\n    cannot be submitted: {printable(schedule.problem, _MOST)}", "red")
    return shown

"""`recsys runs`: a table of runs, one run in full, several side by side, or JSON."""

import gc
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from recsys.commands.service.beside import side_by_side
from recsys.commands.service.table import runs_table, when
from recsys.errors import ConfigError, printable
from recsys.service.door import Door
from recsys.service.doors import open_door
from recsys.service.queue.records import ENDED, MOST_LISTED, QueuedRun
from recsys.service.typed import command
from recsys.service.wire import row_json
from recsys.terminal import console

__all__ = ["main"]

_WIDE = 200  # cells if the output is no terminal: a file or a pipe has room
_PAUSE = 1.0  # seconds between two drawings
_MOST = 2000  # letters of a value


def main(given: Namespace) -> int:
    """List runs, show one, or compare several."""
    if given.ids and (given.state or given.parent or given.text):
        raise ConfigError("runs: expected an ID or a filter, got both: leave one out")
    if len(given.ids) > 1 and given.watch:
        raise ConfigError(
            f"runs: expected one ID with --watch, got {len(given.ids)}: leave --watch out to compare them"
        )
    if given.watch:
        gc.enable()  # the command line has switched it off, and this may go on for days
    door = open_door(given.runs)
    try:
        if len(given.ids) > 1:
            return _compare(door, given)
        look = (lambda: _one(door, given.ids[0])) if given.ids else (lambda: _listed(door, given))
        if given.json:
            return _print_json(look, given)
        screen = console(width=_WIDE, stderr=False)
        if not given.watch:
            screen.print(_drawn(look(), given, screen.width, door))
            return 0
        return _watch(look, given, door)
    finally:
        door.close()


def _listed(door: Door, given: Namespace) -> list[QueuedRun]:
    return door.runs(given.state, given.parent, given.text, limit=given.limit)


def _one(door: Door, id: str) -> list[QueuedRun]:
    """A run, and behind it those of the sweep that it is."""
    row = door.get(id)
    return [row, *(door.runs(parent=id, limit=MOST_LISTED) if row.new.kind != "run" else [])]


def _compare(door: Door, given: Namespace) -> int:
    answer = door.compare(given.ids)
    if given.json:
        print(json.dumps(answer))
    else:
        console(width=_WIDE, stderr=False).print(side_by_side(answer))
    return 0


def _print_json(look: Callable[[], list[QueuedRun]], given: Namespace) -> int:
    shown: dict[str, str] = {}
    while True:
        rows = look()
        for row in rows:
            line = json.dumps(row_json(row))
            if shown.get(row.id) != line:
                print(line, flush=given.watch)
            shown[row.id] = line
        if not given.watch or _is_over(rows, given):
            return 0
        time.sleep(_PAUSE)


def _is_over(rows: list[QueuedRun], given: Namespace) -> bool:
    """Whether a watched run has ended; a list is watched for ever."""
    return bool(given.ids) and rows[0].state in ENDED


def _watch(look: Callable[[], list[QueuedRun]], given: Namespace, door: Door) -> int:
    screen = console(width=_WIDE, stderr=False)
    rows = look()
    if not sys.stdout.isatty():
        while not _is_over(rows, given):
            time.sleep(_PAUSE)
            rows = look()
        screen.print(_drawn(rows, given, screen.width, door))
        return 0
    with Live(_drawn(rows, given, screen.width, door), console=screen, auto_refresh=False) as live:
        while not _is_over(rows, given):
            time.sleep(_PAUSE)
            rows = look()
            live.update(_drawn(rows, given, screen.width, door), refresh=True)
    return 0


def _drawn(rows: list[QueuedRun], given: Namespace, width: int, door: Door) -> Any:
    if given.ids:
        family = [runs_table(rows[1:], width)] if rows[1:] else []
        return Group(_in_full(rows[0], door.get(rows[-1].id) if family else None), *family)
    if not rows:
        filtered = given.state or given.parent or given.text
        return Text("no runs match" if filtered else "no runs yet: recsys submit experiment=demo")
    more = [Text(f"the newest {given.limit}; --limit shows more", "dim")] if len(rows) == given.limit else []
    return Group(runs_table(rows, width), *more)


def _in_full(row: QueuedRun, child: QueuedRun | None) -> Text:
    """All that is known of a run, a line each; `child` is one of its runs, if it is a sweep."""
    new, live = row.new, row.live
    progress = live.progress and f"{live.progress['done']:,} of {live.progress['total']:,} {live.progress['unit']}"
    cores = "1 core" if new.needs.cores == 1 else f"{new.needs.cores} cores"
    needs = f"{cores}, {new.needs.memory / 2**30:.3g} GiB, {new.needs.gpus} GPUs"
    worker = row.owner and f"{row.owner} on {row.host}, process {row.pid}"
    lines = {
        "id": row.id, "name": new.name, "state": row.word, "reason": row.reason, "stage": live.stage,
        "progress": progress, "note": live.note, "sweep": new.parent, "after": ", ".join(new.after),
        "priority": new.priority or None, "needs": needs if new.kind == "run" else None,
        "attempt": row.attempt or None, "worker": worker, "submitted": _time(row.submitted_at),
        "started": _time(row.started_at), "ended": _time(row.ended_at), "exit code": row.exit,
        "user": new.user, "commit": _commit(new.git), "folder": f"{new.runs}/{row.id}",
        "command": command(new, child and child.new),
    }  # fmt: skip
    figures = {stage or "figures": _figures(values) for stage, values in live.metrics.items()}
    shown = {name: str(value) for name, value in {**lines, **figures}.items() if value not in (None, "")}
    wide = max(map(len, shown)) + 2
    names = (Text(f"{printable(name, _MOST):{wide}}", "bold") for name in shown)
    return Text("\n").join(
        name.append(printable(v, _MOST), "not bold") for name, v in zip(names, shown.values(), strict=True)
    )


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in values.items())


def _time(seconds: float | None) -> str | None:
    return when(seconds) if seconds else None


def _commit(git: dict[str, Any]) -> str:
    return f"{git.get('commit', '')}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else ""

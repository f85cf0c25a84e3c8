"""Runs that the table does not know: those of `recsys run`, and all of them in a new database. Their folders tell.

A folder is read if its run.json was written since it was read last, so that 10,000 old ones cost a look each.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Lt
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from recsys.errors import DataError, in_one_line, printable
from recsys.files import Json
from recsys.lock import is_held
from recsys.results import RUN_VERSION, Run, read_as
from recsys.service.queue.records import ENDED, Live, Needs, NewRun
from recsys.service.queue.rows import change, fields_of, live_of, refresh_sweep, tell, tell_live
from recsys.service.queue.sql import SqlQueue
from recsys.service.queue.tables import clock, run_after, run_configs, runs

__all__ = ["read_folders"]

RUN, FROZEN, LOCK = "run.json", "frozen.json", ".lock"
_SLACK = 5.0  # seconds after its end in which a run's own process may still have written run.json
_LAST = 2**32  # seconds since 1970: a later date is none of a run, and no page can show year 10,000


@dataclass(frozen=True)
class _Frozen:
    """What frozen.json says of a run that the queue began, as far as the table needs it."""

    overrides: list[str]
    config: Json
    digest: str
    cwd: str
    name: str
    experiment: str | None
    cores: Annotated[int, Lt(2**31)]
    gpus: Annotated[int, Lt(2**31)]


@dataclass(frozen=True)
class _Known:
    """What the table knows of a run, and when the run.json that it shows was written."""

    number: int
    kind: str
    state: str
    file_time: int | None
    ended_at: float | None


def read_folders(queue: SqlQueue, folder: Path) -> int:
    """Bring the table up to date with the folders of runs → how many rows changed.

    In a new database this lists all runs that were begun; of those that the queue had, the ended ones can be resumed
    and retried as before.

    Args:
        queue: The queue.
        folder: The folder of runs.
    """
    home, columns = str(folder.resolve()), (runs.c.kind, runs.c.state, runs.c.file_time, runs.c.ended_at)
    if not folder.is_dir():
        return 0
    with queue.reading() as connection:
        rows = connection.execute(select(runs.c.id, runs.c.number, *columns)).all()
        awaited = _awaited(connection)
        others = set(connection.scalars(select(runs.c.id).where(runs.c.runs != home)))
    known = {id: _Known(*row) for id, *row in rows}
    times = {id: time for id, time in _files(folder, known) if id not in others}
    changed = [id for id, time in times.items() if _to_read(Path(home) / id, known.get(id), time)]
    gone = [
        id
        for id, k in known.items()
        if k.kind == "direct"
        and id not in times
        and id not in others
        and (k.file_time is not None or k.number not in awaited)
    ]
    if not changed and not gone:
        return 0
    read = {id: {**_read(Path(home) / id, id), "file_time": times[id]} for id in changed}
    with queue.changing() as connection:
        now = clock(connection)
        for row in (row for id in gone for row in _rows(connection, id) if row["kind"] == "direct"):
            _remove(connection, row, now)
        rows = {row["id"]: row for id in read for row in _rows(connection, id)}
        for id, row in rows.items():
            _update(connection, home, row, read[id], now)
        fresh = sorted((run["started"], id) for id, run in read.items() if id not in rows)
        _insert(connection, home, {id: read[id] for _, id in fresh}, now)
    return len(changed) + len(gone)


def _rows(connection: Connection, id: str) -> Sequence[RowMapping]:
    return connection.execute(select(runs).where(runs.c.id == id)).mappings().all()


def _awaited(connection: Connection) -> set[int]:
    """Numbers of runs that others wait for."""
    waiting = select(run_after.c.before).join(runs, runs.c.number == run_after.c.run)
    return set(connection.scalars(waiting.where(runs.c.state.not_in(ENDED))))


def _remove(connection: Connection, row: RowMapping, now: float) -> None:
    """Forget a run whose folder is gone; if others wait for it in vain, it stays without a `file_time`."""
    if row["state"] == "finished" or row["number"] not in _awaited(connection):
        connection.execute(delete(runs).where(runs.c.number == row["number"]))
    else:
        state = row["state"] if row["state"] in ENDED else "killed"
        change(connection, row, now, state, "its folder was removed", file_time=None)


def _files(folder: Path, known: Mapping[str, _Known]) -> Iterator[tuple[str, int]]:
    """Id of each run with a folder → when its run.json was written; of those that the queue runs, only ended ones."""
    for id, time in _inside(folder, "", known):
        if time is not None:
            yield id, time
        if time is None or id.endswith("-sweep"):
            yield from ((child, when) for child, when in _inside(folder, f"{id}/", known) if when is not None)


def _inside(folder: Path, start: str, known: Mapping[str, _Known]) -> Iterator[tuple[str, int | None]]:
    try:
        names = [e.name for e in os.scandir(folder / start) if e.name[0] != "." and _is_text(e.name) and e.is_dir()]
    except OSError:  # removed meanwhile, or of another user
        return
    top = f"{folder}/{start}"
    for name in names:
        id = start + name
        if (row := known.get(id)) is not None and row.kind == "run" and row.state not in ("failed", "cancelled"):
            continue
        try:
            yield id, os.stat(f"{top}{name}/{RUN}").st_mtime_ns
        except OSError:
            yield id, None


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8: another can be neither an id in the table nor a part of an address."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_read(folder: Path, row: _Known | None, time: int) -> bool:
    if row is None:
        return True
    if row.kind == "run":  # ended; somebody may have gone on with it by `recsys run resume=ID`
        return time / 1e9 > (row.ended_at or 0.0) + _SLACK and time != row.file_time
    return row.kind == "direct" and (time != row.file_time or (row.state == "running") != _alive(folder, row.state))


def _alive(folder: Path, state: str) -> bool:
    return state == "running" and is_held(folder / LOCK)


def _read(folder: Path, id: str) -> Json:
    """run.json of a run with its true state, and its frozen.json if the queue began it."""
    mend = "begin a new run"
    try:
        said = read_as(folder / RUN, Run, "the settings of a run", mend, RUN_VERSION)
        run: Json = {**asdict(said), "started": _time(said.started), "updated": _time(said.updated)}
    except Exception as error:  # whatever it holds, the other folders are looked at
        empty: Json = {"config": {}, "digest": "", "overrides": None, "stage": None, "progress": None, "metrics": {}}
        return {**empty, "state": "unknown", "note": None, "reason": in_one_line(error), "started": 0.0, "updated": 0.0}
    run["reason"] = run["error"] or (run["note"] if run["state"] == "cancelled" else None)
    if run["state"] == "running" and not is_held(folder / LOCK):
        command = "sweep" if "search" in run["config"] else "run"
        run["state"], run["reason"] = "killed", f"its process was killed: recsys {command} resume={id}"
    if run["state"] != "running" and (folder / FROZEN).exists():
        with suppress(DataError):  # if it is damaged, the run is listed as one of `recsys run`
            run["frozen"] = read_as(folder / FROZEN, _Frozen, "a run of the queue", mend)
            if run["state"] == "killed":
                run["state"], run["reason"] = "failed", f"its process was killed: recsys resume {id}"
    return run


def _time(text: str) -> float:
    """Seconds since 1970.

    Raises:
        ValueError: If it is no date, or one that no run can have.
    """
    seconds = datetime.fromisoformat(text).timestamp()
    if not 0 <= seconds < _LAST:
        raise ValueError(f"{RUN}: expected a date from 1970 to 2106, got {text}: begin a new run")
    return seconds


def _new(home: str, id: str, run: Json) -> NewRun:
    parent = id.rpartition("/")[0] or None
    frozen: _Frozen | None = run.get("frozen")
    if frozen is not None:
        return NewRun(
            id, frozen.overrides, frozen.config, printable(frozen.digest, 64), home, printable(frozen.cwd, 4096),
            printable(frozen.name, 200), frozen.experiment and printable(frozen.experiment, 200), "run", parent,
            needs=Needs(max(frozen.cores, 1), gpus=max(frozen.gpus, 0)),
        )  # fmt: skip
    name = printable(str(run["config"].get("name") or Path(id).name), 200)
    overrides = run["overrides"] or []
    experiment = next((o.partition("=")[2] for o in overrides if re.match(r"\+?experiment=", o)), None)
    return NewRun(
        id, overrides, run["config"], printable(run["digest"], 64), home, "", name,
        experiment and printable(experiment, 200), "direct", parent, needs=Needs(1, 0),
    )  # fmt: skip


def _columns(run: Json) -> dict[str, Any]:
    """What run.json says of how a run stands."""
    live = Live(run["stage"], run["progress"], run["metrics"], run["note"])
    ended = run["updated"] if run["state"] in ENDED else None
    process = run.get("process", {}).get("pid")
    values = {"live": json.dumps(asdict(live)), "file_time": run["file_time"], "pid": process, "ended_at": ended}
    return {**values, "attempt": 1 if "frozen" in run else 0}


def _insert(connection: Connection, home: str, read: Mapping[str, Json], now: float) -> None:
    """Add rows, the oldest first; only of what runs now the events tell."""
    if not read:
        return
    new = [_new(home, id, run) for id, run in read.items()]
    for sweep in {run.parent: run for run in new if run.kind == "run" and run.parent}.values():
        if not _rows(connection, sweep.parent or ""):
            row = replace(sweep, id=sweep.parent or "", kind="sweep", parent=None, overrides=[], config={}, after=[])
            connection.execute(insert(runs), {**fields_of(row, read[sweep.id]["started"]), "state": "queued"})
    rows: list[dict[str, Any]] = []
    for run, said in zip(new, read.values(), strict=True):
        started = said["started"] or now
        state = {"state": said["state"], "reason": said["reason"] and printable(said["reason"], 1000)}
        rows.append({**fields_of(run, started), **state, **_columns(said), "started_at": started})
    numbers = connection.scalars(insert(runs).returning(runs.c.number, sort_by_parameter_order=True), rows)
    configs = [{"run": n, "config": json.dumps(run.config)} for n, run in zip(numbers, new, strict=True)]
    connection.execute(insert(run_configs), configs)
    for id, run in read.items():
        if run["state"] == "running":
            tell(connection, id, now, "state", state="running", reason=None)
    for parent in {run.parent for run in new if run.parent}:
        refresh_sweep(connection, parent, now)


def _update(connection: Connection, home: str, row: RowMapping, run: Json, now: float) -> None:
    if row["kind"] == "run":
        connection.execute(update(runs).where(runs.c.number == row["number"]).values(file_time=run["file_time"]))
        if run["state"] == "finished" and row["state"] in ("failed", "cancelled"):
            change(connection, row, now, "finished", "by `recsys run resume`", live=_columns(run)["live"])
        return
    values = _columns(run)
    if "frozen" in run:  # the queue began it, in another database, or was given it: now it is the queue's
        new = _new(home, row["id"], run)
        values = {**fields_of(new, row["submitted_at"]), **values}
        config = update(run_configs).where(run_configs.c.run == row["number"])
        connection.execute(config.values(config=json.dumps(new.config)))
    tell_live(connection, row["id"], now, live_of(row), live_of(values))
    if run["state"] == row["state"]:
        connection.execute(update(runs).where(runs.c.number == row["number"]).values(values))
    else:
        change(connection, row, now, run["state"], run["reason"], **values, cancel_asked_at=None)

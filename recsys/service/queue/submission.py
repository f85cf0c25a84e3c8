"""How runs enter the queue, at first or again: names, client keys, dependencies, whether they fit."""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from graphlib import CycleError, TopologicalSorter
from itertools import count
from pathlib import Path, PurePosixPath

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection, RowMapping

from recsys.errors import ConfigError
from recsys.files import check_text
from recsys.service.queue.records import ENDED, MOST_LETTERS, RANGES, Needs, NewRun, whole_number
from recsys.service.queue.rows import count_waits, fields_of, is_search, one, refresh_sweep
from recsys.service.queue.tables import clock, run_after, run_configs, run_events, runs, workers

__all__ = ["KNOWN", "SCHEDULED", "add", "check_keys", "check_new", "check_resume"]

KNOWN = 24 * 3600.0  # seconds for which a worker that is silent still counts as one that may come back
SCHEDULED = "schedule:"  # client keys of a schedule's runs begin with it, and no others


@dataclass
class _Entry:
    """A run of a submission: what was asked for; of a row that is there, its number and what it was submitted after."""

    new: NewRun
    number: int | None = None
    waits_for: Set[str] | None = None


def add(connection: Connection, new: Sequence[NewRun]) -> list[int]:
    """Add runs → numbers of their rows; see `Queue.submit`."""
    for run in new:
        check_new(run)
    now, by_id, by_key = clock(connection), dict[str, _Entry](), dict[str, _Entry]()
    entries, taken = dict[int, _Entry](), set[str]()
    for i, run in sorted(enumerate(new), key=lambda pair: pair[1].kind != "sweep"):  # sweeps first: children need them
        run = _placed(run, by_id)
        entry = _known(connection, run, by_key) or _Entry(replace(run, id=_free(connection, run, taken)))
        entries[i] = entry
        by_id.setdefault(new[i].id, entry)
        taken.add(entry.new.id)
        if run.client_key is not None:
            by_key[run.client_key] = entry
    names = {id: entry.new.id for id, entry in by_id.items()}
    for i, asked in enumerate(new):  # its own id names the run that has it already
        after = [names[a] if a in names and a != asked.id else a for a in dict.fromkeys(entries[i].new.after)]
        entries[i].new = replace(entries[i].new, after=after)
        _check_same(entries[i])
    fresh = list({id(e): e for i in range(len(new)) if (e := entries[i]).number is None}.values())
    _check_order(connection, [e.new for e in fresh])
    _check_fit(connection, [e.new for e in fresh], now)
    _insert(connection, fresh, now)
    for parent in dict.fromkeys(e.new.parent for e in fresh if e.new.parent):
        refresh_sweep(connection, parent, now)
    return [entries[i].number or 0 for i in range(len(new))]


def check_keys(new: Sequence[NewRun]) -> None:
    """Refuse client keys that only the runs of schedules have: whoever has such a key belongs to a schedule."""
    for run in new:
        if run.client_key is not None and run.client_key.startswith(SCHEDULED):
            raise ConfigError(
                f"key: expected a word that does not begin with {SCHEDULED!r}, as those of schedules do, got "
                f"{run.client_key!r}: give another key"
            )


def check_new(run: NewRun) -> None:
    """Check the id, the texts and the numbers of a run that is to enter the queue.

    Raises:
        ConfigError: If one is invalid.
    """
    parts = PurePosixPath(run.id).parts
    if (
        not parts
        or run.id != "/".join(parts)
        or any(p.startswith((".", "/")) for p in parts)
        or not run.id.isprintable()
    ):
        raise ConfigError(
            f"id: expected a path below the folder of runs, such as 20260131-120000-demo-0, got {run.id!r}"
        )
    texts = {"name": run.name, "key": run.client_key or "", "user": run.user, "experiment": run.experiment or ""}
    if wrong := [name for name, value in texts.items() if not value.isprintable()]:
        raise ConfigError(f"{wrong[0]}: expected printable letters, got {texts[wrong[0]]!r}: leave the others out")
    if long := [name for name in ("name", "key") if len(texts[name]) > MOST_LETTERS]:
        raise ConfigError(f"{long[0]}: expected at most {MOST_LETTERS} letters, got {len(texts[long[0]])}: shorten it")
    for what, value in {"overrides": run.overrides, "config": run.config, "runs": run.runs, "folder": run.cwd}.items():
        check_text(what, value)
    if run.client_key == "":
        raise ConfigError("key: expected a word, got none: give one, or leave the key out")
    values = {"priority": run.priority, **asdict(run.needs)}
    for name, (least, most) in RANGES.items():
        if not least <= values[name] <= most:
            raise ConfigError(f"{name}: {whole_number(name, values[name])}")


def _placed(run: NewRun, by_id: Mapping[str, _Entry]) -> NewRun:
    """A child takes over what its sweep has in the same submission: its name, client key, and what it waits for."""
    if run.parent is None or run.parent not in by_id:
        return run
    parent, key = by_id[run.parent].new, run.client_key
    rest = run.id.removeprefix(run.parent)
    if key is None and parent.client_key is not None:
        key = f"{parent.client_key}{rest if rest != run.id else '/' + run.id}"
    after = [*by_id[run.parent].new.after, *run.after]
    id = parent.id + rest if rest != run.id else run.id
    return replace(run, parent=parent.id, client_key=key, id=id, after=after)


def _known(connection: Connection, run: NewRun, by_key: Mapping[str, _Entry]) -> _Entry | None:
    """The run that was submitted with the same client key already."""
    if run.client_key is None:
        return None
    row = connection.execute(select(runs).where(runs.c.client_key == run.client_key)).mappings().first()
    same = by_key.get(run.client_key)
    if row is None and same is None:
        return None
    id, digest = (row["id"], row["digest"]) if row is not None else (same.new.id, same.new.digest) if same else ("", "")
    if digest != run.digest:
        raise ConfigError(
            f"key {run.client_key!r}: run {id} has it, with another configuration (digest {digest}, not {run.digest}): "
            "give another key, or the same overrides"
        )
    return same if row is None else _Entry(replace(run, id=row["id"]), row["number"], {*json.loads(row["after"])})


def _check_same(entry: _Entry) -> None:
    """Refuse to let a run wait for more than it was submitted with; else runs could wait for each other."""
    new = entry.new
    if entry.waits_for is not None and (more := [id for id in new.after if id not in entry.waits_for]):
        raise ConfigError(
            f"key {new.client_key!r}: run {new.id} has it, and does not wait for {', '.join(more)}: leave --after out, "
            "or give another key"
        )


def _free(connection: Connection, run: NewRun, taken: Set[str]) -> str:
    """The id, with letters added if a run or a folder has it already."""

    def free(id: str) -> bool:
        if id in taken or connection.scalar(select(runs.c.number).where(runs.c.id == id)) is not None:
            return False
        return not (Path(run.runs) / id).exists()

    if free(run.id):
        return run.id
    first, last = f"{run.id}-", f"{run.id}."  # "." follows "-" in ASCII
    others = connection.scalar(select(func.count()).where(runs.c.id > first, runs.c.id < last)) or 0
    return next(id for n in count(others + 1) if free(id := first + _letters(n)))


def _letters(n: int) -> str:
    """1 → b, 2 → c, …, 25 → z, 26 → aa, as columns of a sheet are named."""
    text, n = "", n + 1
    while n:
        n, rest = divmod(n - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def _check_order(connection: Connection, new: Sequence[NewRun]) -> None:
    """Check that all names after `after` and `parent` exist, and that no run waits for itself by way of others."""
    ids = {run.id for run in new}
    graph: dict[str, set[str]] = {run.id: set(run.after) for run in new}
    for run in new:
        if run.parent is not None and run.parent not in ids and not _may_have(connection, run.parent):
            raise ConfigError(f"parent: expected a run of the queue, got {run.parent}, which `recsys run` began")
        if run.parent is not None:
            graph.setdefault(run.parent, set()).add(run.id)  # a sweep ends after its children
    seen = set(graph)
    todo = [id for after in graph.values() for id in after if id not in seen]
    todo += [run.parent for run in new if run.parent is not None and run.parent not in ids]
    while todo:
        id = todo.pop()
        row = one(connection, id)
        before = _waits_for(connection, row)
        graph[id] = graph.get(id, set()) | before
        todo += [b for b in before if b not in graph]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise ConfigError(
            f"after: these runs wait for each other in a circle: {circle}: leave one of them out"
        ) from error


def _may_have(connection: Connection, parent: str) -> bool:
    """Whether a run can have children: not if `recsys run` began it; if `recsys sweep` did, they are its trials."""
    row = one(connection, parent)
    return row["kind"] != "direct" or is_search(connection, row)


def _waits_for(connection: Connection, row: RowMapping) -> set[str]:
    """What a run in the table waits for, unless it has finished; a sweep waits for its children."""
    if row["state"] == "finished":
        return set()
    children = select(runs.c.id).where(runs.c.parent == row["id"], runs.c.state.not_in(ENDED))
    return {*json.loads(row["after"]), *(connection.scalars(children) if row["kind"] == "sweep" else ())}


def _check_fit(connection: Connection, new: Sequence[NewRun], now: float) -> None:
    """Check that each run fits on a worker that was heard of within a day; if there is none, one may come."""
    rows = connection.execute(select(workers).where(workers.c.heartbeat_at > now - KNOWN)).mappings().all()
    rooms = {row["name"]: Needs(row["cores"], row["memory"], row["gpus"]) for row in rows}
    for run in new if rooms else ():
        if run.kind == "run" and not any(run.needs.fits(room) for room in rooms.values()):
            has = "; ".join(f"{name} has {_amount(room)}" for name, room in sorted(rooms.items())[:5])
            raise ConfigError(
                f"run {run.id} needs {_amount(run.needs)}, which no worker can ever give: {has}: "
                "ask for less (--cores, --memory, --gpus), or start a larger worker first"
            )


def _amount(needs: Needs) -> str:
    return f"{needs.cores} cores, {needs.memory / 2**30:.3g} GiB, {needs.gpus} GPUs"


def _insert(connection: Connection, fresh: Sequence[_Entry], now: float) -> None:
    """Insert the runs in order, and give each entry its number."""
    if not fresh:
        return
    rows = [{**fields_of(e.new, now), "state": "queued"} for e in fresh]
    numbers = connection.scalars(insert(runs).returning(runs.c.number, sort_by_parameter_order=True), rows)
    for entry, number in zip(fresh, numbers, strict=True):
        entry.number = number
    configs = [{"run": e.number, "config": json.dumps(e.new.config)} for e in fresh]
    connection.execute(insert(run_configs), configs)
    said = json.dumps({"state": "queued", "reason": None})
    connection.execute(
        insert(run_events), [{"run": e.new.id, "at": now, "kind": "state", "payload": said} for e in fresh]
    )
    for entry in fresh:
        if entry.new.after:
            pairs = [{"run": entry.number, "before": one(connection, id)["number"]} for id in entry.new.after]
            connection.execute(insert(run_after), pairs)
            count_waits(connection, select(runs.c.number).where(runs.c.number == entry.number))


def check_resume(connection: Connection, row: RowMapping, dead: bool) -> None:
    """Refuse to resume what has nothing to go on from, or may still run; or two runs of one schedule at once."""
    id, state = row["id"], row["state"]
    if row["kind"] == "direct":
        command = "sweep" if is_search(connection, row) else "run"
        mends = {
            "running": f"recsys cancel {id} stops it",
            "finished": "recsys submit with its overrides runs its like",
        }
        mend = mends.get(state, f"recsys {command} resume={id} goes on with it")
        raise ConfigError(f"run {id} was begun by `recsys {command}` and is {state}: {mend}")
    if row["kind"] == "sweep" or (state == "unknown" and dead):
        return
    if state == "unknown":
        raise ConfigError(
            f"run {id} is unknown: its worker {row['owner']} on {row['host']} was not heard of; its processes may "
            f"still run: look there, end them, then: recsys resume {id} --dead"
        )
    if state not in ("failed", "cancelled"):
        mend = {"finished": f"recsys retry {id} runs it anew"}.get(state, f"recsys cancel {id} stops it")
        raise ConfigError(f"run {id}: expected one that failed or was cancelled, it is {state}: {mend}")
    if row["attempt"] == 0 and row["parent"] is None:
        raise ConfigError(
            f"run {id} never started, so there is nothing to go on from: recsys retry {id} submits it anew"
        )
    schedule, key = (row["client_key"] or "").rpartition(":")[0], runs.c.client_key
    if schedule.startswith(SCHEDULED):
        others = select(runs.c.id).where(key.startswith(f"{schedule}:", autoescape=True), runs.c.state.not_in(ENDED))
        if (other := connection.scalar(others)) is not None:
            raise ConfigError(
                f"run {id}: {other} of the same schedule is not done yet: wait for it, or cancel it first"
            )

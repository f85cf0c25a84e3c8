"""`recsys doctor --service`: whether the queue answers, workers live, clock and disk are sound, and tokens are set."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from recsys.commands.finding import Finding
from recsys.errors import ConfigError, RecsysError, in_one_line
from recsys.service.client import Client, Refused, Unreachable
from recsys.service.http.settings import Limits, Tokens
from recsys.service.queue.open import address, open_queue
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Load

__all__ = ["examine_service"]

_SKEW = 5.0  # seconds between two clocks that matter to a person who reads times


def examine_service(runs: Path) -> list[Finding]:
    """Check the service that the commands here speak to.

    Args:
        runs: The folder of runs.

    Returns:
        One finding a check, also for those that are fine; what cannot be looked at is left out.
    """
    if url := os.environ.get("RECSYS_URL"):
        return [_of_server(url)]
    return [*_of_queue(runs), _disk(runs), _tokens()]


def _of_server(url: str) -> Finding:
    """Whether a server answers, and takes our token."""
    client = Client(url, os.environ.get("RECSYS_TOKEN"), timeout=10.0)
    try:
        client.runs(limit=1)
    except Unreachable as error:
        return Finding("service", str(error), False, "recsys service --host …  # on that machine")
    except Refused as error:
        return Finding("service", f"{url}: {error}", False, "export RECSYS_TOKEN=…  # one of that service")
    return Finding("service", f"{url} answers")


def _of_queue(runs: Path) -> Iterator[Finding]:
    place = _shown(address(runs))
    if place.startswith("sqlite:///") and not Path(place.removeprefix("sqlite:///")).exists():
        yield Finding("database", f"none yet at {place}: the first submission makes it")
        return
    try:
        queue = open_queue(address(runs))
    except RecsysError as error:
        yield Finding("database", in_one_line(error), False, "export RECSYS_DATABASE=postgresql+psycopg://…")
        return
    try:
        load, counts = queue.load(), queue.counts()
        yield Finding("database", f"{place} answers, and is of this version")
        yield _workers(load)
        yield _clock(load)
        yield _waiting(load, counts.get("queued", 0))
        yield _unknown(queue)
        yield _schedules(load)
    except RecsysError as error:
        yield Finding("database", in_one_line(error), False, "recsys doctor --service  # once more")
    finally:
        queue.close()


def _shown(url: str) -> str:
    """The address of a database without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True).partition("?")[0]
    except ArgumentError:
        return "no address of a database"


def _workers(load: Load) -> Finding:
    if not load.alive:
        return Finding(
            "workers", "none was heard in the last minute: what is queued waits", False, "recsys worker", False
        )
    rooms = ", ".join(
        f"{w.name} ({w.room.cores} cores, {w.room.memory >> 30} GiB, {w.room.gpus} GPUs)" for w in load.alive
    )
    return Finding("workers", f"{len(load.alive)}: {rooms}")


def _clock(load: Load) -> Finding:
    skew = load.now - time.time()
    if abs(skew) <= _SKEW:
        return Finding("clock", f"{abs(skew):.1f} s from that of the database")
    value = f"the database's is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    return Finding("clock", f"{value}: leases are safe, times look odd", False, "timedatectl set-ntp true", False)


def _waiting(load: Load, queued: int) -> Finding:
    age = 0.0 if load.waiting_since is None else load.now - load.waiting_since
    return Finding("queue", f"{queued:,} runs wait, the oldest for {age / 60:,.0f} min; {load.lost:,} leases were lost")


def _unknown(queue: Queue) -> Finding:
    unknown = queue.find(states=["unknown"], limit=10)
    if not unknown:
        return Finding("unknown runs", "none")
    ids = ", ".join(run.id for run in unknown)
    mend = f"recsys resume {unknown[0].id} --dead  # if you have seen that its processes are gone"
    return Finding("unknown runs", f"{ids}: nobody can see whether they still run", False, mend, blocks=False)


def _schedules(load: Load) -> Finding:
    if not load.broken:
        return Finding("schedules", "all can be submitted")
    names = ", ".join(load.broken)
    return Finding("schedules", f"cannot be submitted: {names}", False, "recsys schedules  # says why", blocks=False)


def _disk(runs: Path) -> Finding:
    place = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    free, least = shutil.disk_usage(place).free, Limits().free_bytes
    value = f"{free / 2**30:.1f} GiB free for {runs}"
    if free >= least:
        return Finding("disk", value)
    return Finding("disk", f"{value}: nothing is submitted over HTTP", False, f"du -xsh {place}/* | sort -h")


def _tokens() -> Finding:
    try:
        roles = sorted(Tokens.from_environment().by_role)
    except ConfigError as error:
        return Finding("tokens", in_one_line(error), False, "export RECSYS_TOKEN=$(openssl rand -hex 32)")
    return Finding(
        "tokens", f"set for {', '.join(roles)}" if roles else "none: a service here listens on loopback only"
    )

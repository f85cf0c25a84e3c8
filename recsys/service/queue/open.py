"""Open the database of the queue by its address, and refuse one that cannot serve: another version, a network disk."""

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, select
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError

from recsys.errors import ConfigError, printable
from recsys.service.queue.errors import clear_errors, place
from recsys.service.queue.sql import LEASE, LOCK, WRITES, SqlQueue
from recsys.service.queue.tables import TABLES, VERSION, make_tables, meta

__all__ = ["MIGRATIONS", "address", "open_queue"]

MIGRATIONS: dict[int, Callable[[Connection], object]] = {}
"""Version of the tables → what makes those of the next version and keeps all rows, inside of a transaction."""

_BUSY = 30  # seconds to wait for another process that writes
_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"(fuse\.)?(nfs\d?|cifs|smb\w*|9p|ncpfs|afs|coda|lustre|beegfs|gpfs|ceph(-fuse)?|gluster(fs)?|ocfs2|gfs2|orangefs|pvfs2"
    r"|sshfs|s3fs|s3ql|goofys|rclone|gcsfuse|juicefs|mount-s3|davfs|seaweedfs|moosefs|mfs|curlftpfs)"
)
_POSTGRES = {
    "connect_timeout": "10",
    "application_name": "recsys",
    "keepalives_idle": "30",
    "options": "-c lock_timeout=30000 -c idle_in_transaction_session_timeout=60000",
}


def address(runs: Path | str) -> str:
    """Address of the database of a folder of runs: RECSYS_DATABASE, else service.db in the folder."""
    return os.environ.get("RECSYS_DATABASE") or f"sqlite:///{Path(runs).absolute() / 'service.db'}"


def open_queue(url: str, lease_seconds: float = LEASE) -> SqlQueue:
    """Open the queue of a database, which gets its tables if it is new, and those of this version if it is older.

    Args:
        url: `sqlite:///PATH` or `postgresql+psycopg://USER:PASSWORD@HOST/DATABASE`.
        lease_seconds: So long a run is left alone after a heartbeat of its worker.

    Raises:
        ConfigError: If the address is of another kind, the database is of another version or of another program, or
            its file is on a network disk.
        QueueDown: If the database does not answer.
    """
    parsed = _parsed(url)
    engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed)
    try:
        with clear_errors(engine), engine.connect().execution_options(**WRITES) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(LOCK)
            _check_tables(connection, place(engine))
    except BaseException:
        engine.dispose()
        raise
    return SqlQueue(engine, lease_seconds)


def _parsed(url: str) -> URL:
    wanted = "sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
    try:
        parsed = make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
    except ArgumentError as error:
        raise ConfigError(f"database: expected {wanted}, got something else: mend RECSYS_DATABASE") from error
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ConfigError(f"database: expected {wanted}, got {parsed.drivername}://…: mend RECSYS_DATABASE")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("database: expected sqlite:///PATH of a file, got none: processes share no memory")
    if parsed.get_backend_name() == "postgresql" and find_spec("psycopg") is None:
        raise ConfigError("database: Postgres needs the package psycopg: pip install 'recsys[postgres]'")
    return parsed


def _sqlite(url: URL) -> Engine:
    path = Path(os.path.realpath(url.database or ""))
    _check_disk(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"database: cannot make folder {path.parent}: {error.strerror}: name another place"
        ) from error
    engine = create_engine(url.set(database=str(path)), connect_args={"timeout": _BUSY})
    event.listen(engine, "connect", _connected)
    event.listen(engine, "begin", _begin)
    return engine


def _connected(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 begins no transaction itself: `_begin` does
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise ConfigError(f"database: expected a disk on which SQLite can write ahead (WAL), got {mode}: name another")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    """Begin; a transaction that writes takes the lock at once, so that it never has to give up half-way."""
    options = connection.get_execution_options()
    if options.get("writes"):  # NORMAL: a power cut may undo the last commits, and ends all workers of this machine too
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('durable') else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def _postgres(url: URL) -> Engine:
    given = {key: value for key, value in _POSTGRES.items() if key not in url.query}
    return create_engine(url, connect_args=given, pool_pre_ping=True, pool_timeout=_BUSY)


def _check_tables(connection: Connection, name: str) -> None:
    """Create the tables in a new database, bring older ones up to date; refuse those of another program."""
    names = set(inspect(connection).get_table_names())
    if not names & set(TABLES.tables):
        make_tables(connection)
        connection.execute(meta.insert().values(key="version", value=str(VERSION)))
        return
    columns = {c["name"] for c in inspect(connection).get_columns("meta")} if "meta" in names else set[str]()
    if columns != {"key", "value"}:
        raise ConfigError(
            f"{name}: expected a database of the queue, got one with tables of another program "
            f"({', '.join(sorted(names & set(TABLES.tables)))}): give the queue a database of its own"
        )
    version = str(connection.scalar(select(meta.c.value).where(meta.c.key == "version")))
    while version != str(VERSION):
        if not version.isdecimal() or int(version) not in MIGRATIONS:
            raise ConfigError(
                f"{name}: expected a queue of version {VERSION}, got version {printable(version, 20)}: use the recsys "
                "that made it, or name another database (RECSYS_DATABASE); a new one lists the run folders, but what "
                "waits and the schedules must be submitted again"
            )
        MIGRATIONS[int(version)](connection)
        version = str(int(version) + 1)
        connection.execute(meta.update().where(meta.c.key == "version").values(value=version))


def _check_disk(path: Path) -> None:
    """Refuse a network disk, on which SQLite's locks do not hold.

    Raises:
        ConfigError: If the nearest folder that exists is on one.
    """
    kind, point = "", Path("/")
    for line in _MOUNTS.read_text().splitlines() if _MOUNTS.exists() else ():
        left, _, right = line.partition(" - ")
        mounted = Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), left.split()[4]))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(point.parts):
            kind, point = right.split()[0], mounted  # a later mount covers an earlier one
    if _NETWORK.fullmatch(kind):
        raise ConfigError(
            f"database {path}: expected a disk of this machine, got {kind}, a network file system: "
            "SQLite loses data there: set RECSYS_DATABASE=sqlite:////LOCAL/PATH/service.db, or use Postgres"
        )

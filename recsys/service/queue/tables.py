"""The tables of the queue, for SQLite and Postgres.

VERSION rises with every change of them, and `open.MIGRATIONS` gets a step that keeps the rows of the version before.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import Connection

__all__ = [
    "ACTIVE",
    "LOST",
    "READY",
    "TABLES",
    "VERSION",
    "clock",
    "make_tables",
    "meta",
    "run_after",
    "run_configs",
    "run_events",
    "runs",
    "schedules",
    "workers",
]

VERSION = 1  # version of these tables
TABLES = MetaData()
READY = "state = 'queued' AND kind = 'run' AND waits = 0"  # a literal, so that the planner sees that the index fits
LOST = "kind = 'lost'"
ACTIVE = "kind = 'run' AND state IN ('running', 'unknown')"

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # only an INTEGER PRIMARY KEY counts by itself


def _text(
    name: str, nullable: bool = False, key: bool = False, unique: bool = False, default: str | None = None
) -> Column[str]:
    return Column(name, Text, nullable=nullable, primary_key=key, unique=unique, server_default=default)


def _whole(name: str, default: str | None = None, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable, server_default=default)


def _time(name: str, nullable: bool = True) -> Column[float]:
    return Column(name, Double, nullable=nullable)


meta = Table("meta", TABLES, _text("key", key=True), _text("value"))

runs = Table(
    "runs",
    TABLES,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", Text(collation="C").with_variant(Text(), "sqlite"), nullable=False, unique=True),
    _text("client_key", nullable=True, unique=True),
    _text("kind"),
    _text("parent", nullable=True),
    _text("state"),
    _text("reason", nullable=True),
    _whole("priority", default="0"),
    _whole("waits", default="0"),  # how many of the runs that it comes after have not finished
    _whole("cores", default="1"),
    _whole("memory", default="0"),
    _whole("gpus", default="0"),
    _whole("attempt", default="0"),
    _whole("deaths", default="0"),  # attempts whose worker died, since it was submitted or resumed
    _text("owner", nullable=True),
    _text("host", nullable=True),
    _text("token", nullable=True),
    _time("lease_until"),
    _time("heartbeat_at"),
    _time("cancel_asked_at"),
    _time("submitted_at", nullable=False),
    _time("started_at"),
    _time("ended_at"),
    _whole("exit", nullable=True),
    _whole("pid", nullable=True),
    _whole("pgid", nullable=True),
    _text("boot", nullable=True),
    _whole("process_start", nullable=True),
    _text("name"),
    _text("experiment", nullable=True),
    _text("digest"),
    _text("runs"),
    _text("cwd"),
    _text("user"),
    _text("git"),  # JSON; so are the next three
    _text("overrides"),
    _text("after"),
    _text("live", default="{}"),
    _text("words"),  # what `find` searches: id, name, overrides in small letters
    _whole("file_time", nullable=True),  # when run.json of a direct run was written, as it was read last, in ns
    sqlite_autoincrement=True,
)
Index("runs_by_state", runs.c.state, runs.c.kind, runs.c.number)
Index("runs_by_parent", runs.c.parent, runs.c.state, runs.c.number)
Index("runs_by_kind", runs.c.kind, runs.c.id, runs.c.state, runs.c.file_time)
Index(
    "runs_ready",
    *(runs.c.state, runs.c.kind, runs.c.waits),  # else SQLite prefers runs_by_state, and sorts
    runs.c.priority.desc(),
    runs.c.number,
    runs.c.cores,
    runs.c.memory,
    runs.c.gpus,
    sqlite_where=text(READY),
)
Index("runs_active", runs.c.host, sqlite_where=text(ACTIVE))

run_configs = Table(
    "run_configs",  # apart from `runs`, so that a list of runs does not read them
    TABLES,
    Column("run", _NUMBER, ForeignKey(runs.c.number, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    _text("config"),
)

run_after = Table(
    "run_after",
    TABLES,
    Column("run", _NUMBER, ForeignKey(runs.c.number, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("before", _NUMBER, ForeignKey(runs.c.number, ondelete="CASCADE"), primary_key=True, autoincrement=False),
)
Index("run_after_by_before", run_after.c.before)

run_events = Table(
    "run_events",
    TABLES,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    _text("run"),
    _time("at", nullable=False),
    _text("kind"),
    _text("payload"),
    sqlite_autoincrement=True,
)
Index("run_events_by_run", run_events.c.run, run_events.c.id)
Index("run_events_lost", run_events.c.id, sqlite_where=text(LOST))

workers = Table(
    "workers",
    TABLES,
    _text("name", key=True),
    _text("host"),
    _whole("cores"),
    _whole("memory"),
    _whole("gpus"),
    _time("started_at", nullable=False),
    _time("heartbeat_at", nullable=False),
)

schedules = Table(
    "schedules",
    TABLES,
    _text("id", key=True),
    _text("every"),
    _text("zone"),
    _text("template"),  # JSON of the run that it submits
    _time("created_at", nullable=False),
    _time("next_at", nullable=False),
    _text("last_run", nullable=True),
    _text("problem", nullable=True),
)


_CLOCK = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
}


def clock(connection: Connection) -> float:
    """The time by the database's clock, in seconds since 1970."""
    return float(connection.exec_driver_sql(_CLOCK[connection.dialect.name]).scalar_one())


def make_tables(connection: Connection) -> None:
    """Create the tables in an empty database."""
    if connection.dialect.name == "postgresql":  # said here alone, since to say it imports all drivers of Postgres
        for index in (i for table in TABLES.tables.values() for i in table.indexes):
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
    TABLES.create_all(connection)

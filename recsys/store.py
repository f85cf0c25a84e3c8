"""Find, create, move and reach MLflow's store. Only the module tracking imports MLflow itself."""

import os
import re
import socket
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from recsys.errors import ConfigError
from recsys.files import sync_folder

__all__ = ["database", "default_uri", "follow", "make_store", "masked", "reach", "warn_untold"]


def default_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the runs folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs).resolve() / 'mlflow.db'}"


def masked(uri: str) -> str:
    """The address without user name and password, and without all settings after `?`, which may hold one."""
    return uri if database(uri) else re.sub(r"[?#;].*", "", re.sub(r"//.*@", "//", uri))


def database(uri: str) -> Path | None:
    """The file of a SQLite store; None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def make_store(database: Path, make: Callable[[str], object]) -> None:
    """Make a store under another name, then rename it.

    MLflow takes seconds to make its tables. If it is killed meanwhile, it leaves a store that it can neither
    use nor repair.

    Args:
        database: The file; the caller holds its lock.
        make: Makes the tables of the store at an address.
    """
    unfinished = database.with_name(f".{database.name}.unfinished")
    for end in ("", "-journal", "-wal", "-shm"):  # left by a killed process, since we hold the lock
        unfinished.with_name(unfinished.name + end).unlink(missing_ok=True)
    make(f"sqlite:///{unfinished}")
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(database)
    sync_folder(database.parent)


def reach(uri: str) -> None:
    """Connect to a server's port, or read the first pages of a SQLite file; MLflow itself needs seconds or minutes.

    Raises:
        ConfigError: If nothing answers within 5 seconds, or the file is no whole database.
    """
    if (file := database(uri)) and file.exists():
        _read(file)
    where = urlsplit(uri)
    if where.scheme not in ("http", "https") or not where.hostname:
        return
    try:
        port = where.port or (443 if where.scheme == "https" else 80)
        socket.create_connection((where.hostname, port), timeout=5).close()
    except (OSError, ValueError) as error:
        shown = f"{where.scheme}://{where.hostname}:{where.port}"  # without user name and password
        raise ConfigError(f"tracking.uri: cannot reach {shown}: {error}: start the server, or change it") from error


def _read(file: Path) -> None:
    try:
        with closing(sqlite3.connect(file, timeout=1)) as store:
            store.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        pass  # it is locked, which may pass
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"tracking.uri: cannot use sqlite:///{file}: {error}: it is broken: move {file} away, and a new one is made"
        ) from error


def warn_untold(error: BaseException, uri: str) -> None:
    """Print that MLflow cannot be told of this run any more."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    text = f"warning: MLflow cannot be told, the run goes on without it: {reason}: resume=ID tells it later"
    print(text.replace(uri, masked(uri)), file=sys.stderr)


_ADDRESSES = (  # where MLflow's tables hold absolute addresses of artifacts
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip


def follow(database: Path) -> None:
    """Update the paths of artifacts in an MLflow store, in case its runs folder was moved.

    Args:
        database: The default store of the folder; its artifacts are in `mlartifacts` beside it.
    """
    home = (database.parent / "mlartifacts").as_uri()
    with closing(sqlite3.connect(database)) as store, store:
        seen = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE 'file://%/mlartifacts'"
        for (old,) in store.execute(seen).fetchall():
            for table, column in _ADDRESSES if old != home else ():
                moved = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                store.execute(moved, (home, len(old) + 1, len(old), old))

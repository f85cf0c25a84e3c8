"""Checks where a run writes, and the MLflow server it logs to, before it starts."""

import os
import re
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from recsys.errors import ConfigError

__all__ = ["check_inside", "check_new_or_ours", "check_places", "check_runs", "check_uri"]

_LEAST = 65_536  # bytes that must be free
_SERVERS = ("http", "https", "databricks", "databricks-uc", "uc", "postgresql", "mysql", "mssql")
_SQLITE = b"SQLite format 3\0"  # how such a file begins: https://www.sqlite.org/fileformat.html


def _check_writable(folder: Path, place: str) -> None:
    """Check that the folder can be written to, or can be made."""
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{place}: expected a folder, got {folder}, and {nearest} is a file: name another place")
    try:
        with TemporaryFile(dir=nearest) as file:  # without a name it leaves nothing; os.access always allows root
            file.write(bytes(_LEAST))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{place}: cannot write to {nearest}: {reason}: name another place, or mend it") from error


def _refuse_password(uri: str, place: str) -> None:
    """Refuse an address that may hold a password: it would end up in run.json, in Hydra's notes and in MLflow."""
    if re.search(r"[@?#;]", uri):
        raise ConfigError(
            f"{place}: expected an address without a name, a password or anything after ?, got one with: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or for a database the whole address in MLFLOW_TRACKING_URI"
        )


def check_uri(uri: Any, place: str) -> None:
    """Check that MLflow knows this kind of store; whether a server answers is asked when the run begins.

    Raises:
        ConfigError: If it does not, or the address may hold a password.
    """
    if uri is None:
        return
    kind = str(uri).partition(":")[0].partition("+")[0]  # postgresql+psycopg2
    if not isinstance(uri, str) or (kind not in _SERVERS and not uri.startswith("sqlite:///")):
        # any other word may hold a password: it is not shown
        raise ConfigError(f"{place}: expected sqlite:///FILE or a server such as http://HOST:PORT, got {kind!r}:…")
    if kind != "sqlite":
        _refuse_password(uri, place)


def _check_database(uri: str, place: str) -> None:
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()
    _check_writable(file.parent, place)
    if not file.parent.is_dir():
        raise ConfigError(f"{place}: expected a file in a folder that is there, got {file}: make {file.parent}")
    if file.exists():
        begins = b"" if file.is_dir() else file.read_bytes()[:16] if os.access(file, os.R_OK) else b"?"
        if file.is_dir() or (begins and begins != _SQLITE):
            raise ConfigError(f"{place}: expected a SQLite database, got {file}: name another file")


def check_runs(folder: Any, place: str) -> None:
    """Check that this is the name of a folder.

    Raises:
        ConfigError: If it is not.
    """
    if not isinstance(folder, str) or not folder:
        raise ConfigError(f"{place}: expected a folder, got {folder!r}: name one")


def check_inside(folder: Path, runs: Path, place: str) -> None:
    """Check that a run's folder is inside the folder of runs, since its id is its path there.

    Raises:
        ConfigError: If it does not.
    """
    inside, home = folder.resolve(), runs.resolve()
    if inside == home or not inside.is_relative_to(home):
        raise ConfigError(f"{place}: expected a folder inside {runs} (runs=…), got {folder}: set runs instead")


def check_new_or_ours(folder: Path, place: str) -> None:
    """Check that a run's folder is new, or of an earlier attempt at the run: it holds run.json, or only Hydra's files.

    Hydra writes its notes and a log, submit.log by default, before the run itself begins.

    Raises:
        ConfigError: If other files are there, or Hydra would write through a link.
    """
    notes = folder / ".hydra"
    if link := next((p for p in (notes, *notes.glob("*")) if p.is_symlink()), None):
        raise ConfigError(
            f"{place}: expected notes of Hydra in {folder}, got a link, {link.relative_to(folder)}: remove it"
        )
    if not folder.is_dir() or (folder / "run.json").exists():
        return
    if other := sorted(
        p.name for p in folder.iterdir() if p.name != "cancel" and p.name[0] != "." and p.suffix != ".log"
    ):
        raise ConfigError(
            f"{place}: expected a new folder or that of a run, got {folder} with {other[0]}: name another"
        )


def check_places(runs: Path, uri: str | None) -> None:
    """Check that a run can write into the folder of runs, and into MLflow's database.

    Raises:
        ConfigError: If it cannot.
    """
    _check_writable(runs.absolute(), "runs")
    if uri and uri.startswith("sqlite:"):
        _check_database(uri, "tracking.uri")

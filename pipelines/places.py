"""Where a run writes and whom it tells: checked before it starts."""

import os
import re
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from recsys.errors import ConfigError

__all__ = ["check_inside", "check_new_or_ours", "check_places", "check_runs", "check_uri"]

_LEAST = 65_536  # bytes of room
_SERVERS = ("http", "https", "databricks", "databricks-uc", "uc", "postgresql", "mysql", "mssql")
_SQLITE = b"SQLite format 3\0"  # how such a file begins: https://www.sqlite.org/fileformat.html


def _check_writable(folder: Path, place: str) -> None:
    """The folder can be written to, or can be made."""
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{place}: expected a folder, got {folder}, and {nearest} is a file: name another place")
    try:
        with TemporaryFile(dir=nearest) as file:  # nameless: nothing is left; os.access says yes to root everywhere
            file.write(bytes(_LEAST))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{place}: cannot write to {nearest}: {reason}: name another place, or mend it") from error


def _refuse_password(uri: str, place: str) -> None:
    """An address with a password would end up in run.json, in Hydra's notes and in MLflow; after ? one may stand."""
    if re.search(r"[@?#;]", uri):
        raise ConfigError(
            f"{place}: expected an address without a name, a password or anything after ?, got one with: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or for a database the whole address in MLFLOW_TRACKING_URI"
        )


def check_uri(uri: Any, place: str) -> None:
    """A store that MLflow knows; whether a server answers is asked when the run begins.

    Raises:
        ConfigError: If it is none, or holds a password.
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
    """The name of a folder.

    Raises:
        ConfigError: If it is none.
    """
    if not isinstance(folder, str) or not folder:
        raise ConfigError(f"{place}: expected a folder, got {folder!r}: name one")


def check_inside(folder: Path, runs: Path, place: str) -> None:
    """A run's folder stands inside the folder of runs, which finds it by its id.

    Raises:
        ConfigError: If it does not.
    """
    inside, home = folder.resolve(), runs.resolve()
    if inside == home or not inside.is_relative_to(home):
        raise ConfigError(f"{place}: expected a folder inside {runs} (runs=…), got {folder}: set runs instead")


def check_new_or_ours(folder: Path, place: str) -> None:
    """What is in a run's folder already is of an earlier attempt at the run: there is run.json, or next to nothing.

    Hydra writes its notes and a log, submit.log by default, before the run itself begins.

    Raises:
        ConfigError: If somebody's files are there, or Hydra would write through a link.
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
    """Check that a run can write where it is to: into the folder of runs, and into MLflow's database.

    Raises:
        ConfigError: The first that cannot be.
    """
    _check_writable(runs.absolute(), "runs")
    if uri and uri.startswith("sqlite:"):
        _check_database(uri, "tracking.uri")

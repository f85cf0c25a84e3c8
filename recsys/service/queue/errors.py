"""What goes wrong between a worker and the queue, besides bad input."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from recsys.errors import ConfigError, RecsysError, in_one_line

__all__ = ["LeaseLost", "QueueDown", "clear_errors"]


class LeaseLost(RecsysError):
    """Another worker has the run now, or somebody took it from this one: end its processes and drop what they made."""


class QueueDown(RecsysError):
    """The database of the queue cannot be reached or written now; the same call may work later."""

    code: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h


_MENDS = {  # in the message of the database → how to mend it
    "disk is full": "make room on its disk",
    "No space left": "make room on its disk",
    "disk I/O error": "look whether its disk is full or broken",
    "database is locked": "another program holds it for more than 30 seconds: end that program",
    "readonly database": "give this user the right to write the file and its folder",
    "unable to open database file": "look whether its folder exists and may be written",
    "permission denied": "give this user of the database the rights on its tables",
    "password authentication failed": "mend the password of RECSYS_DATABASE",
    "does not exist": "create that database first (createdb), or mend RECSYS_DATABASE",
}


@contextmanager
def clear_errors(engine: Engine) -> Generator[None]:
    """Raise what the database cannot do now as an error that says how to mend it.

    Raises:
        QueueDown: If it cannot be reached, is locked, or its disk is full.
        ConfigError: If the file is no database.
    """
    try:
        yield
    except (OperationalError, InternalError, NoConnection) as error:
        text = in_one_line(error.orig if isinstance(error, DBAPIError) and error.orig else error)
        mend = next((m for part, m in _MENDS.items() if part in text), None)
        if mend is None and engine.dialect.name == "sqlite":  # a mistake of ours
            raise
        mend = mend or "look whether it runs, then do this again"
        raise QueueDown(f"expected the queue's database {place(engine)} to answer, got: {text}: {mend}") from error
    except DBAPIError as error:
        if error.orig is None or "not a database" not in str(error.orig):
            raise
        raise ConfigError(
            f"{place(engine)}: expected a database of the queue, got another file: remove it, or name another place"
        ) from error


def place(engine: Engine) -> str:
    """The address of a database without its password."""
    return engine.url.render_as_string(hide_password=True)

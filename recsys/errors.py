"""Errors that a user can mend. Each message says what was expected, what came, and how to mend it.

RecsysError
├── ConfigError    a configuration names something unknown or sets a value that cannot work
├── DataError      a table, column, split or value is not what the configuration says
├── BundleError    an exported bundle is damaged, or answers differently from its model
├── Cancelled      a run was asked to stop
└── ProcessLost    one of the processes of a run has ended

The command line prints the message on one line and exits with the error's `code`: 75 for a lost process, whose run need
only be started again, and 2 for all others. The scoring server answers HTTP 422. Any other exception is a bug and keeps
its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BundleError",
    "Cancelled",
    "ConfigError",
    "DataError",
    "ProcessLost",
    "RecsysError",
    "in_one_line",
    "nearest",
    "printable",
]


class RecsysError(Exception):
    """Base of all errors that the user can mend."""

    code: ClassVar[int] = 2
    """Exit code of a command that it ends."""


class ConfigError(RecsysError):
    """A configuration names something unknown or sets a value that cannot work."""


class DataError(RecsysError):
    """A table, column, split or single value is not what the schema expects."""


class BundleError(RecsysError):
    """A bundle is damaged, incomplete, or answers differently from the model that it was exported from."""


class Cancelled(RecsysError):
    """A run was asked to stop, and stopped at a point from which it can be resumed."""


class ProcessLost(RecsysError):
    """One of the processes of a run has ended without a word, as if it was killed; the run can be resumed."""

    code: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h: the same command may work next time


_MESSAGE = 1000  # most letters of a message, since names in a table may have any length


def printable(text: str, most: int) -> str:
    """Text that is safe for a terminal: unprintable characters, such as control characters, are escaped as in Python.

    Args:
        text: Text of any origin.
        most: Most letters to keep, at least 2; the middle of longer text is left out.
    """
    if len(text) > most:
        text = f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(word: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: `: the nearest is NAME`, or "" if none is near."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f": the nearest is {near[0]}" if near else ""


def in_one_line(error: BaseException) -> str:
    """The message of an error, on one printable line of at most 1,000 letters."""
    return printable(" ".join(line.strip() for line in str(error).splitlines()), _MESSAGE)

"""Errors that a user can mend. Each message says what was expected, what came, and how to mend it.

RecsysError
├── ConfigError    a configuration names something unknown or sets a value that cannot work
├── DataError      a table, column, split or value is not what the configuration says
├── BundleError    an exported bundle is damaged, or answers differently from its model
└── Cancelled      a run was asked to stop

The command line prints the message on one line and exits with code 2; the scoring server answers
HTTP 422. Any other exception is a bug and keeps its traceback.
"""

__all__ = ["BundleError", "Cancelled", "ConfigError", "DataError", "RecsysError", "in_one_line", "printable"]


class RecsysError(Exception):
    """Base of all errors that the user can mend."""


class ConfigError(RecsysError):
    """A configuration names something unknown or sets a value that cannot work."""


class DataError(RecsysError):
    """A table, column, split or single value is not what the schema expects."""


class BundleError(RecsysError):
    """A bundle is damaged, incomplete, or answers differently from the model that it was exported from."""


class Cancelled(RecsysError):
    """A run was asked to stop, and stopped at a point from which it can be resumed."""


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


def in_one_line(error: BaseException) -> str:
    """The message of an error, on one printable line of at most 1,000 letters."""
    return printable(" ".join(line.strip() for line in str(error).splitlines()), _MESSAGE)

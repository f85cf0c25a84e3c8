"""The errors a user can mend. Each message says what was expected, what came, and how to mend it.

RecsysError
├── ConfigError    a configuration names or sets something that cannot be
├── DataError      a table, column, split or value is not what the configuration says
└── BundleError    an exported bundle is damaged, or drifts from the model it was made from

The command line prints the message on one line and exits with code 2; the scoring server answers
HTTP 422. Any other exception is a bug and keeps its traceback.
"""

__all__ = ["BundleError", "ConfigError", "DataError", "RecsysError"]


class RecsysError(Exception):
    """Base of all errors that the user can mend."""


class ConfigError(RecsysError):
    """A configuration names something unknown or sets a value that cannot work."""


class DataError(RecsysError):
    """A table, column, split or single value is not what the schema expects."""


class BundleError(RecsysError):
    """A bundle is damaged, incomplete, or answers other than the model it was exported from."""

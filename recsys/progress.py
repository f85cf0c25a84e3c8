"""Progress bars on standard error, since standard output is for results only."""

from rich.progress import Progress, ProgressColumn

from recsys.terminal import console

__all__ = ["progress"]


def progress(*columns: ProgressColumn | str, refresh_per_second: float = 10) -> Progress:
    """A progress bar, to be used in a `with`, which ends its thread even after an exception.

    Args:
        columns: Columns to show; rich's own choice by default.
        refresh_per_second: How often it is drawn, > 0.
    """
    return Progress(*columns, console=console(), refresh_per_second=refresh_per_second)

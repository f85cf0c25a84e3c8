"""How far a long job is, on standard error: standard output holds results only."""

from rich.progress import Progress, ProgressColumn

from recsys.terminal import console

__all__ = ["progress"]


def progress(*columns: ProgressColumn | str, refresh_per_second: float = 10) -> Progress:
    """A progress bar, to be used in a `with`: that ends its thread even where an exception passes.

    Args:
        columns: What it shows; rich's own choice by default.
        refresh_per_second: How often it is drawn, > 0.
    """
    return Progress(*columns, console=console(), refresh_per_second=refresh_per_second)

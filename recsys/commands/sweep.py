"""`recsys sweep`: the overrides of a sweep, merged with those of the sweep that it resumes."""

from argparse import Namespace

__all__ = ["main"]


def main(given: Namespace) -> int:
    """Search, and print the path of sweep.json."""
    from pipelines.continued import continued

    overrides = continued(given.overrides, "sweep")
    from pipelines.sweep.start import sweep
    from recsys.training.memory import keep_freed_memory

    keep_freed_memory()
    print(sweep(overrides), flush=True)
    return 0

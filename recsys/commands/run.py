"""`recsys run` and `recsys export`: the overrides of a run, merged with those of the run that it goes on from."""

from argparse import Namespace
from collections.abc import Sequence

from recsys.data.processes import is_rank

__all__ = ["export", "run"]


def run(arguments: Sequence[str]) -> int:
    """Submit a run → exit code.

    Args:
        arguments: Hydra's options and overrides; `+selection=PATH` stands for `select.apply=PATH`.
    """
    from pipelines import submit
    from pipelines.continued import continued, in_full
    from recsys.training.memory import keep_freed_memory

    keep_freed_memory()
    arguments = in_full(arguments)
    if is_rank():
        from pipelines.one_run import quiet
        from pipelines.run import run_together

        quiet()
        return run_together(lambda call: submit.main(continued(arguments), call))
    return submit.main(continued(arguments))


def export(given: Namespace) -> int:
    """Export the newest model of a run, by a run of stage export alone."""
    return run([f"from_run={given.run}", "stages=[export]", *given.overrides])

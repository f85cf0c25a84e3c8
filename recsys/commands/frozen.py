"""A process that a worker of the service starts: `python -m recsys.commands.frozen FOLDER` executes a frozen run."""

import signal
import sys
from pathlib import Path

from pipelines.signals import obey_signals
from recsys.data.processes import is_rank

__all__ = ["frozen"]


def frozen(folder: Path) -> int:
    """Execute what the run's frozen.json says → exit code; as one of several processes if torchrun started this one."""
    obey_signals()
    try:
        from pipelines.frozen import run_frozen
        from recsys.training.memory import keep_freed_memory

        keep_freed_memory()
        if is_rank():
            from pipelines.one_run import quiet
            from pipelines.run import run_together

            quiet()
            return run_together(lambda call: run_frozen(folder, call))
        return run_frozen(folder)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(frozen(Path(sys.argv[1])))

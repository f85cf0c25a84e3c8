"""A process that a launcher starts: one rank of a run, `python -m recsys.commands.rank FOLDER run OVERRIDES…`."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.launchers.launch import GIVEN_UP, log_of
from recsys.commands.cli import main
from recsys.commands.frozen import frozen
from recsys.data.processes import LAUNCHED
from recsys.files import write_text

__all__ = ["rank"]

_PR_SET_PDEATHSIG = 1  # prctl(2)


def rank(folder: Path, arguments: Sequence[str]) -> int:
    """Run the command → its exit code; its output goes to a file in the run's folder.

    Restarting all ranks mends a rank that died, and nothing that a user has to mend: exit code 2 is therefore noted
    in the folder, where ranks that start again see it, and end.

    Args:
        folder: The run's folder.
        arguments: What follows `recsys`; or `frozen`, for what the folder's frozen.json says.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # if what started it is killed, it ends too
    given_up = folder / GIVEN_UP
    if given_up.exists():
        return 2
    log = os.open(log_of(folder, int(os.environ["RANK"])), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.environ[LAUNCHED] = "1"
    code = frozen(folder) if arguments == ["frozen"] else main(arguments)
    if code == 2:
        write_text(given_up, os.environ["RANK"])
    return code


if __name__ == "__main__":
    sys.exit(rank(Path(sys.argv[1]), sys.argv[2:]))

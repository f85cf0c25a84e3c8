"""Starts the processes of a run by its launcher, shows what rank 0 says, and starts them again if one dies."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.launchers.contract import Launcher, resuming
from recsys.errors import DataError, RecsysError
from recsys.terminal import console

__all__ = ["GIVEN_UP", "launch", "log_of", "supervise"]

GIVEN_UP = ".given_up"  # a file in the run's folder: a rank ended with an error that starting again does not mend
_LOOK = 0.2  # seconds between two looks at the processes


def log_of(folder: Path, rank: int) -> Path:
    """The file that a rank's output goes to."""
    return folder / f"rank-{rank}.log"


class _Log:
    """What rank 0 writes from now on, shown on standard error."""

    def __init__(self, path: Path):
        self._path, self._read = path, path.stat().st_size if path.exists() else 0

    def show(self) -> None:
        """Show what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        sys.stderr.write(new.decode(errors="replace"))
        sys.stderr.flush()


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "")


def launch(launcher: Launcher, folder: Path, arguments: Sequence[str]) -> Path | None:
    """Run the run in the processes of a launcher → result.json; None if this process is to run it.

    Args:
        launcher: Starts the processes.
        folder: The run's folder.
        arguments: What follows `recsys` to run it in that folder, so that one that starts again resumes the run from
            its last checkpoint; or `frozen`, for what its frozen.json says.

    Raises:
        RecsysError: As `supervise`.
    """
    place = str(folder.absolute())
    command = [sys.executable, "-m", "recsys.commands.rank", place, *arguments]
    return folder / "result.json" if supervise(launcher, command, Path(place)) else None


def supervise(launcher: Launcher, command: Sequence[str], folder: Path) -> bool:
    """Run a command in the processes of a launcher until all have ended → false if the launcher starts none.

    Args:
        launcher: Starts the processes, again if one dies, at most `launcher.attempts` times in all.
        command: Program and arguments; it writes to `log_of(folder, rank)`, and makes GIVEN_UP in the folder if
            starting again is of no use.
        folder: The run's folder, absolute.

    Raises:
        RecsysError: If a process ended with an error that the user can mend.
        DataError: If processes died more often than the launcher starts them again.
    """
    given_up, code = folder / GIVEN_UP, 0
    given_up.unlink(missing_ok=True)
    logs = [log_of(folder, i) for i in range(launcher.processes)]
    for attempt in range(launcher.attempts):
        if attempt:
            console().print(f"a process ended with {code}: all start again from the last checkpoint", style="dim")
        log = _Log(logs[0])
        if (launched := launcher.start(command, folder)) is None:
            return False
        try:
            while (code := launched.poll()) is None:
                log.show()
                time.sleep(_LOOK)
        except BaseException:  # Ctrl-C and SIGTERM too
            launched.cancel()
            raise
        log.show()
        if given_up.exists():
            raise RecsysError(_last_line(log_of(folder, int(given_up.read_text()))).removeprefix("error: "))
        if code == 0:
            return True
    shown = ", ".join(f"{p.name} ends with {_last_line(p)!r}" for p in logs if p.exists())
    raise DataError(
        f"the run's processes ended with {code}, and launcher.restarts were used up: {shown or 'they said nothing'}: "
        f"see {folder}, then, with the same launcher, {resuming(folder.name)}"
    )

"""Runs one run whose configuration is known, here or by its launcher; an error becomes one line and an exit code."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.launchers.contract import resuming
from pipelines.places import check_inside
from recsys.config.factory import make, trust
from recsys.data.processes import is_rank
from recsys.errors import RecsysError, in_one_line
from recsys.files import disk_full

if TYPE_CHECKING:
    from pipelines.run import Call

__all__ = ["quiet", "run_one"]


def quiet() -> None:
    """Silence warnings of other packages that no user can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in (
        "torch",
        "torch.fx",
        "torch.onnx",
        "mlflow",
        "alembic",
        "onnxscript",
        "mlflow.pyfunc",
        "mlflow.tracking._model_registry.client",
        "urllib3",  # "Retrying", of a server that is gone: tracking.py warns once
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracking.py tells its errors in one line


def _is_inside(name: object, folder: Path) -> bool:
    """Whether a file that an error names is inside the folder of runs; an error elsewhere may be a bug."""
    return isinstance(name, str | Path) and Path(os.path.abspath(name)).is_relative_to(os.path.abspath(folder))


def _anybody() -> None:
    """Let the run publish: nobody else may have it."""


def run_one(
    read: Callable[[], RunConfig],
    folder: Path,
    again: Callable[[], list[str]],
    before_publishing: Callable[[], None] = _anybody,
    call: "Call | None" = None,
) -> int:
    """Run it → exit code; the path of its result.json is the last line printed.

    Args:
        read: Gives the checked configuration; what it raises is reported as an error of the run.
        folder: The run's.
        again: Gives the command line, after `recsys`, by which the processes of a launcher run this very run.
        before_publishing: As for `execute`.
        call: As for `execute`; by default stages are called in this process only.
    """
    quiet()
    runs = folder.parent
    try:
        from pipelines.run import alone, execute
        from recsys.events import Terminal

        config = read()
        runs = Path(config.runs)
        check_inside(folder, runs, "hydra.run.dir")
        trust(config.trusted)
        if config.launcher and not is_rank():
            from pipelines.launchers.launch import launch

            launcher = make(config.launcher, "launcher")()
            if (result := launch(launcher, folder, again())) is not None:
                print(result, flush=True)
                return 0
        with Terminal() as terminal:
            print(execute(config, folder, terminal, before_publishing, call or alone), flush=True)
    except RecsysError as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return error.code
    except OSError as error:
        if not disk_full(error) and not _is_inside(error.filename, runs):
            traceback.print_exc()
            return 1
        full = f"{folder}: No space left on device: free some"
        fault = full if disk_full(error) else f"{error.filename}: {error.strerror}: mend it"
        print(f"error: {fault}, then {resuming(os.path.relpath(folder, runs))}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0

"""`recsys run`: composes the configuration, reports a mistake in one line, then runs it.

Imports no training code at the top, so that a mistake is reported at once.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from pipelines.composed import checked, composed, folders_made, resolve_config
from pipelines.one_run import run_one
from pipelines.overrides import each_run, key_of
from recsys.config.options import CONF, own_options, search_path
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.run import Call

__all__ = ["main"]


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse Hydra's own options → these, and the arguments without the overrides."""
    parser = get_args_parser()
    printed = StringIO()
    try:
        with redirect_stderr(printed):
            given = parser.parse_intermixed_args(list(arguments))
    except SystemExit as stop:
        if not stop.code:
            raise  # --version
        reason = printed.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise ConfigError(f"{reason}: recsys run --help lists what there is") from None
    if given.run and given.multirun:
        raise ConfigError("expected --run or --multirun, got both: give one")
    overrides = list(given.overrides)
    flags = list(arguments)
    for o in overrides:
        flags.remove(o)
    return given, flags


def _typed_for_a_rank(given: argparse.Namespace) -> list[str]:
    """The command line, after `recsys`, that runs this run alone, which may be one of several."""
    noted = HydraConfig.get().overrides
    options = {"--config-path": given.config_path, "--config-name": given.config_name, "--config-dir": given.config_dir}
    again = "mode|run|sweep|searchpath" if given.config_dir else "mode|run|sweep"  # --config-dir names it already
    hydra_overrides = [o for o in noted.hydra if not re.match(rf"\+*hydra\.({again})[.=]", o)]
    flags = [f"{flag}={value}" for flag, value in options.items() if value]
    quoted = HydraConfig.get().runtime.output_dir.replace("\\", "\\\\").replace("'", r"\'")
    return ["run", *flags, *hydra_overrides, *noted.task, f"hydra.run.dir='{quoted}'"]


def _run_composed(config: DictConfig, run: Callable[[DictConfig], None]) -> None:
    """Run one composed configuration as `hydra.main` does, which would compose it twice more."""
    config.hydra.mode = RunMode.RUN
    try:
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"hydra.verbose or hydra.hydra_logging: {error}: leave them out") from error
    with initialize_config_dir(str(CONF), job_name="submit", version_base=None):
        callbacks = Callbacks(config)
        context = HydraContext(GlobalHydra.instance().config_loader(), callbacks)
        callbacks.on_run_start(config=config, config_name="config")
        done = run_job(run, config, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=config, config_name="config", job_return=done)
        _ = done.return_value  # raises what the run raised


def main(arguments: Sequence[str], call: "Call | None" = None) -> int:
    """Check a run, or each run of a sweep, then run it → exit code.

    Args:
        arguments: Hydra's options and overrides, in any order.
        call: As for `run_one`.

    Raises:
        ConfigError: If a setting is invalid; nothing has been run or written then.
    """
    given, flags = _parsed(arguments)
    overrides = list(given.overrides)
    own_path = any(key_of(o) == "hydra.searchpath" for o in overrides)
    if given.config_dir and own_path:
        raise ConfigError("expected --config-dir or hydra.searchpath, got both: give one")
    if given.config_dir and not Path(given.config_dir).is_dir():
        raise ConfigError(f"--config-dir: expected a folder, got {given.config_dir}: check the path")
    if given.config_dir:  # Hydra puts it on the path itself
        every = [*overrides, search_path(Path(given.config_dir), "file")]
    else:
        every = overrides = overrides if own_path or given.config_path else [*overrides, *own_options(Path.cwd())]
    others = given.hydra_help or given.shell_completion or given.info
    jobs = [] if others else composed(every, given.multirun, each_run, given)
    if jobs and not given.cfg:
        checked(jobs, every, given.multirun)

    def run(config: DictConfig) -> None:
        """One run; the path of its result.json is the last line printed."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        if code := run_one(lambda: resolve_config(config), folder, lambda: _typed_for_a_rank(given), call=call):
            sys.exit(code)

    by_hydra = others or given.cfg or given.multirun or given.experimental_rerun
    before, sys.argv = sys.argv, ["recsys run", *flags, *overrides]  # which Hydra reads
    full_error = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and prints nothing
    try:
        with folders_made():
            if by_hydra:
                hydra.main(version_base=None, config_path=str(CONF), config_name="config")(run)()
            else:
                _run_composed(jobs[0][1], run)
    except SystemExit as stop:
        return int(stop.code or 0)
    except OSError as error:  # Hydra could not make the run's folder, or write its notes
        place, reason = error.filename or "the folder of runs", error.strerror or error
        raise ConfigError(f"{place}: {reason}: name another place by runs=…, or mend it") from error
    finally:
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = before, full_error
    return 0

"""`recsys run`: composes the configuration, reports a mistake in one line, then runs it.

Imports no training code at the top, so that a mistake is reported at once.
"""

import argparse
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.check import check, check_table
from pipelines.config import RunConfig
from pipelines.launchers.launch import is_rank, launch
from pipelines.overrides import WRONG, compose, compose_typed, each_run, key_of, what_is_wrong
from pipelines.places import check_inside, check_new_or_ours
from recsys.config.factory import make, trust
from recsys.config.options import CONF, own_options, search_path
from recsys.errors import ConfigError, RecsysError, in_one_line
from recsys.files import disk_full

__all__ = [
    "check_folder",
    "folders_made",
    "main",
    "quiet",
    "refuse_what_a_file_may_not_say",
    "resolve_config",
    "unused",
]

_ONLY_TYPED = (
    *("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging", "output_subdir", "searchpath", "verbose"),
    "sweep.subdir",
    *("job.chdir", "job.env_set", "job.env_copy", "job.name", "job.config", "mode"),
)
"""Keys of `hydra` that make it import, call or write what they name: no file may set them."""


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


def resolve_config(config: DictConfig) -> RunConfig:
    """The configuration without Hydra's own part.

    Raises:
        ConfigError: If a value is missing, does not resolve, or is invalid.
    """
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.pop("hydra", None)
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigError(f"no value for {', '.join(missing)}: set it, for example {missing[0]}=…")
        resolved: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: the value does not resolve: {reason}: set that key") from error
    return RunConfig.from_json(resolved)


def _configurations(overrides: list[str], given: argparse.Namespace) -> list[DictConfig]:
    """Compose each run and check all that can be known before it starts.

    Raises:
        ConfigError: At the first mistake, in one line.
    """
    try:
        jobs = each_run(overrides, given.multirun)
        configs = [compose(job, given) for job in jobs]
    except WRONG as error:
        raise ConfigError(what_is_wrong(error, overrides, given)) from error
    if given.cfg:
        return configs
    typed = compose_typed(overrides)
    for job, config in zip(jobs, configs, strict=True):
        refuse_what_a_file_may_not_say(config, typed, overrides)
        noted = _unresolved(config.hydra.overrides)
        if {*noted["task"], *noted["hydra"]} - set(job):
            raise ConfigError("hydra.overrides: a file may not set it: it is the record of what was typed")
        if config.hydra.mode == RunMode.MULTIRUN and not given.multirun:
            raise ConfigError("hydra.mode: a sweep is asked for by -m: leave the key out")
        if config.hydra.job.chdir:
            raise ConfigError("hydra.job.chdir: a run stays in the folder it was begun in: leave the key out")
        with _unused_is(_no_folder):
            resolved = resolve_config(config)
        check(resolved)
        check_table(resolved, check_folder(config, Path(resolved.runs), given.multirun))
    return configs


def refuse_what_a_file_may_not_say(config: DictConfig, typed: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse files that would make this process run code outside our packages: somebody may have sent them.

    Raises:
        ConfigError: If a file says what to trust, or sets a key of Hydra that runs code.
    """
    by_hand = any(key_of(o) == "trusted" for o in overrides)
    if not by_hand and (OmegaConf.is_interpolation(config, "trusted") or config.get("trusted")):
        raise ConfigError("trusted: a file may not say what code to trust: give trusted=[PACKAGE] on the command line")
    here, wanted = (_unresolved(c.hydra) for c in (config, typed))
    for key in _ONLY_TYPED:
        group, _, name = key.rpartition(".")
        if (here[group] if group else here)[name] != (wanted[group] if group else wanted)[name]:
            raise ConfigError(f"hydra.{key}: a file may not set it: give it on the command line")
    if config.get("launcher") not in (None, typed.launcher):
        raise ConfigError("launcher: a file may not say where a run starts: give launcher=… on the command line")


def _unresolved(node: DictConfig) -> Any:
    """The values as they are written, without interpolation."""
    return OmegaConf.to_container(node, resolve=False)


def check_folder(config: DictConfig, runs: Path, sweeps: bool) -> Path:
    """Check that the run is to write inside the folder of runs → the run's folder.

    Raises:
        ConfigError: If it is not.
    """
    part, place = (config.hydra.sweep, "hydra.sweep.dir") if sweeps else (config.hydra.run, "hydra.run.dir")
    try:
        folder = Path(str(part.dir))
        check_inside(folder, runs, place)
        if not sweeps:
            check_new_or_ours(folder, place)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{place}: the value does not resolve: {str(error).splitlines()[0]}: leave it out") from error
    below = str(_unresolved(part)["subdir"]) if sweeps else ""
    if ".." in below or below.startswith("/"):
        raise ConfigError(f"hydra.sweep.subdir: expected a folder below the sweep's, got {below}: leave it out")
    return folder


def unused(folder: str) -> str:
    """Make the folder or, if a run has it, the first free one of FOLDER-2, FOLDER-3 …: two may begin in one second."""
    path, number = Path(folder), 1
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
            path = Path(f"{folder}-{number}")
        else:
            return str(path)


def _no_folder(folder: str) -> str:
    raise ConfigError(f"${{unused:{folder}}} makes a folder: only hydra.run.dir and hydra.sweep.dir may")


@contextmanager
def _unused_is(resolver: Callable[[str], str], use_cache: bool = False) -> Generator[None]:
    OmegaConf.register_new_resolver("unused", resolver, use_cache=use_cache, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("unused", str, replace=True)


def folders_made() -> AbstractContextManager[None]:
    """Within it, `${unused:FOLDER}` makes the folder; outside it is only a name, since merging resolves it too."""
    return _unused_is(unused, use_cache=True)


OmegaConf.register_new_resolver("unused", str)


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


def _typed_for_a_rank() -> list[str]:
    """What to type after `recsys run`, beside the folder, for this run alone, which may be one of several."""
    given, noted = get_args_parser().parse_args(sys.argv[1:]), HydraConfig.get().overrides
    options = {"--config-path": given.config_path, "--config-name": given.config_name, "--config-dir": given.config_dir}
    hydra_overrides = [o for o in noted.hydra if not re.match(r"\+*hydra\.(mode|run|sweep)[.=]", o)]
    return [*(f"{flag}={value}" for flag, value in options.items() if value), *hydra_overrides, *noted.task]


def _run_one(config: DictConfig) -> None:
    """One run; the path of its result.json is the last line printed."""
    quiet()
    folder = runs = Path(HydraConfig.get().runtime.output_dir)
    try:
        from pipelines.run import execute
        from recsys.events import Terminal

        resolved = resolve_config(config)
        runs = Path(resolved.runs)
        check_inside(folder, runs, "hydra.run.dir")
        trust(resolved.trusted)
        if resolved.launcher and not is_rank():
            launcher = make(resolved.launcher, "launcher")()
            if (result := launch(launcher, folder, _typed_for_a_rank())) is not None:
                print(result, flush=True)
                return
        with Terminal() as terminal:
            print(execute(resolved, folder, terminal), flush=True)
    except RecsysError as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        sys.exit(error.code)
    except OSError as error:
        if not disk_full(error) and not _is_inside(error.filename, runs):
            traceback.print_exc()
            sys.exit(1)
        full = f"{folder}: No space left on device: free some"
        fault = full if disk_full(error) else f"{error.filename}: {error.strerror}: mend it"
        print(f"error: {fault}, then resume={folder.name}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


_by_hydra = hydra.main(version_base=None, config_path=str(CONF), config_name="config")(_run_one)


def _run_composed(config: DictConfig) -> None:
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
        done = run_job(_run_one, config, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=config, config_name="config", job_return=done)
        _ = done.return_value  # raises what the run raised


def main(arguments: Sequence[str]) -> int:
    """Check a run, or each run of a sweep, then run it → exit code.

    Args:
        arguments: Hydra's options and overrides, in any order.

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
        composed = [*overrides, search_path(Path(given.config_dir), "file")]
    else:
        composed = overrides = overrides if own_path or given.config_path else [*overrides, *own_options(Path.cwd())]
    others = given.hydra_help or given.shell_completion or given.info
    configs = [] if others else _configurations(composed, given)
    by_hydra = others or given.cfg or given.multirun or given.experimental_rerun
    before, sys.argv = sys.argv, ["recsys run", *flags, *overrides]
    full_error = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and prints nothing
    try:
        with folders_made():
            if by_hydra:
                _by_hydra()
            else:
                _run_composed(configs[0])
    except SystemExit as stop:
        return int(stop.code or 0)
    except OSError as error:  # Hydra could not make the run's folder, or write its notes
        place, reason = error.filename or "the folder of runs", error.strerror or error
        raise ConfigError(f"{place}: {reason}: name another place by runs=…, or mend it") from error
    finally:
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = before, full_error
    return 0

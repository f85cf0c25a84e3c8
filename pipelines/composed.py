"""Composes the configurations of runs, and checks all that can be known before they start.

Imports no training code, so that a mistake is reported at once.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.check import check, check_table
from pipelines.config import RunConfig
from pipelines.overrides import NO_OPTIONS, WRONG, Options, compose, compose_typed, key_of, what_is_wrong
from pipelines.places import check_inside, check_new_or_ours
from recsys.errors import ConfigError

__all__ = [
    "Checked",
    "check_folder",
    "checked",
    "composed",
    "folders_made",
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


Split = Callable[[list[str], bool], list[list[str]]]  # overrides, whether they sweep → those of each run


def composed(
    overrides: list[str], sweeps: bool, split: Split, given: Options = NO_OPTIONS
) -> list[tuple[list[str], DictConfig]]:
    """Compose each run → its overrides and its configuration, with Hydra's part.

    Raises:
        ConfigError: If overrides are wrong, in one line.
    """
    try:
        return [(job, compose(job, given)) for job in split(overrides, sweeps)]
    except WRONG as error:
        raise ConfigError(what_is_wrong(error, overrides, given)) from error


@dataclass(frozen=True)
class Checked:
    """A run that can start.

    Args:
        overrides: What leads to it.
        whole: The configuration with Hydra's part.
        config: The configuration.
        folder: The run's folder, or that of its sweep.
    """

    overrides: list[str]
    whole: DictConfig
    config: RunConfig
    folder: Path


def checked(
    jobs: Sequence[tuple[list[str], DictConfig]], overrides: list[str], sweeps: bool, ours: bool = False
) -> list[Checked]:
    """Check what `composed` gave.

    Args:
        jobs: Overrides and configuration of each run.
        overrides: What was typed for all of them.
        sweeps: Whether they are runs of a sweep.
        ours: Whether all that was composed is packaged: then no file can say what only the command line may.

    Raises:
        ConfigError: At the first mistake, in one line.
    """
    typed = None if ours else compose_typed(overrides)
    return [_checked(job, config, typed, overrides, sweeps) for job, config in jobs]


def _checked(
    job: list[str], config: DictConfig, typed: DictConfig | None, overrides: list[str], sweeps: bool
) -> Checked:
    if typed is not None:
        refuse_what_a_file_may_not_say(config, typed, overrides)
    noted = _unresolved(config.hydra.overrides)
    if {*noted["task"], *noted["hydra"]} - set(job):
        raise ConfigError("hydra.overrides: a file may not set it: it is the record of what was typed")
    if config.hydra.mode == RunMode.MULTIRUN and not sweeps:
        raise ConfigError("hydra.mode: a sweep is asked for by -m: leave the key out")
    if config.hydra.job.chdir:
        raise ConfigError("hydra.job.chdir: a run stays in the folder it was begun in: leave the key out")
    with _unused_is(_no_folder):
        resolved = resolve_config(config)
    check(resolved)
    folder = check_folder(config, Path(resolved.runs), sweeps)
    check_table(resolved, folder)
    return Checked(job, config, resolved, folder)


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

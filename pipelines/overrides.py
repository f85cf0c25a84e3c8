"""Composes configurations from overrides of the command line, and says in one line what is wrong with them."""

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipelines.config import Part, RunConfig
from recsys.config.options import CONF, know_own_options
from recsys.data.preparation.fields import FIELD_KEYS, KEYS
from recsys.errors import ConfigError, nearest
from recsys.files import check_text

__all__ = [
    "KEY_VALUE",
    "NO_OPTIONS",
    "WRONG",
    "Options",
    "all_runs",
    "compose",
    "compose_typed",
    "count_values",
    "each_run",
    "key_of",
    "what_is_wrong",
]

Options = argparse.Namespace  # Hydra's own
NO_OPTIONS = Options(config_path=None, config_name=None)

WRONG = (
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    ValueError,
    OSError,
    RecursionError,
)  # what composing raises


KEY_VALUE = "expected KEY=VALUE, with quotes around what holds , = [ ] { } ' or blanks"
_MEANT = 3  # most keys of a hint
_MOST = 10_000  # runs of a sweep: each takes a quarter of a second to compose


def key_of(override: str) -> str:
    """What an override sets: `+data.fields={…}` → `data.fields`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def compose(overrides: Sequence[str], given: Options = NO_OPTIONS) -> DictConfig:
    """The configuration that overrides and Hydra's own options lead to, with Hydra's part.

    Raises:
        ConfigError: If an override is no text; what else may be wrong raises one of `WRONG`.
    """
    check_text("overrides", list(overrides))
    folder = Path(given.config_path).absolute() if given.config_path else CONF
    return _compose(folder, given.config_name or "config", overrides)


def compose_typed(overrides: Sequence[str]) -> DictConfig:
    """Hydra's part and the launcher, composed without the user's files: a quarter of the work of a whole run."""
    return _compose(CONF, "folders", [o for o in overrides if key_of(o).startswith(("hydra", "launcher"))])


def _compose(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        key = key_of(override)
        if "." not in key and ("/" in key or (CONF / key).is_dir()):
            _check_option(key, override.partition("=")[2])
    know_own_options()
    with initialize_config_dir(str(folder), job_name="submit", version_base=None):
        config = hydra.compose(name, list(overrides), return_hydra_config=True)
    for group, option in config.hydra.runtime.choices.items():  # a file may name options too
        _check_option(str(group), str(option))
    return config


def _check_option(group: str, value: str) -> None:
    """Refuse a path where a group takes the name of an option: it would read a file outside the folders of options.

    Raises:
        ConfigError: If it is an absolute path, or one that leads out of the group's folder.
    """
    for name in re.split(r"[\s,'\"\[\]()]+", value):
        if name.startswith(("/", "~")) or ".." in name.split("/"):
            raise ConfigError(
                f"{group}: expected the name of an option, got the path {name!r}: copy the file to {group}/NAME.yaml "
                f"in the folder that you are in, and give {group}=NAME"
            )


def _instead(unknown: str, overrides: Sequence[str], given: Options) -> str:
    """What to write instead of an unknown key, from the configuration without it."""
    try:
        config = compose([o for o in overrides if key_of(o) != unknown], given)
    except WRONG:
        return "no such key: expected those of recsys run --cfg job"
    parent, deepest = OmegaConf.create(), unknown.rpartition(".")[0]
    group, _, key = unknown.rpartition(".")
    while True:
        parent: Any = OmegaConf.select(config, deepest) if deepest else config
        if isinstance(parent, DictConfig) or not deepest:
            break
        deepest = deepest.rpartition(".")[0]
    may_be_added = KEYS if group == "data" else FIELD_KEYS if re.fullmatch(r"data\.fields\.[^.]+", group) else ()
    if deepest == group and key in may_be_added and (new := [o for o in overrides if o.startswith(f"{unknown}=")]):
        return f"the options do not set this key yet: write +{new[0]}"
    known = sorted({str(k) for k in parent} - {"hydra", "_target_", "_partial_"})
    return f"no such key: expected some of {', '.join(known)}{_near(unknown, config)}"


def _near(unknown: str, config: DictConfig) -> str:
    """The end of a message that names the keys which were probably meant, wherever they are: `lr` → `train.lr`."""
    keys = list(_keys(OmegaConf.to_container(config)))
    alike = [k for k in keys if k.rpartition(".")[2] == unknown.rpartition(".")[2]]
    return f": perhaps {' or '.join(alike)} is meant" if 0 < len(alike) <= _MEANT else nearest(unknown, keys)


def _keys(config: Any, above: str = "") -> Iterator[str]:
    """Keys of a configuration, and of what is in it, without Hydra's."""
    for name, value in config.items() if isinstance(config, dict) else ():
        if name not in ("hydra", "_target_", "_partial_"):
            yield f"{above}{name}"
            yield from _keys(value, f"{above}{name}.")


def _no_option(overrides: Sequence[str]) -> str:
    """Which override gives a group something else than the name of an option, such as null, and how to mend it."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    groups = [o for o in parsed if not o.is_delete() and ("/" in o.key_or_group or (CONF / o.key_or_group).is_dir())]
    wrong = next((o for o in groups if not isinstance(o.value(), str | list | dict)), None)
    mend = "recsys run --cfg job shows what is chosen"
    if wrong and wrong.value() is None and RunConfig.__annotations__.get(wrong.key_or_group) == Part | None:
        mend = f"~{wrong.key_or_group} leaves the group out"
    return f"{wrong.input_line if wrong else ''!r}: expected GROUP=OPTION, with the name of an option: {mend}"


def what_is_wrong(error: Exception, overrides: Sequence[str], given: Options = NO_OPTIONS) -> str:
    """What is wrong with the overrides, in one line; Hydra's own text has up to twelve."""
    text = " ".join(str(error).split("\nSee https://")[0].split())
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = error.options or []
        return f"{group}: no option {name!r}: expected one of {', '.join(options) or 'none'}{nearest(name, options)}"
    if isinstance(error, OverrideParseException):
        what = next((o for o in overrides if "=" not in o and not o.startswith("~")), error.override or "")
        return f"cannot read {what!r}: {KEY_VALUE}"
    if text.startswith("Config group override must be"):
        return _no_option(overrides)
    if match := re.match(r"Could not (?:override|delete from config\.) '(\S+?)'", text):
        return f"{match[1]}: {_instead(match[1], overrides, given)}"
    if value := re.match(r"Ambiguous value for argument '(.*?)' 1\.", text):
        name, _, values = value[1].partition("=")
        return f"{value[1]}: add -m to run each value, or write a list: {name}=[{values}]"
    cause = f": {str(error.__cause__).splitlines()[0]}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return f"{text}{cause}"


def count_values(override: Override) -> int:
    """How many values an override takes: 1 unless it is a sweep. A range is counted, not written out.

    Raises:
        ConfigError: If it takes none, or holds a range that cannot be counted.
    """
    key, value = override.key_or_group[:80], override.value()
    if isinstance(value, ChoiceSweep):
        if any(isinstance(one, Sweep) for one in value.list):
            raise ConfigError(f"{key}: expected values, got a range among them: write each value, or one range alone")
        count = len(value.list)
    elif isinstance(value, RangeSweep):
        count = _length(key, value)
    else:
        return 1
    if not count:
        raise ConfigError(f"{key}: expected values, got a sweep over none: range(START,STOP) ends before STOP")
    return count


def _length(key: str, sweep: RangeSweep) -> int:
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int) and step:
        return max(0, -((start - stop) // step))
    try:
        start, stop, step = (float(end) for end in (start, stop, step))  # type: ignore[arg-type]  # None: TypeError
        if math.isfinite(start) and start + step != start and stop - step != stop:  # else it would stand still
            return math.ceil(max(0.0, (stop - start) / step))
    except (TypeError, ValueError, OverflowError):
        pass
    raise ConfigError(f"{key}: expected range(START,STOP,STEP) with numbers that STEP changes: write the values")


def _parsed(overrides: list[str]) -> list[Override]:
    """The overrides of a sweep.

    Raises:
        ConfigError: If it has no run, or too many to compose them all.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    if math.prod(map(count_values, parsed)) > _MOST:
        raise ConfigError(f"expected a sweep of at most {_MOST:,} runs, got more: sweep over less")
    return parsed


def each_run(overrides: list[str], sweeps: bool) -> list[list[str]]:
    """Overrides of runs that try each value of a sweep once, with the first value of every other swept key."""
    if not sweeps:
        return [overrides]
    parsed = _parsed(overrides)
    tries = {i: list(o.sweep_string_iterator()) for i, o in enumerate(parsed) if o.is_sweep_override()}
    first = list(overrides)
    for i, values in tries.items():
        first[i] = f"{parsed[i].get_key_element()}={values[0]}"
    jobs = [first]
    for i, values in tries.items():
        for value in values[1:]:
            jobs.append([*first[:i], f"{parsed[i].get_key_element()}={value}", *first[i + 1 :]])
    return jobs


def all_runs(overrides: list[str], sweeps: bool) -> list[list[str]]:
    """Overrides of all runs of a sweep: each combination of the values of swept keys, as Hydra's sweeper makes them."""
    if not sweeps:
        return [overrides]
    (runs,) = BasicSweeper.split_arguments(_parsed(overrides), None)
    return runs

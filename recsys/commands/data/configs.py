"""A data configuration by name or path, without a run."""

from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys.config.options import CONF, know_own_options, search_path
from recsys.errors import ConfigError
from recsys.files import Json

__all__ = ["load_config"]


def load_config(name: str, folder: Path | None = None) -> Json:
    """Read a configuration as `recsys run data=NAME` would.

    Args:
        name: A YAML file, or the name of `data/NAME.yaml` in the folder, or of a packaged option.
        folder: The folder that holds `data/`; the current folder by default.

    Raises:
        ConfigError: If there is none, or it does not resolve.
    """
    folder = folder or Path.cwd()
    file = Path(name) if name.endswith((".yaml", ".yml")) else folder / "data" / f"{name}.yaml"
    try:
        if file.is_file():
            config = _read(file)
            if "defaults" in config:
                config = _composed(file.stem, file.resolve().parent.parent)
        elif name.endswith((".yaml", ".yml")):
            raise ConfigError(f"expected a configuration at {name}, found none: check the path")
        else:
            config = _composed(name, folder)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigError(f"data {name!r}: no value for {', '.join(missing)}: set it in its file")
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"data {name!r}: {reason}: name a YAML file, data/NAME.yaml or an option") from error
    if not isinstance(plain, dict) or not plain.get("source"):
        raise ConfigError(f"{file}: expected a data configuration with a source: let `recsys data guess` write one")
    return {str(k): v for k, v in plain.items()}


def _read(file: Path) -> DictConfig:
    try:
        config = OmegaConf.load(file)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        mend = "mend it, or let `recsys data guess` write one"
        raise ConfigError(f"{file}: expected YAML, got {line}{reason}: {mend}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file}: expected a mapping of keys, got a list: let `recsys data guess` write one")
    return config


def _composed(name: str, folder: Path) -> Any:
    options = [search_path(folder)] if (folder / "data").is_dir() else []
    know_own_options()
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("config", [f"data={name}", *options]).data

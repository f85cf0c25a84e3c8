"""Where the options of a run are: the packaged ones, and those of the user's current folder."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource

from recsys.errors import ConfigError

__all__ = ["CONF", "know_own_options", "own_options", "packaged_targets", "present_name", "search_path"]

_ROOT = Path(__file__).parents[2]
CONF = next(p for p in (_ROOT / "pipelines" / "conf", _ROOT / "conf") if p.is_dir())  # in a wheel, in a checkout
_GROUPS = frozenset(g.name for g in CONF.iterdir() if g.is_dir())


@cache
def packaged_targets() -> frozenset[str]:
    """Every `_target_` of a packaged option: what a configuration may call without being trusted."""
    per_file = (re.findall(r"^\s*_target_:\s*([\w.]+)", f.read_text(), re.MULTILINE) for f in CONF.glob("*/*.yaml"))
    return frozenset(target for targets in per_file for target in targets)


def present_name(target: str) -> str:
    """The present name of a target of a packaged option whose module has moved inside recsys; else the name itself.

    A module that moves keeps its own name and that of its function: `recsys.data.scan.scan` is
    `recsys.data.sources.scan.scan` now.
    """
    if not target.startswith("recsys.") or target in packaged_targets():
        return target
    end = "." + ".".join(target.split(".")[-2:])
    moved = [t for t in packaged_targets() if t.endswith(end)]
    return moved[0] if len(moved) == 1 else target


class _OwnOptions(FileConfigSource):
    """A folder's groups that recsys knows. Other folders are not groups: `runs/` has nothing to do with `runs=…`."""

    @staticmethod
    def scheme() -> str:
        """The prefix of its addresses."""
        return "own"

    def available(self) -> bool:
        """Whether the folder exists."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether it is a known group or a folder inside one."""
        return config_path.split("/")[0] in _GROUPS and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether it is an option of a known group."""
        return "/" in config_path and config_path.split("/")[0] in _GROUPS and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The content of a group; empty for a folder that is not a group."""
        return super().list(config_path, results_filter) if self.is_group(config_path) else []


def know_own_options() -> None:
    """Let Hydra read addresses `own://FOLDER`, in this process: also those that another process has written."""
    plugins = Plugins.instance()
    if _OwnOptions not in plugins.discover(ConfigSource):
        plugins.register(_OwnOptions)


def search_path(folder: Path, scheme: str = "own") -> str:
    """The Hydra override that adds a folder's options to the packaged ones.

    Args:
        folder: Folder of options, with a folder for each group.
        scheme: `own` exposes only the groups that recsys knows, `file` every folder.
    """
    quoted = str(folder.absolute()).replace("\\", "\\\\").replace("'", r"\'")
    return f"hydra.searchpath=['{scheme}://{quoted}']"


def own_options(folder: Path) -> list[str]:
    """The override that adds the options that a folder holds (`data/shop.yaml`, `model/mine.yaml` …).

    Hydra takes the first option of a name on its path, on which the packaged options come first. An option
    in the folder with a packaged name would be ignored silently, so that it is refused.

    Args:
        folder: The user's current folder.

    Returns:
        One override, or none if the folder has no options.

    Raises:
        ConfigError: If the folder has an option of a packaged name.
    """
    if folder == CONF:
        return []
    options: Sequence[Path] = [f for g in sorted(_GROUPS) for f in sorted((folder / g).glob("*.yaml"))]
    for file in options:
        if (CONF / file.parent.name / file.name).exists():
            raise ConfigError(
                f"{file.parent.name}/{file.name} has the name of a packaged option: rename it, for example "
                f"{file.parent.name}/my_{file.name}"
            )
    return [search_path(folder)] if options else []

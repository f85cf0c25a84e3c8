"""A run: one file a stage, and run.py that calls them in order and tells MLflow.

Here: where a run's options are, the packaged and the user's own.
"""

from collections.abc import Sequence
from pathlib import Path

from recsys.errors import ConfigError

__all__ = ["CONF", "own_options"]

_HERE = Path(__file__).parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"  # in a wheel, in a checkout


def own_options(arguments: Sequence[str], folder: Path) -> list[str]:
    """Hydra's flag that adds the options a folder holds (`data/shop.yaml`, `model/mine.yaml` …).

    An option of the same name as a packaged one takes its place: the folder is searched first.

    Args:
        arguments: The command line; a folder named there stands alone.
        folder: Where the user stands.

    Raises:
        ConfigError: If the folder would replace the configuration of the run itself.
    """
    if any(a.startswith(("--config-dir", "-cd", "--config-path", "-cp")) for a in arguments) or folder == CONF:
        return []
    groups = [g.name for g in CONF.iterdir() if g.is_dir()]
    if not any(any((folder / g).glob("*.yaml")) for g in groups):
        return []
    if (folder / "config.yaml").exists():
        raise ConfigError(
            f"{folder / 'config.yaml'} would replace the configuration of every run: rename it, or keep your "
            "options in another folder and give it as --config-dir FOLDER"
        )
    return ["--config-dir", str(folder)]

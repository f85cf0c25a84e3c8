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

    Hydra takes the first of a name on its path, and the packaged options stand before this folder: a
    name that both have would silently be the packaged one, so it is refused.

    Args:
        arguments: The command line; a folder named there stands alone.
        folder: Where the user stands.

    Raises:
        ConfigError: If the folder has an option of a packaged name.
    """
    if any(a.startswith(("--config-dir", "-cd", "--config-path", "-cp")) for a in arguments) or folder == CONF:
        return []
    groups = [g.name for g in CONF.iterdir() if g.is_dir()]
    own = [f for g in groups for f in sorted((folder / g).glob("*.yaml"))]
    for file in own:
        if (CONF / file.parent.name / file.name).exists():
            raise ConfigError(
                f"{file.parent.name}/{file.name} has the name of a packaged option: rename it, for example "
                f"{file.parent.name}/my_{file.name}"
            )
    return ["--config-dir", str(folder)] if own else []

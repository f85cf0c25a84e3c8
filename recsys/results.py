"""What a run leaves for later runs and for people: run.json, and a result.json for it and for each stage.

Paths in these files are relative to the file's own folder, so that a folder of runs may be moved.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from recsys.files import read_json, write_json

__all__ = [
    "FIGURES",
    "NUMBER",
    "VERSION",
    "no_better_than_constant",
    "noted_overrides",
    "overrides",
    "prepared_folder",
    "read_begun",
    "read_made",
    "read_prepared",
    "read_result",
    "read_stage",
    "relative",
    "write_prepared",
]

NUMBER = (int, float)
FIGURES = {str: {"auc": NUMBER, "logloss": NUMBER, "ne": NUMBER}}  # of each model, in metrics.json of stage evaluate
_STAGE = {"bundle": (str, NoneType), "metrics": ({str: object}, NoneType), "mlflow_run_id": (str, NoneType)}
_RESULT = {
    "id": str,
    "name": str,
    "mlflow": {"uri": str, "run_id": (str, NoneType)},
    "stages": {str: {"folder": str, **_STAGE}},
}
_STAGE_RESULT = {
    **_STAGE,
    "seconds": NUMBER,
    "metrics": {str: NUMBER},
    "tags": {str: str},
    "params": {str: str},
    "history": [dict],
    "artifacts": [str],
}
_BEGUN = {"mark": str, "config": {str: object}, "overrides": ([str], NoneType)}
VERSION = 1  # of run.json, result.json and data.json; a reader reads its own version only
_MEND = "run it again with this recsys"


def relative(path: Path, folder: Path) -> str:
    """The path as seen from a folder, through `..` if it is not below."""
    return os.path.relpath(Path(path).resolve(), Path(folder).resolve())


def _absolute(path: str, folder: Path) -> str:
    return str((folder / path).resolve())


def read_result(path: Path) -> dict[str, Any]:
    """The result of a run, its paths made absolute.

    Args:
        path: Its result.json.

    Returns:
        id, name, seed, mlflow and stages: name → folder, seconds, metrics, mlflow_run_id and, of export,
        bundle and model_uri.

    Raises:
        DataError: If there is none, or it is damaged or of another version.
    """
    result = read_json(path, "the result of a run", _MEND, VERSION, _RESULT)
    paths = ("folder", "bundle")
    result["stages"] = {
        name: {k: _absolute(v, path.parent) if v and k in paths else v for k, v in stage.items()}
        for name, stage in result["stages"].items()
    }
    return result


def read_stage(folder: Path) -> dict[str, Any]:
    """The result.json of one stage, as it stands.

    Raises:
        DataError: If there is none, or it is damaged or of another version.
    """
    mend = "remove it, and resume the run to run the stage again"
    return read_json(folder / "result.json", "the result of a stage", mend, VERSION, _STAGE_RESULT)


def read_begun(folder: Path, mend: str = "begin a new run") -> dict[str, Any]:
    """The run.json of a run: its mark, its configuration and the overrides that it was begun with.

    Raises:
        DataError: If there is none, or it is damaged or of another version.
    """
    return read_json(folder / "run.json", "the settings of a run", mend, VERSION, _BEGUN)


def read_made(folder: Path, name: str, what: str, shape: Any) -> Any:
    """A file of JSON that a finished stage left.

    Args:
        folder: The stage's.
        name: Of the file.
        what: It holds, for messages.
        shape: As for `read_json`.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    mend = f"remove {folder / 'result.json'} and resume its run, which makes it again"
    return read_json(folder / name, what, mend, shape=shape)


def read_prepared(folder: Path, name: str, shape: Any) -> Any:
    """A file of JSON of prepared data; its shape is that of `read_json`.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    mend = f"remove {folder} and run stage prepare again"
    return read_json(folder / name, "a file of prepared data", mend, shape=shape)


def overrides(folder: Path) -> list[str] | None:
    """The overrides that a run was begun with; None if none was begun in the folder.

    Hydra notes those of the last attempt too, which may have been refused, or killed while they were written.

    Raises:
        DataError: If run.json is damaged or of another version.
    """
    return read_begun(folder)["overrides"] if (folder / "run.json").exists() else None


def noted_overrides(folder: Path) -> list[str] | None:
    """The overrides of the last attempt at a run, as Hydra noted them; None if it noted none."""
    from omegaconf import OmegaConf

    noted = folder / ".hydra" / "overrides.yaml"
    if not noted.is_file():
        return None
    found: Any = OmegaConf.to_container(OmegaConf.load(noted))  # as they were typed, not resolved
    return [str(o) for o in found] if isinstance(found, list) else None


def write_prepared(stage: Path, prepared: Path) -> Path:
    """Note in the folder of stage prepare where the prepared data is → the note."""
    return write_json(stage / "data.json", {"folder": relative(prepared, stage)}, VERSION)


def prepared_folder(stage: Path) -> Path:
    """Where the prepared data is that a stage prepare made or found.

    Args:
        stage: Its folder.

    Raises:
        DataError: If it noted none, or in another version.
    """
    note = read_json(stage / "data.json", "a note of where the prepared data is", _MEND, VERSION, {"folder": str})
    return (stage / note["folder"]).resolve()


def no_better_than_constant(models: Mapping[str, Mapping[str, float]]) -> str:
    """A sentence if no model beats the constant, which says the label rate to every row; else "".

    Args:
        models: Name → metrics, among them `ne` (logloss over that of the test rows' own label rate) and, if
            there are any, `recalibrated_ne`. The entry `constant`, if there is one, is the bar; else it is 1.
    """
    bar = models.get("constant", {}).get("ne", 1.0)
    found = [min(m["ne"], m.get("recalibrated_ne", m["ne"])) for n, m in models.items() if n != "constant"]
    best = min(found, default=0.0)
    if best < bar:
        return ""
    return (
        f"No model beats always saying the label rate: the best test logloss is {best / bar:.3f} times that. The "
        "columns tell nothing of the label, or there are too few rows to learn it from; see recsys data report."
    )

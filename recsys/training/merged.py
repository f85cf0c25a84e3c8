"""Several models on disk that score as one: merge.json, and a folder for each member."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recsys.files import write_json
from recsys.frame.ctr import CTR
from recsys.frame.merged import Merged
from recsys.results import read_as
from recsys.training import checkpoint
from recsys.training.device import CPU, Device

__all__ = ["VERSION", "Member", "load", "members", "save"]

VERSION = 1  # version of merge.json


@dataclass(frozen=True)
class Member:
    """A member of a merged model.

    Args:
        run: Id of the run that trained it.
        stage: Stage that wrote it.
        folder: Its folder inside that of the merged model.
    """

    run: str
    stage: str
    folder: str


@dataclass(frozen=True)
class _Note:
    members: list[Member]


def save(folder: Path, models: Mapping[str, Path]) -> Path:
    """Copy models, so that their runs may be removed → the path of merge.json.

    Args:
        folder: Folder of the merged model.
        models: Run → folder of the stage that wrote its model.
    """
    listed = [Member(run, place.name, str(i)) for i, (run, place) in enumerate(models.items())]
    for member, place in zip(listed, models.values(), strict=True):
        (folder / member.folder).mkdir(exist_ok=True)
        shutil.copyfile(place / "model.json", folder / member.folder / "model.json")
        shutil.copytree(place / checkpoint.WEIGHTS, folder / member.folder / checkpoint.WEIGHTS, dirs_exist_ok=True)
    return write_json(folder / "merge.json", {"members": [asdict(m) for m in listed]}, VERSION)


def members(folder: Path) -> list[Member]:
    """The members of the model in a folder; empty if the model is not merged.

    Raises:
        DataError: If merge.json is damaged or of another version.
    """
    path = folder / "merge.json"
    return read_as(path, _Note, "a merged model", "merge the runs again", VERSION).members if path.exists() else []


def load(folder: Path, device: Device = CPU) -> tuple[CTR | Merged, Mapping[str, Any]]:
    """The model in a folder, merged or not, in eval mode on a device; and its description for a bundle's card.

    Raises:
        DataError: If the folder holds no model, or one of another version.
    """
    listed = members(folder)
    if not listed:
        return checkpoint.load(folder, device)
    loaded = [checkpoint.load(folder / m.folder, device) for m in listed]
    spec = {"members": [{"run": m.run, "stage": m.stage, **s} for m, (_, s) in zip(listed, loaded, strict=True)]}
    return Merged([model for model, _ in loaded]).eval(), spec

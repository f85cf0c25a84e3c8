"""Cut the tables of a folder of plain tensors into other ranges of rows; memory holds a view of one range at a time."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from recsys.errors import DataError
from recsys.files import unfinished_folder
from recsys.training.tensors.manifest import DTYPES, MANIFEST, Manifest, Part
from recsys.training.tensors.read import TensorFolder
from recsys.training.tensors.write import Content, write_contents, write_file, write_manifest

__all__ = ["MODEL", "find_tensors", "rewrite"]

MODEL = "model"  # the folder of tensors of a trained model, beside its description
_NAMES = {name: dtype for dtype, name in DTYPES.items()}


def find_tensors(path: Path) -> Path:
    """The folder of tensors that a path means: itself, the model of a stage's folder, or the newest checkpoint.

    Raises:
        DataError: If there is none.
    """
    name = f"step-{'[0-9]' * 12}"
    steps = [s for place in (path, path / "checkpoints") for s in sorted(place.glob(name), reverse=True)]
    for folder in (path, path / MODEL, *steps):
        if (folder / MANIFEST).exists():
            return folder
    raise DataError(
        f"expected a checkpoint or a trained model at {path}, found no {MANIFEST}: give a folder step-… of checkpoints "
        "or the folder of a stage that trained a model"
    )


def rewrite(source: Path, target: Path, files: int | None = None, rows: int | None = None) -> None:
    """Copy a folder of tensors, or a stage's model with its description, in other files.

    Args:
        source: What `find_tensors` takes.
        target: A new folder.
        files: Count of files; each has an equal share of the rows of every table.
        rows: Most rows of a table in a file, if `files` is None.

    Raises:
        DataError: If the source is damaged.
        FileExistsError: If the target exists.
    """
    place = find_tensors(source)
    read = TensorFolder(place, "give another, or make it again")
    with unfinished_folder(target) as new:
        folder = new
        if place == source / MODEL and (source / "model.json").exists():
            shutil.copyfile(source / "model.json", new / "model.json")
            folder = new / MODEL
            folder.mkdir()
        write_manifest(folder, _copied(read, folder, files, rows))


def _copied(source: TensorFolder, folder: Path, files: int | None, rows: int | None) -> Manifest:
    steps = {n: rows or max(1, -(-t.rows // (files or 1))) for n, t in source.tables.items()}
    count = max((-(-t.rows // steps[n]) for n, t in source.tables.items()), default=0)
    written = [write_file(folder, f"tables/0.{i}.safetensors", list(_range(source, steps, i))) for i in range(count)]
    dense = (_dense(source, p) for p in source.manifest.parts if not p.table)
    written.append(write_contents(folder, "dense.", dense))
    return sum(written, replace(source.manifest, files={}, parts=[]))


def _range(source: TensorFolder, steps: dict[str, int], number: int) -> Iterator[Content]:
    """The range of this number of each table that has so many."""
    for name, table in source.tables.items():
        start, stop = number * steps[name], min((number + 1) * steps[name], table.rows)
        if start >= stop:
            continue
        for kind in table.kinds:
            dtype, shape = table.described(kind, stop - start)
            part = Part("", f"{name}:{start}:{kind}", "", name, kind, start, stop)
            yield Content(part, _NAMES[dtype], shape, source.pieces(name, kind, start, stop))


def _dense(source: TensorFolder, part: Part) -> Content:
    x: Tensor = source.tensor(part)
    return Content(replace(part, checksum=""), x.dtype, tuple(x.shape), [x])

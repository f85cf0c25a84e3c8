"""Write a folder of plain tensors, piece by piece."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
import xxhash
from torch import Tensor

from recsys.errors import ConfigError
from recsys.files import write_json
from recsys.frame.contracts import TableRows
from recsys.training.tensors.manifest import (
    DTYPES,
    MANIFEST,
    VERSION,
    Manifest,
    Part,
    dtype_name,
    saved_table,
)

__all__ = [
    "FILE_BYTES",
    "Content",
    "raw_bytes",
    "without_tensors",
    "write_contents",
    "write_dense",
    "write_file",
    "write_manifest",
    "write_rows",
]

FILE_BYTES = 256 << 20  # most bytes of a file, unless one tensor is larger
_PART_BYTES = 16 << 20  # most bytes of a row range, which is read and checked as a whole


@dataclass(frozen=True)
class Content:
    """A tensor to write, in pieces along its first dimension: they need not be in memory at once.

    Args:
        part: What it is; its file and checksum come when it is written.
        dtype: Its dtype.
        shape: Its shape.
        pieces: Its content in order.
    """

    part: Part
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def raw_bytes(x: Tensor) -> memoryview:
    """The bytes of a tensor; not copied if it is contiguous memory of the CPU."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_file(folder: Path, file: str, contents: Sequence[Content]) -> Manifest:
    """Write one safetensors file; it is not synced to the disk."""
    contents = sorted(contents, key=lambda c: -c.dtype.itemsize)  # each tensor begins at a multiple of its item size
    header, end = dict[str, Any](), 0
    for c in contents:
        header[c.part.tensor] = {"dtype": DTYPES[c.dtype], "shape": c.shape, "data_offsets": [end, end + c.nbytes]}
        end += c.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            parts = [replace(c.part, file=file, checksum=_write_tensor(stream, c)) for c in contents]
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk: add the file's name
        raise
    return Manifest(files={file: 8 + len(text) + end}, parts=parts, world=0)


def _write_tensor(stream: BinaryIO, content: Content) -> str:
    check, size = xxhash.xxh3_128(), 0
    for piece in content.pieces:
        raw = raw_bytes(piece)
        check.update(raw)
        size += stream.write(raw)
    if size != content.nbytes:
        raise ValueError(f"{content.part.tensor}: expected {content.nbytes} bytes in its pieces, got {size}")
    return check.hexdigest()


def write_contents(folder: Path, stem: str, contents: Iterable[Content], most: int = FILE_BYTES) -> Manifest:
    """Write tensors in their order, a new file whenever the next one does not fit → what was written.

    Args:
        folder: The folder.
        stem: Path of the files inside it, without number and ending.
        contents: The tensors.
        most: Most bytes of a file, unless one tensor is larger.
    """
    waiting, size, files = list[Content](), 0, list[Manifest]()
    for content in contents:
        if waiting and size + content.nbytes > most:
            files.append(write_file(folder, f"{stem}{len(files)}.safetensors", waiting))
            waiting, size = [], 0
        waiting.append(content)
        size += content.nbytes
    if waiting:
        files.append(write_file(folder, f"{stem}{len(files)}.safetensors", waiting))
    return sum(files, Manifest(world=0))


def _ranges(rows: TableRows) -> Iterator[Content]:
    """The rows cut into parts, each state beside its weight."""
    tensors = {"weight": rows.weight_RD, **({} if rows.state is None else {"state": rows.state})}
    step = max(1, _PART_BYTES // (sum(x[:1].nbytes for x in tensors.values()) or 1))
    for first in range(0, len(rows.weight_RD), step):
        for kind, x in tensors.items():
            piece, start = x[first : first + step], rows.start + first
            part = Part("", f"{rows.table}:{start}:{kind}", "", rows.table, kind, start, start + len(piece))
            yield Content(part, x.dtype, tuple(piece.shape), [piece])


def write_rows(folder: Path, rank: int, held: Sequence[TableRows]) -> Manifest:
    """Write the rows that this process saves → what it wrote."""
    tables = {r.table: saved_table(r) for r in held}
    written = write_contents(folder, f"tables/{rank}.", (c for r in held if r.saved for c in _ranges(r)))
    return replace(written, tables=tables, world=1)


def without_tensors(rest: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Take the tensors out of a nested value → the value with names in their places, and the tensors by name.

    Tuples, and dicts whose keys are not texts, are marked, so that `TensorFolder.rest` gives back the same value.

    Args:
        rest: Dicts, lists and tuples of tensors, numbers, texts, booleans and None.

    Raises:
        ConfigError: If anything else is in it.
    """
    tensors: dict[str, Tensor] = {}
    return _without_tensors(rest, "", tensors), tensors


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    def inside(v: Any, key: object) -> Any:
        return _without_tensors(v, f"{name}/{key}" if name else str(key), tensors)

    match value:
        case Tensor():
            dtype_name(value, name)
            unique = name if name not in tensors else f"{name}#{len(tensors)}"
            tensors[unique] = value
            return {"(tensor)": unique}
        case Mapping() if all(isinstance(k, str) and not k.startswith("(") for k in value):
            return {k: inside(v, k) for k, v in value.items()}
        case Mapping():
            return {"(dict)": [[inside(k, "key"), inside(v, k)] for k, v in value.items()]}
        case list():
            return [inside(v, i) for i, v in enumerate(value)]
        case tuple():
            return {"(tuple)": [inside(v, i) for i, v in enumerate(value)]}
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise ConfigError(f"cannot save {name}: expected tensors, numbers and texts, got a {type(value).__name__}")


def write_dense(folder: Path, tensors: Mapping[str, Tensor]) -> Manifest:
    """Write tensors that are no tables → what was written."""
    contents = (Content(Part("", name, ""), x.dtype, tuple(x.shape), [x]) for name, x in tensors.items())
    return write_contents(folder, "dense.", contents)


def write_manifest(folder: Path, written: Manifest) -> None:
    """Write the manifest, which comes last: without it a folder is not one of tensors."""
    write_json(folder / MANIFEST, asdict(written), VERSION)

"""Read a folder of plain tensors: any range of rows, whichever process wrote it.

R rows of a range, D embedding dim.
"""

import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.frame.contracts import TableRows
from recsys.results import read_as
from recsys.training.tensors.manifest import DTYPES, MANIFEST, VERSION, Manifest, Part, saved_table
from recsys.training.tensors.write import raw_bytes

__all__ = ["TensorFolder"]


class TensorFolder:
    """A folder of plain tensors. What is read from it is checked against its manifest.

    Args:
        folder: The folder.
        mend: What the user can do if it is damaged.

    Raises:
        DataError: If there is no manifest, or it is damaged or of another version.
    """

    def __init__(self, folder: Path, mend: str):
        self.folder, self.mend = folder, mend
        self.manifest = read_as(folder / MANIFEST, Manifest, "the manifest of a folder of tensors", mend, VERSION)
        try:
            self._ranges = self.manifest.ranges()
        except ConfigError as error:
            raise self._damaged(f"whole tables, {error}") from error
        self.tables = self.manifest.tables
        self._checked: set[Part] = set()

    def _damaged(self, expected: str, file: str = MANIFEST) -> DataError:
        return DataError(f"{self.folder / file} is damaged: expected {expected}: {self.mend}")

    def tensor(self, part: Part) -> Tensor:
        """A part as a view of its file, which is mapped into memory; its checksum is verified at the first reading.

        Raises:
            DataError: If the file is missing or damaged.
        """
        file = part.file
        if ".." in Path(file).parts or Path(file).is_absolute() or "\0" in file:
            raise self._damaged(f"paths inside the folder, got {file!r}")
        try:
            status = (self.folder / file).stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                raise self._damaged("a regular file", file)
            if status.st_size != self.manifest.files.get(file):
                raise self._damaged(f"{self.manifest.files.get(file)} bytes, got {status.st_size}", file)
            with safe_open(self.folder / file, "pt") as stream:
                x: Tensor = stream.get_tensor(part.tensor)
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise DataError(f"{self.folder / file}: expected tensors, cannot read them: {why}: {self.mend}") from error
        if table := self.manifest.tables.get(part.table):
            wanted = table.described(part.kind, part.stop - part.start)
            if (got := (DTYPES.get(x.dtype, str(x.dtype)), tuple(x.shape))) != wanted:
                raise self._damaged(f"{part.tensor!r} of dtype and shape {wanted}, got {got}", file)
        if part not in self._checked:
            if xxhash.xxh3_128(raw_bytes(x)).hexdigest() != part.checksum:
                raise self._damaged(f"the bytes of {part.tensor!r} that its checksum was made from", file)
            self._checked.add(part)
        return x

    def rest(self) -> dict[str, Any]:
        """Everything but the tables, with copies of its tensors.

        Raises:
            DataError: If a file is damaged.
        """
        tensors = {p.tensor: self.tensor(p).clone() for p in self.manifest.parts if not p.table}
        try:
            return _with_tensors(self.manifest.rest, tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged("a tensor for each name") from error

    def pieces(self, table: str, kind: str, start: int, stop: int) -> Iterator[Tensor]:
        """Rows start … stop − 1 of a table's `weight` or `state`, in order, as views of a part each.

        Raises:
            DataError: If a file is damaged.
        """
        for part in self._ranges[table, kind]:
            first, last = max(start, part.start), min(stop, part.stop)
            if first < last:
                yield self.tensor(part)[first - part.start : last - part.start]

    def read_rows(self, held: Sequence[TableRows]) -> None:
        """Fill the rows that this process holds.

        Raises:
            DataError: If the tables in the folder have other sizes or kinds, or a file is damaged.
        """
        for rows in held:
            saved, wanted = self.tables.get(rows.table), saved_table(rows)
            if saved != wanted:
                raise DataError(
                    f"{self.folder / MANIFEST}: expected table {rows.table!r} as {wanted}, got {saved}: {self.mend}"
                )
            for kind, x in (("weight", rows.weight_RD), ("state", rows.state)):
                if x is None:
                    continue
                done, stop = 0, rows.start + len(rows.weight_RD)
                for piece in self.pieces(rows.table, kind, rows.start, stop):
                    x[done : done + len(piece)].copy_(piece)
                    done += len(piece)

    def verify(self) -> None:
        """Read everything once, and compare every checksum.

        Raises:
            DataError: If a file is damaged.
        """
        for part in self.manifest.parts:
            self.tensor(part)


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"(tensor)": name}:
            return tensors[name]
        case {"(dict)": pairs}:
            return {_with_tensors(k, tensors): _with_tensors(v, tensors) for k, v in pairs}
        case {"(tuple)": items}:
            return tuple(_with_tensors(v, tensors) for v in items)
        case dict():
            return {k: _with_tensors(v, tensors) for k, v in value.items()}
        case list():
            return [_with_tensors(v, tensors) for v in value]
        case _:
            return value

"""Write folders of plain tensors beside the training: copied or streamed, synced by a thread, then renamed."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import torch
from torch import Tensor

from recsys.data.ranks import Ranks
from recsys.errors import DataError, in_one_line
from recsys.files import remove_folder, remove_unfinished, sync_file, sync_folder, unfinished_folder, write_json
from recsys.frame.contracts import TableRows
from recsys.results import read_as
from recsys.training.tensors.manifest import Manifest
from recsys.training.tensors.write import without_tensors, write_dense, write_manifest, write_rows

__all__ = ["COPY_BYTES", "Checkpoints", "Snapshot", "Writer"]

COPY_BYTES = 256 << 20  # most bytes that are copied, so that training goes on while they are written
_COPY_SHARE = 0.1  # most of them as a share of available memory
_WAIT = 3600.0  # seconds that rank 0 waits for what other ranks write
_LAST_WAIT = 20.0  # the same once it is to end


@dataclass(frozen=True)
class Snapshot:
    """What a folder of tensors holds: views of a model and its optimisers, or copies of them.

    Args:
        rows: Rows of tables that this process holds.
        rest: Everything else, with names in the places of tensors.
        tensors: Those tensors, by name.
    """

    rows: Sequence[TableRows]
    rest: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, rows: Sequence[TableRows], rest: Mapping[str, Any]) -> "Snapshot":
        """Views of rows, and of the tensors in a nested value."""
        return cls(rows, *without_tensors(rest))

    @property
    def nbytes(self) -> int:
        """Bytes of what this process saves."""
        saved = [x for r in self.rows if r.saved for x in (r.weight_RD, r.state) if x is not None]
        return sum(x.nbytes for x in (*saved, *self.tensors.values()))

    def copy(self, only_saved: bool = False) -> "Snapshot":
        """A copy on the CPU of all of it, or without the rows that another process saves."""
        rows = [_copied(r if r.saved or not only_saved else _without_rows(r)) for r in self.rows]
        return Snapshot(rows, self.rest, {n: x.detach().to("cpu", copy=True) for n, x in self.tensors.items()})

    def fill(self, values: "Snapshot") -> None:
        """Set the tensors that this one has views of to those of another one, row for row."""
        with torch.no_grad():
            for rows, other in zip(self.rows, values.rows, strict=True):
                rows.weight_RD.copy_(other.weight_RD)
                if rows.state is not None and other.state is not None:
                    rows.state.copy_(other.state)
            for name, x in self.tensors.items():
                x.copy_(values.tensors[name])

    def write(self, folder: Path, ranks: Ranks) -> Manifest:
        """Write it → what was written; rank 0 writes what is no table."""
        written = write_rows(folder, ranks.rank, self.rows)
        if not ranks.first:
            return written
        return written + replace(write_dense(folder, self.tensors), rest=dict(self.rest))


def _copied(rows: TableRows) -> TableRows:
    weight_RD, state = rows.weight_RD.to("cpu", copy=True), rows.state
    return replace(rows, weight_RD=weight_RD, state=None if state is None else state.to("cpu", copy=True))


def _without_rows(rows: TableRows) -> TableRows:
    return replace(rows, weight_RD=rows.weight_RD[:0], state=None if rows.state is None else rows.state[:0])


class Writer:
    """Writes folders of tensors, one at a time. A folder gets its name when all ranks have written all of it.

    A snapshot that is small (256 MiB, and a tenth of the memory that is available) is copied, and a thread writes it.
    The caller waits while a larger one is written, so that memory does not grow; the thread syncs it to the disk.

    Args:
        ranks: The processes that write together; they share the folder.
    """

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self._thread: Thread | None = None
        self._until = math.inf  # when this rank no longer waits for what others write
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot, target: Path, then: Callable[[], None] = lambda: None) -> None:
        """Begin to write a folder, after the one before is finished.

        Args:
            snapshot: What to write.
            target: The folder; if it exists, it stays and the save fails.
            then: Called on rank 0 by the thread, when the folder has its name.

        Raises:
            OSError: If the disk is full, or the folder may not be written to; perhaps by the save before.
            ConfigError: If the ranks do not hold each row once.
        """
        self.wait()
        with ExitStack() as stack:
            folder = stack.enter_context(unfinished_folder(target)) if self.ranks.first else target
            folder = self.ranks.broadcast(folder)
            size = snapshot.nbytes
            if size <= min(COPY_BYTES, _COPY_SHARE * psutil.virtual_memory().available):
                snapshot, written = snapshot.copy(only_saved=True), None
            else:
                written = snapshot.write(folder, self.ranks)
            kept = stack.pop_all()
        self._until = time.monotonic() + _WAIT
        self._thread = Thread(target=self._finish, args=(kept, snapshot, folder, written, then), name="checkpoint")
        self._thread.start()

    def _finish(
        self, stack: ExitStack, snapshot: Snapshot, folder: Path, written: Manifest | None, then: Callable[[], None]
    ) -> None:
        try:
            with stack:
                try:
                    written = written or snapshot.write(folder, self.ranks)
                    for file in written.files:
                        sync_file(folder / file)
                    self._join(folder, written)
                except BaseException as error:
                    self._tell_failure(folder, error)
                    raise
            if self.ranks.first:
                then()
        except BaseException as error:  # the next save raises it
            self._error = error

    def _join(self, folder: Path, written: Manifest) -> None:
        """Rank 0 waits for the others' lists and writes the manifest; the others leave their list."""
        if not self.ranks.first:
            write_json(folder / f"rank{self.ranks.rank}.json", asdict(written))
            return
        shares = [written, *(self._share(folder, r) for r in range(1, self.ranks.world))]
        write_manifest(folder, Manifest.joined(shares))
        for r in range(1, self.ranks.world):
            (folder / f"rank{r}.json").unlink()

    def _tell_failure(self, folder: Path, error: BaseException) -> None:
        """Tell rank 0 why, which waits for the others' last file or word before it removes the folder."""
        if not self.ranks.first:
            self.ranks.tell(f"{folder.name} {self.ranks.rank}", _reason(error))
        for r in range(1, self.ranks.world) if self.ranks.first else ():
            with suppress(DataError):
                self._share(folder, r)

    def _share(self, folder: Path, rank: int) -> Manifest:
        """The list that another rank leaves."""
        path = folder / f"rank{rank}.json"
        while not path.exists():
            if reason := self.ranks.told(f"{folder.name} {rank}"):
                raise DataError(f"rank {rank}: {reason}")
            if time.monotonic() > self._until:
                raise DataError(f"{folder}: rank {rank} did not write its share: see what it says")
            time.sleep(0.01)
        return read_as(path, Manifest, "a list of files", "write the checkpoint again")

    def wait(self) -> None:
        """Wait until the last folder is finished on every rank.

        Raises:
            OSError: If the disk was full, or the folder could not be written to.
            RecsysError: If it failed otherwise, here or on another rank.
        """
        self.stop()
        error, self._error = self._error, None
        failed = [i for i, wrong in enumerate(self.ranks.gather(error is not None)) if wrong]
        if error:
            raise error
        if failed:
            raise DataError(f"rank {failed[0]} could not write its share of a checkpoint: see what it says")

    def stop(self, patience: float = math.inf) -> None:
        """Wait for this process's thread, without a word on how it ended.

        Args:
            patience: Seconds that rank 0 still waits for other ranks, which may be dead.
        """
        self._until = min(self._until, time.monotonic() + patience)
        if self._thread:
            self._thread.join()
        self._thread = None


def _reason(error: BaseException) -> str:
    """Why this rank could not write, for rank 0."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a checkpoint'}: {error.strerror}: name another place, or mend it"
    return in_one_line(error) or type(error).__name__


class Checkpoints:
    """The checkpoints of a training: a folder for each, by step. The best and the last ones are kept.

    Args:
        folder: The folder of all of them.
        keep: Count of last ones to keep, beside the best.
        ranks: The processes that train together.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks):
        self.folder, self._keep, self._writer = folder, keep, Writer(ranks)
        if ranks.first:
            folder.mkdir(exist_ok=True)
            remove_unfinished(folder)
        ranks.barrier()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, in order."""
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob(f"step-{'[0-9]' * 12}"))

    def place(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:012d}"

    def save(self, snapshot: Snapshot, step: int, best: int) -> None:
        """Begin to write a checkpoint; once it is there, those that are not kept are removed.

        Args:
            snapshot: Its content.
            step: Its step.
            best: Step of the best one.
        """
        self._writer.save(snapshot, self.place(step), lambda: self._remove_others({best}))

    def _remove_others(self, best: Collection[int]) -> None:
        steps = self.steps()
        for step in steps[: -self._keep]:
            if step not in best:
                remove_folder(self.place(step))
        sync_folder(self.folder)

    def wait(self) -> None:
        """Wait until all checkpoints are on the disk; `Writer.wait` says what it raises."""
        self._writer.wait()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.stop(_LAST_WAIT) if kind else self._writer.wait()

"""Write a split's shards and collect statistics of them. `recsys.data.shards` reads them.

B rows, L id columns, N numbers.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from recsys.data.preparation.encode import TableEncoder
from recsys.data.preparation.fields import FieldConfig
from recsys.data.preparation.split_settings import SPLITS
from recsys.data.preparation.spool import Spool
from recsys.events import Reporter, raise_if_cancelled
from recsys.features.encoders import MISSING, UNSEEN, AnyEncoder, Hash, Vocabulary
from recsys.features.schema import Schema
from recsys.progress import progress

__all__ = ["ShardWriter", "SplitFacts", "write_shards"]

_STEP = 1 << 14  # rows encoded at once: their columns stay in the processor's cache
_SYNCED = 16  # ranges after which written files go to the disk, while others are encoded


@dataclass(frozen=True)
class SplitFacts:
    """Statistics of one split in prepared.json.

    Args:
        rows: Count of rows.
        label_rate: Rate of the main label.
        fields: Field → its shares of missing, unseen and shared ids.
        label_rates: Other label → its rate over the rows in which it was observed.
    """

    rows: int
    label_rate: float
    fields: dict[str, dict[str, float]]
    label_rates: dict[str, float]


class ShardWriter:
    """Writes a split's arrays and collects statistics of them; any thread may append.

    Args:
        folder: The folder; it is created.
        schema: The fields.
        encoders: One for each field; they tell which ids are unseen or hashed.
        rows: Count of all rows to come.
    """

    def __init__(self, folder: Path, schema: Schema, encoders: Mapping[str, AnyEncoder], rows: int):
        folder.mkdir()
        self._folder, self._schema, self._rows = folder, schema, rows
        self._files: dict[str, tuple[Any, int]] = {}  # a file, and where its first row begins
        self._lock = Lock()
        self._encoders = encoders
        self._missing = {f.name: 0 for f in schema.sparse}
        self._unseen = {f.name: 0 for f in schema.sparse if isinstance(encoders[f.name], Vocabulary)}
        hashes = {f.name: e for f in schema.sparse if isinstance(e := encoders[f.name], Hash)}
        self._hit = {n: np.zeros(e.cardinality, bool) for n, e in hashes.items()}
        self._given = {f.name: rows for f in schema.sparse if f.max_length == 1}  # in lists, ids are counted later
        self._positives_T = np.zeros(len(schema.labels))
        self._observed_T = np.zeros(len(schema.labels))

    def append(self, first: int, ids_BL: np.ndarray, dense_BN: np.ndarray, rest: Mapping[str, np.ndarray]) -> None:
        """Write rows from row `first` on; `rest` holds the labels and other columns of one number a row."""
        for name, values in {"ids": ids_BL, "dense": dense_BN, **rest}.items():
            if name == "time" and self._folder.name != "valid":
                continue  # only rows of validation are ever sorted by time
            values = values.astype(np.int64) if name == "group" else values
            with self._lock:
                if name not in self._files:
                    self._files[name] = self._open(name, values)
            file, start = self._files[name]
            _write(file.fileno(), values, start + first * values[0].nbytes)
        with self._lock:
            self._count(ids_BL, rest["label"].reshape(len(ids_BL), -1))

    def _count(self, ids_BL: np.ndarray, label_BT: np.ndarray) -> None:
        self._positives_T += np.nansum(label_BT, 0, dtype=np.float64)
        self._observed_T += np.isfinite(label_BT).sum(0)
        for name, columns in self._schema.id_columns.items():
            ids = ids_BL[:, columns.start : columns.stop]
            self._missing[name] += int(np.count_nonzero(ids == MISSING))
            if len(columns) > 1:
                self._given[name] = self._given.get(name, 0) + int(np.count_nonzero(ids >= 0))
            if name in self._unseen:
                self._unseen[name] += int(np.count_nonzero(ids == UNSEEN))
            if name in self._hit:
                self._hit[name][ids[ids >= 0]] = True

    def _open(self, name: str, values: np.ndarray) -> tuple[Any, int]:
        path = self._folder / f"{name.replace('/', '.')}.npy"
        path.parent.mkdir(exist_ok=True)
        file = path.open("wb", buffering=0)
        header = {"descr": values.dtype.str, "fortran_order": False, "shape": (self._rows, *values.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        return file, file.tell()

    def sync(self) -> None:
        """Sync to disk what was written."""
        for file, _ in list(self._files.values()):
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files, whole or not."""
        for file, _ in self._files.values():
            file.close()

    def facts(self) -> SplitFacts:
        """What the split holds, once all of its rows are written."""
        shares: dict[str, dict[str, float]] = {}
        for f in self._schema.sparse:
            given = max(1, self._given[f.name])
            shares[f.name] = {"missing": self._missing[f.name] / given}
            if f.name in self._unseen:
                shares[f.name]["unseen"] = self._unseen[f.name] / given
            if f.name in self._hit:
                shares[f.name]["collision"] = _collisions(self._hit[f.name][1:])
        rates = dict(zip(self._schema.labels, (self._positives_T / self._observed_T).tolist(), strict=True))
        return SplitFacts(self._rows, rates.pop(self._schema.labels[0]), shares, rates)


def _write(file: int, values: np.ndarray, place: int) -> None:
    """Write an array's bytes at a place of a file."""
    whole: Any = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    done = 0
    while done < len(whole):
        done += os.pwrite(file, whole[done:], place + done)


def _collisions(hit: np.ndarray) -> float:
    """Estimated share of a hashed field's values that share their id with another.

    From the share of empty buckets: n = −m·ln(empty / m) values (Whang et al., A Linear-Time
    Probabilistic Counting Algorithm, 1990, equation 1), of which 1 − (1 − 1/m)^(n−1) meet another.
    """
    m, empty = len(hit), int((~hit).sum())
    n = m * np.log(m / empty) if empty else np.inf
    return float(1 - (1 - 1 / m) ** max(0.0, n - 1))


def write_shards(
    spool: Spool,
    code_B: np.ndarray,
    configs: Sequence[FieldConfig],
    schema: Schema,
    encoders: Mapping[str, AnyEncoder],
    folder: Path,
    reporter: Reporter,
) -> dict[str, SplitFacts]:
    """Second pass: encode every range of rows and write it into the files of the splits, on two threads.

    Args:
        spool: The first pass, past-only columns included.
        code_B: The split of every row.
        configs: The fields' entries.
        schema: The fields.
        encoders: One for each field.
        folder: Gets a folder for each split.
        reporter: Can stop it after each range.
    """
    encode = TableEncoder(spool, configs, schema, encoders)
    counts_RS = np.array(
        [
            [np.count_nonzero(code_B[a : a + _STEP] == s) for s in range(len(SPLITS))]
            for a in range(0, spool.rows, _STEP)
        ]
    )
    first_RS = np.cumsum(counts_RS, 0) - counts_RS
    extras = {"weight": "weight", "group": f"codes/{schema.group}", "time": f"us/{schema.time}"}
    extras = {k: v for k, v in extras.items() if v in spool}
    labels = ["label", *(f"label/{name}" for name in schema.other_labels)]

    def write(number: int) -> None:
        """Write one range of rows."""
        start, stop = number * _STEP, min(spool.rows, (number + 1) * _STEP)
        ids_BL, dense_BN = encode(start, stop)
        label_BT = np.stack([spool.read(c, start, stop) for c in labels], 1)
        rest = {k: spool.read(v, start, stop) for k, v in extras.items()}
        rest["label"] = label_BT if len(labels) > 1 else label_BT[:, 0]
        for code, (writer, first) in enumerate(zip(writers, first_RS[number].tolist(), strict=True)):
            rows = np.flatnonzero(code_B[start:stop] == code)
            if len(rows):
                writer.append(
                    first, _taken(ids_BL, rows), _taken(dense_BN, rows), {k: v[rows] for k, v in rest.items()}
                )

    with progress() as bar, ExitStack() as stack:
        writers = [
            stack.enter_context(closing(ShardWriter(folder / n, schema, encoders, rows)))
            for n, rows in zip(SPLITS, counts_RS.sum(0).tolist(), strict=True)
        ]
        task = bar.add_task("write shards ", total=spool.rows)
        disk, synced = stack.enter_context(ThreadPoolExecutor(1)), []
        for number, _ in enumerate(stack.enter_context(closing(_ahead(write, range(len(first_RS))))), 1):
            if number % _SYNCED == 0:
                synced += [disk.submit(writer.sync) for writer in writers]
            bar.update(task, completed=min(spool.rows, number * _STEP))
            raise_if_cancelled(reporter)
        for each in synced:
            each.result()  # raises if the disk is full
        return {name: writer.facts() for name, writer in zip(SPLITS, writers, strict=True)}


def _taken(x_BL: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows of an array that is stored column by column, stored so too."""
    return (x_BL.T if len(rows) == len(x_BL) else x_BL.T.take(rows, 1)).T


def _ahead(work: Callable[[int], None], numbers: Iterable[int]) -> Generator[None]:
    """Yields after each piece of work, in order; two threads work on the next ones meanwhile."""
    with ThreadPoolExecutor(2) as pool:
        waiting: deque[Future[None]] = deque()
        for number in numbers:
            waiting.append(pool.submit(work, number))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

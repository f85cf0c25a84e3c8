"""Write a split's shards and collect statistics of them. `recsys.data.shards` reads them.

B rows, L id columns, N numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.preparation.spool import write_all
from recsys.features.encoders import MISSING, UNSEEN, AnyEncoder, Hash, Vocabulary
from recsys.features.schema import Schema

__all__ = ["ShardWriter", "SplitFacts"]


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
    """Writes a split's arrays in order, and collects statistics of them.

    Args:
        folder: The folder; it is created.
        schema: The fields.
        encoders: One for each field; they tell which ids are unseen or hashed.
        rows: Count of all rows to come.
    """

    def __init__(self, folder: Path, schema: Schema, encoders: Mapping[str, AnyEncoder], rows: int):
        folder.mkdir()
        self._folder, self._schema, self._rows = folder, schema, rows
        self._files: dict[str, Any] = {}
        self._encoders = encoders
        self._missing = {f.name: 0 for f in schema.sparse}
        self._unseen = {f.name: 0 for f in schema.sparse if isinstance(encoders[f.name], Vocabulary)}
        hashes = {f.name: e for f in schema.sparse if isinstance(e := encoders[f.name], Hash)}
        self._hit = {n: np.zeros(e.cardinality, bool) for n, e in hashes.items()}
        self._given = {f.name: rows for f in schema.sparse if f.max_length == 1}  # in lists, ids are counted later
        self._positives_T = np.zeros(len(schema.labels))
        self._observed_T = np.zeros(len(schema.labels))

    def append(self, ids_BL: np.ndarray, dense_BN: np.ndarray, rest: Mapping[str, np.ndarray]) -> None:
        """Write the next rows; `rest` holds the labels and other columns of one number a row."""
        for name, values in {"ids": ids_BL, "dense": dense_BN, **rest}.items():
            if name == "time" and self._folder.name != "valid":
                continue  # only rows of validation are ever sorted by time
            values = values.astype(np.int64) if name == "group" else values
            if name not in self._files:
                self._files[name] = self._open(name, values)
            write_all(self._files[name], np.ascontiguousarray(values))
        label_BT = rest["label"].reshape(len(ids_BL), -1)
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

    def _open(self, name: str, values: np.ndarray) -> Any:
        path = self._folder / f"{name.replace('/', '.')}.npy"
        path.parent.mkdir(exist_ok=True)
        file = path.open("wb", buffering=0)
        header = {"descr": values.dtype.str, "fortran_order": False, "shape": (self._rows, *values.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        return file

    def close(self) -> None:
        """Close the files, whole or not."""
        for file in self._files.values():
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


def _collisions(hit: np.ndarray) -> float:
    """Estimated share of a hashed field's values that share their id with another.

    From the share of empty buckets: n = −m·ln(empty / m) values (Whang et al., A Linear-Time
    Probabilistic Counting Algorithm, 1990, equation 1), of which 1 − (1 − 1/m)^(n−1) meet another.
    """
    m, empty = len(hit), int((~hit).sum())
    n = m * np.log(m / empty) if empty else np.inf
    return float(1 - (1 - 1 / m) ** max(0.0, n - 1))

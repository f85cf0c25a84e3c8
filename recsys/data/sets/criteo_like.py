"""Criteo-like sets of any size with a planted truth, in every format that `scan` reads."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.orc
import pyarrow.parquet

from recsys.errors import ConfigError, DataError
from recsys.evaluation.metrics import sigmoid
from recsys.files import followed, whole, write_json
from recsys.progress import progress

__all__ = ["AVAZU_CATS", "AVAZU_INTS", "FORMATS", "SETS", "Planted", "cardinalities", "largest_column", "write"]

FORMATS = ("csv", "tsv", "parquet", "orc", "feather", "jsonl", "libsvm", "criteo", "avazu")
CHUNK = 1 << 17  # rows made at once
PILOT = 200_000  # rows on which the label rate is set and the Bayes AUC computed
RATE = 0.25
SETS = {"S": 1_000_000, "L": 10_000_000}  # sets for training speed: ids of all 26 categorical columns together
AVAZU_INTS = ["C1", "banner_pos", "device_type", "device_conn_type", *(f"C{i}" for i in range(14, 22))]
AVAZU_CATS = [
    "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id", "device_ip",
    "device_model",
]  # fmt: skip


@dataclass(frozen=True)
class Chunk:
    """Some rows: int_BI and cat_BC hold −1 if a cell is missing; probability_B is the true probability."""

    int_BI: np.ndarray
    cat_BC: np.ndarray
    probability_B: np.ndarray
    label_B: np.ndarray


class Planted:
    """A logistic model over some of the columns: logit = bias + Σ w·z(int) + Σ w·e[id].

    z = log(1 + x) − 1 of an integer x (a standard normal, cut at −1 and rounded down with x); e holds an
    effect for each id, standard normal. Two in three columns are noise: their weight is 0. A missing cell adds 0.
    Ids follow a power law: p(id) ∝ 1 / (1 + id).

    Args:
        ints: Count of integer columns.
        cats: Count of categorical columns.
        cardinality: Distinct ids of the largest categorical column; the others have 10 or more, on a log scale.
        seed: Fixes the truth and every row.
    """

    def __init__(self, ints: int, cats: int, cardinality: int, seed: int) -> None:
        if min(ints, cats) < 0 or ints + cats < 1 or cardinality < 10 or seed < 0:
            raise ConfigError(
                f"expected ints and cats of at least 0, one column, a cardinality of at least 10 and a seed of at "
                f"least 0, got {ints}, {cats}, {cardinality} and {seed}: give such numbers"
            )
        self._seed = seed
        r = np.random.default_rng([seed, 0])
        self.cardinality_C = cardinalities(cardinality, cats)
        self.weight_I = np.where(np.arange(ints) % 3 == 0, np.linspace(0.6, 0.2, ints), 0.0)
        self.weight_C = np.where(np.arange(cats) % 3 == 0, np.linspace(0.7, 0.2, cats), 0.0)
        self.missing_I = r.permutation(np.linspace(0, 0.4, ints))
        self.missing_C = r.permutation(np.linspace(0, 0.4, cats) * (np.arange(cats) % 2))
        self.effects = [r.normal(size=n).astype(np.float32) for n in self.cardinality_C]
        self.bias = 0.0
        pilot_B = self.chunk(-1, PILOT).probability_B
        logit_B = np.log(pilot_B / (1 - pilot_B))
        self.bias = _bias(logit_B)
        self.bayes_auc = expected_auc(sigmoid(logit_B + self.bias))

    def chunk(self, number: int, rows: int) -> Chunk:
        """The rows of a chunk, numbered from −1; the same number and count give the same rows."""
        r = np.random.default_rng([self._seed, 1, number + 1])
        logit_B = np.full(rows, self.bias, np.float32)
        int_BI = np.empty((rows, len(self.weight_I)), np.int32, order="F")
        for i, (weight, missing) in enumerate(zip(self.weight_I, self.missing_I, strict=True)):
            x_B = np.floor(np.expm1(np.maximum(r.standard_normal(rows, np.float32) + 1, 0))).astype(np.int32)
            gap_B = r.random(rows, np.float32) < missing
            if weight:
                logit_B += np.where(gap_B, 0, np.float32(weight) * (np.log1p(x_B, dtype=np.float32) - 1))
            int_BI[:, i] = np.where(gap_B, -1, x_B)
        cat_BC = np.empty((rows, len(self.weight_C)), np.int32, order="F")
        for i, (weight, missing) in enumerate(zip(self.weight_C, self.missing_C, strict=True)):
            n = self.cardinality_C[i]
            id_B = np.exp(r.random(rows, np.float32) * np.float32(np.log(n + 1))).astype(np.int32) - 1
            id_B = np.minimum(id_B, n - 1)
            gap_B = r.random(rows, np.float32) < missing if missing else np.zeros(rows, bool)
            if weight:
                logit_B += np.where(gap_B, 0, np.float32(weight) * self.effects[i][id_B])
            cat_BC[:, i] = np.where(gap_B, -1, id_B)
        probability_B = sigmoid(logit_B)
        return Chunk(int_BI, cat_BC, probability_B, (r.random(rows) < probability_B).astype(np.int8))

    def truth(self, int_names: Sequence[str], cat_names: Sequence[str]) -> dict[str, object]:
        """What is planted: weight of each column, bias, label rate and the AUC that no model can beat."""
        weights = dict(zip([*int_names, *cat_names], [*self.weight_I.tolist(), *self.weight_C.tolist()], strict=True))
        return {
            "columns": {n: {"weight": round(w, 6), "matters": w > 0} for n, w in weights.items()},
            "bias": self.bias,
            "label_rate": RATE,
            "bayes_auc": self.bayes_auc,
            "bayes_auc_rows": PILOT,
        }


def cardinalities(largest: int, cats: int) -> np.ndarray:
    """Distinct ids of each categorical column: on a log scale from 10 to the largest."""
    return np.geomspace(10, largest, cats).round().astype(int)


def largest_column(ids: int, cats: int) -> int:
    """Distinct ids of the largest of some categorical columns that have at most so many ids in all.

    Args:
        ids: At least 10 a column.
        cats: At least 1.
    """
    low, high = 10, ids
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cardinalities(middle, cats).sum() <= ids else (low, middle - 1)
    return low


def _bias(logit_B: np.ndarray) -> float:
    """The constant with which the mean probability is `RATE`."""
    low, high = -20.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(logit_B + middle).mean() < RATE else (low, middle)
    return low


def expected_auc(probability_B: np.ndarray) -> float:
    """AUC of the true probabilities, in expectation over labels: Σ_i p_i (Σ_{j<i} q_j + q_i / 2) / (Σp Σq)."""
    p_B = np.sort(probability_B)
    q_B = 1 - p_B
    below_B = np.cumsum(q_B) - q_B / 2
    return float((p_B * below_B).sum() / (p_B.sum() * q_B.sum()))


def _words(cardinality: int, column: int) -> pa.Array:
    """A word of 8 hexadecimal digits for each id, all distinct, since an odd multiplier permutes 32-bit numbers."""
    code = (np.arange(1, cardinality + 1, dtype=np.uint64) * 2654435761 + column * 40503) % (1 << 32)
    return pa.array([f"{c:08x}" for c in code.tolist()])


def _column(x_B: np.ndarray) -> pa.Array:
    return pa.array(x_B, mask=x_B < 0)


class _Tables:
    """Chunks → tables with the format's columns; without `words`, ids are the numbers that they are."""

    def __init__(self, planted: Planted, format: str, words: bool) -> None:
        ints, cats = len(planted.weight_I), len(planted.weight_C)
        avazu = format == "avazu"
        self.ints = AVAZU_INTS if avazu else [f"i{i + 1}" for i in range(ints)]
        self.cats = AVAZU_CATS if avazu else [f"c{i + 1}" for i in range(cats)]
        self._words = [_words(int(n), i) for i, n in enumerate(planted.cardinality_C)] if words else None
        self._format = format

    def table(self, chunk: Chunk, start: int, rows: int) -> pa.Table:
        """The chunk as a table; it begins at row `start` of `rows`."""
        columns: dict[str, pa.Array] = {"label": pa.array(chunk.label_B)}
        if self._format == "avazu":
            number_B = np.arange(start, start + len(chunk.label_B))
            hour_B = (np.datetime64("2014-10-21T00", "h") + number_B * 240 // rows).astype("datetime64[s]")
            hour = pa.array(hour_B).cast(pa.timestamp("s"))
            columns = {"id": pa.array(number_B + 10**19 // 2), "click": columns["label"]}
            columns["hour"] = pa.compute.strftime(hour, "%y%m%d%H")
        for i, name in enumerate(self.ints):
            columns[name] = _column(chunk.int_BI[:, i])
        for i, name in enumerate(self.cats):
            columns[name] = _column(chunk.cat_BC[:, i])
            if self._words is not None:
                coded = pa.DictionaryArray.from_arrays(columns[name], self._words[i])
                columns[name] = (
                    coded if self._format == "parquet" else coded.dictionary_decode()
                )  # Parquet stores it faster
        return pa.table(columns)


def _svm(out: BinaryIO, chunk: Chunk, cardinality_C: np.ndarray) -> None:
    """Write libsvm: integers have the indices from 1, ids of categorical columns the following ones, with value 1."""
    ints = chunk.int_BI.shape[1]
    first_C = ints + 1 + np.concatenate([[0], np.cumsum(cardinality_C)[:-1]]).astype(int)
    columns = [np.char.mod("%d", chunk.label_B)]
    for i in range(ints):
        x_B = chunk.int_BI[:, i]
        columns.append(np.where(x_B < 0, "", np.char.mod(f" {i + 1}:%d", x_B)))
    for i, first in enumerate(first_C[: chunk.cat_BC.shape[1]]):
        id_B = chunk.cat_BC[:, i]
        columns.append(np.where(id_B < 0, "", np.char.mod(" %d:1", id_B + first)))
    out.write("".join("".join(row) + "\n" for row in zip(*(c.tolist() for c in columns), strict=True)).encode())


@contextmanager
def _writer(out: BinaryIO, format: str, schema: pa.Schema) -> Generator[Callable[[pa.Table], object]]:
    with ExitStack() as stack:
        if format == "parquet":
            plain = pa.schema([(f.name, f.type) for f in schema])
            yield stack.enter_context(pyarrow.parquet.ParquetWriter(out, plain, store_schema=False)).write_table
        elif format == "orc":
            yield stack.enter_context(pyarrow.orc.ORCWriter(out, compression="zstd")).write
        elif format == "feather":
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            yield stack.enter_context(pa.ipc.new_file(out, schema, options=options)).write_table
        elif format == "jsonl":
            yield lambda table: pl.from_arrow(table).write_ndjson(out)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            options = pyarrow.csv.WriteOptions(
                include_header=format != "criteo",
                delimiter="\t" if format in ("tsv", "criteo") else ",",
                quoting_style="none",
            )
            yield stack.enter_context(pyarrow.csv.CSVWriter(out, schema, write_options=options)).write_table


def write(out: Path, planted: Planted, rows: int, format: str, words: bool = True) -> None:
    """Write a set, and what is planted in it to `<name>.truth.json` beside it; both appear whole or not at all.

    Args:
        out: The file.
        planted: The truth.
        rows: At least 1.
        format: One of `FORMATS`; criteo takes 13 + 26 columns, avazu 12 + 9.
        words: Whether an id is a word of 8 letters; else it is a whole number.

    Raises:
        DataError: If it cannot be written, for example to a full disk.
    """
    tables = _Tables(planted, format, words)
    beside = out.with_name(f"{out.name}.truth.json")
    schema = tables.table(planted.chunk(0, 1), 0, rows).schema
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}: give another place") from error
    try:
        with whole(followed(out), "wb") as file, progress() as bar:
            task = bar.add_task(f"write {out.name} ", total=rows)
            with ExitStack() as stack:
                put = None if format == "libsvm" else stack.enter_context(_writer(file, format, schema))
                for number, start in enumerate(range(0, rows, CHUNK)):
                    chunk = planted.chunk(number, min(CHUNK, rows - start))
                    if put is None:
                        _svm(file, chunk, planted.cardinality_C)
                    else:
                        put(tables.table(chunk, start, rows))
                    bar.advance(task, len(chunk.label_B))
        write_json(followed(beside), {"rows": rows, **planted.truth(tables.ints, tables.cats)})
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}: free space, or give another place") from error

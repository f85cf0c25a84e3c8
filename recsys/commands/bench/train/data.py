"""The data of `recsys bench train`: synthetic sets, prepared by `recsys run` as users do it.

S and L have 13 numbers and 26 fields with 1M and 10M ids in all. A field's table has a row for each id of the set,
whether or not a row of the file has it: ids are hashed into as many buckets as there are ids, which needs no list of
them. Some ids share a row then, for every library alike, since all read the same prepared rows. S-history is S with the
last 50 ids of the largest field.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from recsys.data.sets.criteo_like import SETS, Planted, cardinalities, largest_column, write
from recsys.errors import DataError
from recsys.files import Json, whole, write_text
from recsys.results import prepared_folder, read_result

__all__ = ["DATA", "config_of", "prepared", "recsys_run"]

DATA = (*SETS, "S-history")
_INTS, _CATS = 13, 26
_LENGTH = 50  # of a history
_MOST_HISTORIES = 200_000  # rows of S-history
_SHARES = [0.9, 0.05, 0.05]


def _largest(name: str, ids: int | None) -> int:
    return largest_column(ids or SETS[name.split("-")[0]], _CATS)


def config_of(name: str, path: Path, ids: int | None = None) -> Json:
    """The configuration `data` of a set.

    Args:
        name: One of `DATA`.
        path: Its file.
        ids: Ids of all fields together; by default the set's own.
    """
    counts = cardinalities(_largest(name, ids), _CATS)
    fields: Json = {f"c{i + 1}": {"encoding": "hash", "buckets": int(n)} for i, n in enumerate(counts)}
    if name.endswith("-history"):
        fields["recent"] = {"kind": "sequence", "table": f"c{_CATS}", "max_length": _LENGTH}
    fields |= {f"i{i + 1}": {"kind": "numeric", "encoding": "log"} for i in range(_INTS)}
    source = {"_target_": "recsys.data.sources.scan.scan", "path": str(path)}
    return {"name": f"bench-{name}", "source": source, "label": "label", "split": {"shares": _SHARES}, "fields": fields}


def _write_histories(path: Path, plain: Path) -> None:
    """Add a list of up to `_LENGTH` values of the last column to each of some rows."""
    table = pq.read_table(plain).slice(0, _MOST_HISTORIES)
    r = np.random.default_rng(0)
    length_B = r.integers(0, _LENGTH + 1, table.num_rows)
    offset = pa.array(np.concatenate([[0], np.cumsum(length_B)]).astype(np.int32))
    values = table[f"c{_CATS}"].combine_chunks().drop_null()
    values = values.take(pa.array(r.integers(0, len(values), int(length_B.sum()))))
    with whole(path, "wb") as file:
        pq.write_table(table.append_column("recent", pa.ListArray.from_arrays(offset, values)), file)


def recsys_run(folder: Path, name: str, stages: str, overrides: Sequence[str]) -> list[str]:
    """The command line of a run on a set of the folder."""
    where = ["--config-dir", str(folder / "conf"), f"data={name}", f"runs={folder / 'runs'}"]
    return [sys.executable, "-m", "recsys", "run", *where, f"stages=[{stages}]", *overrides]


def prepared(name: str, folder: Path, rows: int, ids: int | None = None) -> Path:
    """Write a set, unless it is there, and prepare it by `recsys run` → the folder of the prepared data.

    Args:
        name: One of `DATA`.
        folder: Where the set, its configuration and the runs are.
        rows: Rows of the file.
        ids: Ids of all fields together; by default the set's own.

    Raises:
        DataError: If the run fails.
    """
    base, size = name.split("-")[0], f"{rows}-{ids}" if ids else str(rows)
    path, plain = folder / f"{name}-{size}.parquet", folder / f"{base}-{size}.parquet"
    if not plain.exists():
        write(plain, Planted(_INTS, _CATS, _largest(name, ids), 0), rows, "parquet", words=False)
    if not path.exists():
        _write_histories(path, plain)
    options = folder / "conf" / "data"
    options.mkdir(parents=True, exist_ok=True)
    write_text(options / f"{name}.yaml", yaml.safe_dump(config_of(name, path.resolve(), ids), sort_keys=False))
    done = subprocess.run(recsys_run(folder, name, "prepare", []), capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"bench train: preparing set {name} failed: {done.stderr.strip().splitlines()[-1]}")
    return prepared_folder(read_result(Path(done.stdout.splitlines()[-1])).stages["prepare"].folder)

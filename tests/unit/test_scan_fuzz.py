"""Damaged files give rows or one clear line, never another exception, a crash or a hang."""

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest

from recsys.data.sources.scan import scan
from recsys.errors import DataError

POLICIES = ("stop", "skip", "quarantine")


def originals(folder: Path) -> dict[str, bytes]:
    """A small good file of every format."""
    rng = np.random.default_rng(0)
    n = 60
    table = pa.table(
        {
            "label": pa.array(rng.integers(0, 2, n)),
            "id": pa.array(rng.integers(0, 1 << 60, n), mask=rng.random(n) < 0.1),
            "x": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.1),
            "word": pa.array([['"q"', "ä", "two\nlines", "a,b", ""][i % 5] for i in range(n)]),
            "at": pa.array(rng.integers(0, 1 << 40, n), pa.timestamp("ms")),
        }
    )
    made = {}
    for name, write in {
        "csv": lambda f: pa.csv.write_csv(table, f),
        "tsv": lambda f: pa.csv.write_csv(table, f, pa.csv.WriteOptions(delimiter="\t")),
        "parquet": lambda f: pa.parquet.write_table(table, f, row_group_size=25),
        "orc": lambda f: pa.orc.write_table(table, f),
        "feather": lambda f: pa.feather.write_feather(table, f, chunksize=25),
    }.items():
        write(str(folder / "good"))
        made[name] = (folder / "good").read_bytes()
    rows = [{**r, "at": str(r["at"]), "tags": [1, 2][: r["label"]]} for r in table.to_pylist()]
    made["jsonl"] = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    made["libsvm"] = b"".join(b"%d 1:0.5 %d:1 # c\n" % (i % 2, i + 2) for i in range(n))
    made["libffm"] = b"".join(b"%d 0:1:0.5 1:%d:1\n" % (i % 2, i + 2) for i in range(n))
    made["criteo"] = b"".join(b"\t".join([b"1", *[b"%d" % i] * 13, *[b"05db9164"] * 26]) + b"\n" for i in range(n))
    made["avazu"] = b"id,click,hour,C1\n" + b"".join(b"%d,1,141021%02d,10\n" % (10**19 + i, i % 24) for i in range(n))
    return made


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four blows."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, kind = int(rng.integers(0, len(data) + 1)), rng.integers(0, 8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            odd = [b"\0", b'"', b"\n", b"\r", b",", b"\t", b"\xff", b"\xef\xbb\xbf", b"1e999", b"[", b"}", b"9" * 25]
            data[at:at] = odd[rng.integers(0, len(odd))]
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 30))]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            lines = bytes(data).split(b"\n")
            lines.insert(int(rng.integers(0, len(lines) + 1)), lines[rng.integers(0, len(lines))])
            data = bytearray(b"\n".join(lines))
        elif kind == 5:
            old, new = (bytes([b",\t;:\n"[i]]) for i in rng.integers(0, 5, 2))
            data[at : at + 200] = data[at : at + 200].replace(old, new)
        elif kind == 6:
            data[at : at + 8] = rng.bytes(8)
        else:
            data[at:at] = data[at // 2 : at // 2 + 50]
    return bytes(data)


def fuzz(folder: Path, count: int, seed: int) -> dict[str, list[int]]:
    """→ format: how many files were read, and how many refused."""
    made, rng = originals(folder), np.random.default_rng(seed)
    seen = {name: [0, 0] for name in made}
    for i, name in zip(range(count), itertools.cycle(made), strict=False):
        content = mutated(made[name], rng)
        file = folder / f"bad.{name}"
        file.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                policy = POLICIES[(i // len(made)) % len(POLICIES)]
                table = scan(str(file), on_bad_rows=policy, quarantine=str(folder / "q")).read()
            table.validate(full=True)
            table.to_pylist()
            seen[name][0] += 1
        except DataError as error:
            assert "\n" not in str(error), (name, content)
            seen[name][1] += 1
        except BaseException as error:
            kept = folder / f"failed.{name}"
            kept.write_bytes(content)
            raise AssertionError(f"{kept}: {error!r}") from error
    return seen


def test_300_damaged_files(tmp_path: Path) -> None:
    seen = fuzz(tmp_path, 300, 0)
    assert all(read and refused for read, refused in seen.values()), seen  # the blows do both


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    fuzz(tmp_path, 10_000, 1)

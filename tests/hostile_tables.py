"""Two hundred tables that nobody should have: name → how to make it in a folder."""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet

__all__ = ["tables"]

ROWS = 300
Make = Callable[[Path], None]

NAMES = [
    "",
    " ",
    "a\nb",
    "a\rb",
    "a\tb",
    "a,b",
    'a"b',
    "a\x00b",
    "a\x1b[2Jb",
    "\x85",
    "\u2028",
    "\ufeff",
    "L" * 5000,
    "${x}",
    r"\${oc.env:HOSTILE}",
    "${oc.env:HOSTILE}",
    "???",
    "[/b]",
    ":x:",
    "<script>alert(1)</script>",
    "@package a",
    "_target_",
    "../../x",
    "/etc/x",
    "\U0001f600",
    "nan",
    "null",
]
NUMBERS: dict[str, Any] = {
    "1e200": [1e200, 1.0, 2.0],
    "1e308": [1.7e308, -1.7e308, 0.0],
    "infinite": [np.inf, -np.inf, 1.0],
    "nan": [np.nan] * 3,
    "tiny": [5e-324, 1e-320, 0.0],
    "near 2^63": [2**63 - 1, 2**63 - 2, 2**63 - 3],
    "near -2^63": [-(2**63), 1 - 2**63, 2 - 2**63],
    "unsigned": np.array([2**64 - 1, 2**63, 5], np.uint64),
    "past 2^53": [2**53, 2**53 + 1, 2**53 + 2],
    "many near 2^63": 2**63 - 1 - np.arange(ROWS),
    "constant": [7, 7, 7],
    "halves": np.array([1, 2, 60000], np.float16),
    "bytes": [b"\xff\x00", b"", b"a"],
    "empty texts": ["", "", ""],
    "nulls": [None] * 3,
    "huge texts": ["x" * 100_000, "y", "z"],
    "structs": [{"a": 1}, {"a": None}, None],
    "lists": [[1, None], [], None],
    "lists of lists": [[[1]], [], None],
    "floats of many lengths": [[1.0], [1.0, 2.0], []],
    "booleans": [True, False, None],
}
TEXTS = {
    "empty": b"",
    "a newline": b"\n",
    "newlines": b"\n\r\n\n",
    "a header only": b"x,y\n",
    "one column": b"y\n0\n1\n" * 9,
    "no header": b"1,0\n2,1\n" * 50,
    "the same name twice": b"x,x,y\n1,2,0\n3,4,1\n" * 9,
    "spaces": b"x , y\n1, 0\n2, 1\n",
    "an open quote": b'x,y\n"a,0\nb,1\n' + b"c,0\n" * 50,
    "quotes in cells": b'x,y\na"b"c,0\n""",1\n' * 20,
    "ragged": b"x,y\n1,0\n1\n1,2,3\n" * 20,
    "NUL bytes": b"x,y\na\0b,0\n\0,1\n" * 20,
    "only NUL": b"\0" * 5000,
    "UTF-16": "x,y\n1,0\n2,1\n".encode("utf-16"),
    "UTF-16 without a mark": "x,y\n1,0\n".encode("utf-16-le"),
    "UTF-32": "x,y\n1,0\n2,1\n".encode("utf-32"),
    "Latin-1": "größe,y\nä,0\nö,1\n".encode("latin-1"),
    "a byte order mark": b"\xef\xbb\xbfx,y\n1,0\n2,1\n" * 2,
    "carriage returns": b"x,y\r1,0\r2,1\r" * 40,
    "form feeds": b"x,y\n\f1,0\n2,1\n",
    "semicolons": b"x;y\n1;0\n2;1\n" * 20,
    "tabs": b"x\ty\n1\t0\n2\t1\n" * 20,
    "random bytes": bytes(np.random.default_rng(0).bytes(9000)),
    "a cell of 9 MiB": b"x,y\n" + b"1,0\n2,1\n" * 50 + b"a" * (9 << 20) + b",1\n",
    "a header of 1 MiB": b"x" * (1 << 20) + b",y\n1,0\n2,1\n" * 40,
    "5,000 columns": b",".join(b"x%d" % i for i in range(5000))
    + b",y\n"
    + (b"1," * 5000 + b"0\n" + b"2," * 5000 + b"1\n") * 2,
    "HTML": b"<html><body>Not found</body></html>\n" * 5,
    "a label of words": b"x,y\n1,maybe\n2,yes\n" * 20,
    "one label": b"x,y\n1,0\n2,0\n" * 60,
    "labels with gaps": b"x,y\n1,0\n2,\n3,1\n" * 40,
    "a label of 1 + 1e-9": b"x,y\n1,1.000000001\n2,0\n" * 40,
    "dates out of range": b"x,y\n0000-00-00,0\n9999-12-31,1\n2024-02-30,0\n" * 30,
    "years": b"x,y\n-292277026-12-04,0\n29999-01-01,1\n" * 30,
    "zones": b"x,y\n2024-01-01T00:00:00+23:59,0\n0001-01-01T00:00:00+23:59,1\n" * 30,
    "late seconds": b"x,y\n1700000000000,0\n1700000000001,1\n" * 40,
    "long digits": b"x,y\n" + b"9" * 400 + b",0\n1,1\n" * 40,
    "numbers then words": b"x,y\n" + b"1,0\n2,1\n" * 90 + b"word,1\n",
    "formulas": b"x,y\n=cmd|'/c calc'!A1,0\n@SUM(1),1\n" * 30,
    "escapes": b"x,y\n\x1b[2J,0\n\x07,1\n" * 30,
}
JSONS = {
    "empty": "",
    "null": "null",
    "nulls": "null\nnull\n",
    "a number": "5",
    "a text": '"x"',
    "an empty object": "{}",
    "empty objects": "{}\n{}\n",
    "an empty list": "[]",
    "a list of numbers": "[1, 2]",
    "a list of lists": "[[1], [2]]",
    "a list of nulls": "[null, null]",
    "an open list": '[{"x": 1, "y": 0},',
    "a list and more": '[{"x": 1, "y": 0}] x',
    "two lists": '[{"x": 1, "y": 0}]\n[{"x": 2, "y": 1}]',
    "trailing commas": '[{"x": 1, "y": 0},]',
    "an open object": '{"x": 1,',
    "single quotes": "{'x': 1, 'y': 0}",
    "NaN": '{"x": NaN, "y": 0}\n{"x": Infinity, "y": 1}\n',
    "a key twice": '{"x": 1, "x": 2, "y": 0}\n' * 9,
    "mixed types": '{"x": 1, "y": 0}\n{"x": "a", "y": 1}\n{"x": [1], "y": 0}\n' * 9,
    "half a pair": '{"x": "\\ud800", "y": 0}\n{"x": "b", "y": 1}\n',
    "escaped NUL": '{"x\\u0000": "\\u0000", "y": 0}\n{"x\\u0000": "b", "y": 1}\n' * 30,
    "two on a line": '{"x":1,"y":0}{"x":2,"y":1}\n' * 9,
    "long numbers": '{"x": ' + "9" * 400 + ', "y": 0}\n{"x": 1, "y": 1}\n',
    "1e999": '{"x": 1e999, "y": 0}\n{"x": 1, "y": 1}\n',
    "20,000 lists": '{"x": ' + "[" * 20_000 + "]" * 20_000 + ', "y": 1}\n',
    "1,000 objects": '{"x": ' + '{"a":' * 1000 + "1" + "}" * 1000 + ', "y": 1}\n',
    "100,000 open": "[" * 100_000,
    "100,000 open objects": '{"a":' * 100_000,
    "63 lists": '{"x": ' + "[" * 63 + "1" + "]" * 63 + ', "y": 1}\n{"x": null, "y": 0}\n',
    "a raw newline": '{"x": "a\nb", "y": 0}\n',
}


def _bytes(name: str, content: bytes) -> Make:
    return lambda folder: (folder / name).write_bytes(content) and None


def _arrow(values: Any, kind: str) -> Make:
    def make(folder: Path) -> None:
        column = pa.array(list(values)) if not isinstance(values, np.ndarray) else pa.array(values)
        column = pa.concat_arrays([column] * (ROWS // len(column)))
        table = pa.table(
            {"x": column, "z": pa.array(np.arange(len(column)) % 7), "y": pa.array(np.arange(len(column)) // 3 % 2)}
        )
        _write(table, folder, kind)

    return make


def _write(table: pa.Table, folder: Path, kind: str) -> None:
    path = str(folder / f"t.{kind}")
    {"parquet": pa.parquet.write_table, "feather": pa.feather.write_feather, "orc": pa.orc.write_table}[kind](
        table, path
    )


def _named(name: str, kind: str) -> Make:
    def make(folder: Path) -> None:
        rows = [{name: f"{name[:9]}{i % 5}", "z": i % 7, "y": i // 3 % 2} for i in range(ROWS)]
        if kind == "csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            (folder / "t.csv").write_text(text.getvalue())
        elif kind == "json":
            (folder / "t.json").write_text(json.dumps(rows))
        else:
            _write(pa.Table.from_pylist(rows), folder, kind)

    return make


def _odd(folder: Path) -> dict[str, Callable[[], Any]]:
    """Things in the place of a table that are no files, or damaged ones."""
    good = io.BytesIO()
    pa.parquet.write_table(pa.table({"x": list(range(ROWS)), "y": [i % 2 for i in range(ROWS)]}), good)
    whole, lines = good.getvalue(), gzip.compress(b"x,y\n1,0\n2,1\n" * 200)
    at = lambda name: folder / name  # noqa: E731
    made: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "a folder": lambda: at("t.csv").mkdir(),
        "a FIFO": lambda: os.mkfifo(at("t.csv")),
        "a link to nothing": lambda: at("t.csv").symlink_to("nowhere"),
        "a link to itself": lambda: at("t.csv").symlink_to("t.csv"),
        "a link to a device": lambda: at("t.csv").symlink_to("/dev/zero"),
        "a link to /dev/null": lambda: at("t.csv").symlink_to("/dev/null"),
        "a folder of folders": lambda: (at("t.csv") / "a" / "b").mkdir(parents=True),
        "a cut gzip": lambda: at("t.csv.gz").write_bytes(lines[:40]),
        "no gzip": lambda: at("t.csv.gz").write_bytes(b"x,y\n1,0\n"),
        "a damaged gzip": lambda: at("t.csv.gz").write_bytes(lines[:30] + b"\xff" * 9 + lines[39:]),
        "no zst": lambda: at("t.csv.zst").write_bytes(b"x" * 99),
        "a gzip of 100 MB of nothing": lambda: at("t.csv.gz").write_bytes(gzip.compress(b"\0" * 100_000_000)),
        "a gzip of gzip": lambda: at("t.csv.gz").write_bytes(gzip.compress(lines)),
        "an unknown ending": lambda: at("t.xlsx").write_bytes(b"PK\3\4"),
    }
    for kind in ("parquet", "orc", "feather", "arrow", "libsvm", "libffm", "criteo", "avazu"):
        made[f"text as {kind}"] = lambda kind=kind: at(f"t.{kind}").write_bytes(b"x,y\n1,0\n2,1\n")
        made[f"an empty {kind}"] = lambda kind=kind: at(f"t.{kind}").write_bytes(b"")
    for share in (0.3, 0.6, 0.99):
        made[f"parquet cut at {share}"] = lambda share=share: at("t.parquet").write_bytes(
            whole[: int(share * len(whole))]
        )
    for place in (10, 200, len(whole) - 60, len(whole) - 9):
        made[f"parquet with byte {place} wrong"] = lambda p=place: at("t.parquet").write_bytes(
            whole[:p] + b"\xff" + whole[p + 1 :]
        )
    return made


def tables() -> Iterator[tuple[str, Make]]:
    """Every hostile table, in a fixed order."""
    yield from ((f"CSV: {name}", _bytes("t.csv", content)) for name, content in TEXTS.items())
    yield from ((f"JSON: {name}", _bytes("t.json", content.encode())) for name, content in JSONS.items())
    for kind in ("parquet", "feather", "orc"):
        for name, values in NUMBERS.items():
            if not (kind == "orc" and name in ("unsigned", "halves", "nulls")):  # it has no such type
                yield f"{kind}: {name}", _arrow(values, kind)
    for kind in ("csv", "json", "parquet"):
        yield from ((f"{kind}: a column named {name[:20]!r}", _named(name, kind)) for name in NAMES)
    yield from ((f"odd: {name}", lambda folder, name=name: _odd(folder)[name]()) for name in _odd(Path()))

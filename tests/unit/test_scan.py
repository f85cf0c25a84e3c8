import gzip
import json
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest

from recsys.data.preparation.labels import to_binary
from recsys.data.sources import delimited, files, text
from recsys.data.sources.json_list import as_lines
from recsys.data.sources.scan import Scan, scan
from recsys.errors import ConfigError, DataError

T = pa.table(
    {
        "user": pa.array(["ä", "b c", None, "d"], pa.string()),
        "id": pa.array([2**63 - 1, 2**53 + 1, None, -5], pa.int64()),
        "x": pa.array([0.5, float("inf"), None, -1e-3], pa.float64()),
        "ok": pa.array([True, False, None, True], pa.bool_()),
        "at": pa.array([datetime(2020, 1, 1), datetime(2250, 12, 31, 1, 2, 3, 5), None, datetime(1700, 1, 1)]),
    }
)


def put(folder: Path, table: pa.Table, ending: str) -> Path:
    file = folder / f"t.{ending}"
    if ending == "parquet":
        pa.parquet.write_table(table, file)
    elif ending == "orc":
        pa.orc.write_table(table, file)
    elif ending == "feather":
        pa.feather.write_feather(table, file)
    elif ending == "arrow":
        with pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
    elif ending in ("csv", "tsv"):
        pa.csv.write_csv(table, file, pa.csv.WriteOptions(delimiter="," if ending == "csv" else "\t"))
    else:
        file.write_text("".join(json.dumps(r, default=str) + "\n" for r in table.to_pylist()))
    return file


def text_file(folder: Path, content: bytes | str, name: str = "t.csv") -> str:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def refused(match: str, path: str, **options) -> None:
    """Reading stops with one line."""
    with pytest.raises(DataError, match=match) as caught:
        scan(path, **options).read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "orc", "feather", "arrow", "jsonl"])
def test_every_format_reads_the_same_rows(tmp_path: Path, ending: str) -> None:
    table = T
    if ending == "jsonl":  # JSON has no infinity
        table = T.set_column(2, "x", pa.array([0.5, 1e300, None, -1e-3])).drop_columns("at")
    got = scan(str(put(tmp_path, table, ending)))
    if ending == "orc":  # its timestamps have nanoseconds
        table = table.cast(got.schema)
    assert got.schema == table.schema
    assert got.read().equals(table)
    assert got.read(["x", "user"], limit=3).equals(table.select(["x", "user"]).slice(0, 3))
    assert [len(b) for b in got.batches(rows=3)] == [3, 1]
    assert pa.Table.from_batches(got.batches(rows=1)).equals(table)  # and again


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_text(tmp_path: Path, ending: str) -> None:
    content = b"a,b\n1,x\n2,y\n"
    file = tmp_path / f"t.csv.{ending}"
    with pa.output_stream(str(file), compression={"gz": "gzip", "zst": "zstd"}[ending]) as out:
        out.write(content)
    assert scan(str(file)).read().to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    file.write_bytes(gzip.compress(content * 1000)[:40])
    refused("cannot be read", str(file), format="csv")


def test_blocks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every few bytes, inside quotes, line ends and letters, the rows stay as Python's csv reads them."""
    rng, words = np.random.default_rng(0), ["x", 'say ""hi""', "two\nlines", "a,b", "ä", "crlf\r\nin", ""]
    rows = [[str(i), words[rng.integers(len(words))], words[rng.integers(len(words))]] for i in range(300)]
    content = "id,a,b\r\n" + "".join(f'{i},"{a}","{b}"\r\n' for i, a, b in rows)
    path = text_file(tmp_path, content)
    want = [{"id": int(i), "a": a.replace('""', '"') or None, "b": b.replace('""', '"') or None} for i, a, b in rows]
    for size in (7, 64, 1000, 1 << 20):
        monkeypatch.setattr(files.blocks, "__defaults__", (size,))
        assert scan(path).read().to_pylist() == want, size


def test_a_quote_inside_a_cell_is_a_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path, 'a,b\n5" tall,1\n"x\ny",2\n6" big,3\n"",4\n"""q""",5\n' * 1)
    for size in (16, 1 << 20):
        monkeypatch.setattr(files.blocks, "__defaults__", (size,))
        assert scan(path).read()["a"].to_pylist() == ['5" tall', "x\ny", '6" big', None, '"q"']


def test_sparse_lines(tmp_path: Path) -> None:
    svm = scan(text_file(tmp_path, "1 3:0.5 7:1 # note\n-1\n0 2:1e2\n", "t.libsvm")).read()
    assert svm.to_pylist() == [
        {"label": 1.0, "index": [3, 7], "value": [0.5, 1.0]},
        {"label": -1.0, "index": [], "value": []},
        {"label": 0.0, "index": [2], "value": [100.0]},
    ]
    ffm = scan(text_file(tmp_path, "1 0:3:1 1:5:0.5 1:6:2\n0 1:2:1\n", "t.ffm")).read(
        ["field_0", "field_1", "field_1_value"]
    )
    assert ffm.to_pylist() == [
        {"field_0": [3], "field_1": [5, 6], "field_1_value": [0.5, 2.0]},
        {"field_0": [], "field_1": [2], "field_1_value": [1.0]},
    ]
    refused(r"row 2: expected label index:value …, got '0 a:1'", text_file(tmp_path, "1 1:1\n0 a:1\n", "t.svm"))


def test_criteo_and_avazu(tmp_path: Path) -> None:
    line = "\t".join(["1", "-1", "", *["3"] * 11, "05db9164", "", *["1e5"] * 24])
    row = scan(text_file(tmp_path, line + "\n", "day_0"), format="criteo").read().to_pylist()[0]
    assert [row[c] for c in ("label", "i1", "i2", "c1", "c2", "c26")] == [1, -1, None, "05db9164", None, "1e5"]
    assert len(row) == 40
    content = "id,click,hour,C1,device_id\n18446744073709551615,1,14102123,1005,12345678\n"
    row = scan(text_file(tmp_path, content), format="avazu").read().to_pylist()[0]
    assert row == {
        "id": "18446744073709551615",
        "click": 1,
        "hour": datetime(2014, 10, 21, 23),
        "C1": 1005,
        "device_id": "12345678",
    }
    refused("expected 40 cells, got 2", text_file(tmp_path, "1\t2\n"), format="criteo")


def test_folders_globs_lists_uris_and_splits(tmp_path: Path) -> None:
    for i, name in enumerate(["a/1.csv", "a/2.csv", "b/c/3.csv", "b/.hidden.csv", "b/_SUCCESS"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text_file(tmp_path, f"x,y\n{i},q\n", name)
    (tmp_path / "b/README").write_text("no table")

    def xs(path, **options):
        return scan(path, **options).read()["x"].to_pylist()

    root = str(tmp_path)
    assert xs(root) == [0, 1, 2]
    assert xs(f"{root}/a/*.csv") == [0, 1] == xs(f"{root}/a/?.csv")
    assert xs(f"{root}/**/*.csv") == [0, 1, 2]
    assert xs([f"{root}/b", f"{root}/a/1.csv"]) == [2, 0]
    assert xs(f"file://{root}/a/*.csv") == [0, 1]
    parts = scan({"train": [f"{root}/a/1.csv", f"{root}/b"], "test": f"{root}/a/2.csv"})
    assert parts.read(["split", "x"]).to_pydict() == {"split": ["train", "train", "test"], "x": [0, 2, 1]}
    assert parts.read(["split"]).num_rows == 3
    assert parts.schema.names == ["x", "y", "split"]
    for path in (f"{root}/none.csv", f"{root}/a/*.tsv", f"{root}/b/README"):
        with pytest.raises(DataError, match="expected"):
            scan(path)


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a\n1\n")
    first = scan(path).fingerprint()
    assert first == scan(path).fingerprint()
    assert first != scan(path, on_bad_rows="skip").fingerprint() != scan(path, types={"a": "string"}).fingerprint()
    text_file(tmp_path, "a\n12\n")
    assert first != scan(path).fingerprint()
    assert Scan.of(T).fingerprint() == []


def test_a_table_in_memory(tmp_path: Path) -> None:
    odd = pa.table(
        {"c": pa.array(["x", "y", "x"]).dictionary_encode(), "l": pa.array([[1], [], None], pa.large_list(pa.int8()))}
    )
    got = Scan.of(odd)
    assert got.schema == pa.schema([("c", pa.string()), ("l", pa.list_(pa.int8()))])
    assert got.read().to_pylist() == odd.to_pylist()


def test_columnar_types_become_plain(tmp_path: Path) -> None:
    odd = pa.table(
        {
            "c": pa.array(["x", None]).dictionary_encode(),
            "s": pa.array(["x", None], pa.large_string()),
            "b": pa.array([b"x", None], pa.binary()),
            "d": pa.array([datetime(2020, 1, 2), None], pa.date32()),
            "n": pa.array([None, None], pa.null()),
            "i": pa.array([1, None], pa.int8()),
        }
    )
    got = scan(str(put(tmp_path, odd, "parquet")), types={"i": "string"})
    assert [str(t) for t in got.schema.types] == ["string", "string", "string", "timestamp[us]", "string", "string"]
    assert got.read().to_pylist()[0] == {"c": "x", "s": "x", "b": "x", "d": datetime(2020, 1, 2), "n": None, "i": "1"}
    bad = put(tmp_path, pa.table({"b": pa.array([b"\xff"], pa.binary())}), "parquet")
    refused("rows 1 to 1, column 'b': expected string", str(bad))
    bad = put(tmp_path, pa.table({"at": pa.array([1 << 60], pa.timestamp("us"))}), "parquet")
    refused("rows 1 to 1, column 'at': .* a date before the year 1 or after 9999", str(bad))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "is empty"),
        ("\n\n", "expected a header of column names"),
        ("0.5,1.5\n1,2\n", "row 1: expected a header of column names, got 0.5, 1.5"),
        ("a,b,a\n1,2,3\n", r"row 1: expected each name once, got \['a'\]"),
        ("a;b\n1;2\n", "is it ';'"),
        ("a,b\n1,2\n3\n", "row 3: expected 2 cells, got 1"),
        ("a,b\n1,2\n3,4,5\n", "row 3: expected 2 cells, got 3"),
        (b"a,b\n1,x\n2,caf\xe9\n", "row 3, column 'b': expected UTF-8, got byte 0xe9"),
        (b"a\xe9,b\n1,x\n", "row 1: expected UTF-8"),
        ("a,b\n1,x\n".encode("utf-16"), "got UTF-16"),
        (
            "a\n1\n18446744073709551615\n",
            "row 3, column 'a': .* got 18446744073709551615: set source.types: {a: string}",
        ),
        ("a,b\n0.5,1\n9007199254740993,2\n", r"row 3, column 'a': .* set source.types: {a: string}"),
        ('a,b\n1,"x\n2,y\n3,z\n', "row 2: expected 2 cells, .* quote is left open"),
        ('a,b\n1,"x,y\n', "row 2: expected 2 cells, .* quote is left open"),
    ],
)
def test_bad_delimited_text_is_named(tmp_path: Path, content: bytes | str, match: str) -> None:
    refused(match, text_file(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (b"\xef\xbb\xbfa,b\r\n1,x\r\n", {"a": [1], "b": ["x"]}),  # BOM, CRLF
        (b"a,b\r1,x\r2,y\r", {"a": [1, 2], "b": ["x", "y"]}),  # old Mac
        (b"a,b\n1,x\x00y\n", {"a": [1], "b": ["x\x00y"]}),  # NUL is a letter
        (b'a,b\n1,"x\ny,z"\n', {"a": [1], "b": ["x\ny,z"]}),
        (b"a,b\n\n1,x\n\n", {"a": [1], "b": ["x"]}),
        (b"a,b\n1,\n2,\n", {"a": [1, 2], "b": [None, None]}),  # all missing
        (b"a,b\n1,x\nq,2\n", {"a": ["1", "q"], "b": ["x", "2"]}),  # mixed types
        (b"a,b\n007,0x10\n", {"a": ["007"], "b": ["0x10"]}),  # codes, not numbers
        (b"a,b\n2020-02-30,99999-01-01\n", {"a": ["2020-02-30"], "b": ["99999-01-01"]}),  # no such dates
        (b",a\n0,x\n", {"column_1": [0], "a": ["x"]}),  # an index without a name
        (b"a,b\n", {"a": [], "b": []}),
        (b"a,b\n1,NA\nNA,2\n", {"a": [1, None], "b": [None, 2]}),
    ],
)
def test_odd_but_good_text_is_read(tmp_path: Path, content: bytes, want: dict) -> None:
    assert scan(text_file(tmp_path, content)).read().to_pydict() == want


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"a": 1}\n{"a": "x"}\n', r"row 2, column 'a': expected int, got 'x': .*{a: string}"),
        ('{"a": 1}\n{"a": [\n', "row 2: expected one JSON object"),
        ('{"a": 1}\n{"a": 2, "a": 3}\n', "row 2: .*twice"),
        ('{"a": 1.5}\n{"a": 18446744073709551615}\n', r"row 2, column 'a': .*{a: string}"),
        ('[{"a": 1}]\n{"a": 2}\n', "expected one JSON list"),
        ('[{"a": 1} {"a": 2}]', "row 1 of a JSON list: expected a comma"),
        ('[{"a": 1}, {"a": 2', "row 2 of a JSON list: expected a JSON object that ends"),
        ("[]", "got an empty one"),
        ("[1, 2]", "expected one JSON object"),
        ("{}", "the table has none"),
        (b'{"a": "x"}\n{"a": "\xff"}\n', "row 2: expected UTF-8, got byte 0xff"),
        ("3\n", "expected one JSON object"),
        ("null\n", "expected one JSON object"),
        ('{"a": 1}\n null\n', "row 2: expected one JSON object"),
        ('{"a": 1}\n\n{"a": 1} null\n', "row 3: expected one JSON object"),
        ('{"a": 1}\n{"a": 1}{"a": 2}\n', "row 2: expected one JSON object"),
        ("[" * 10**5, "JSON list"),
        ('{"a":' * 10**5, "expected one JSON object"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, content: bytes | str, match: str) -> None:
    refused(match, text_file(tmp_path, content, "t.jsonl"))


def test_json_ids_as_strings_are_exact(tmp_path: Path) -> None:
    path = text_file(tmp_path, '{"a": 18446744073709551615, "b": [1]}\n{"a": "x"}\n', "t.jsonl")
    assert scan(path, types={"a": "string"}).read().to_pydict() == {
        "a": ["18446744073709551615", "x"],
        "b": [[1], None],
    }


def test_a_late_contradiction_names_row_and_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "SAMPLE", 1000)
    monkeypatch.setattr(files.blocks, "__defaults__", (1000,))
    rows = [f"{i},x" for i in range(5000)]
    rows[4000] = "1.5,x"
    path = text_file(tmp_path, "a,b\n" + "\n".join(rows))
    refused(r"row 4002, column 'a': expected int, got '1.5': .*source.types: {a: float}", path)
    assert scan(path, types={"a": "float"}).read()["a"].to_pylist()[4000] == 1.5
    assert scan(path).read(["b"]).num_rows == 5000  # not asked for, not parsed
    path = text_file(tmp_path, "a,b\n" + "\n".join(f"{i}," for i in range(5000)) + "\n7,late\n")
    assert scan(path).read()["b"].to_pylist()[-1] == "late"  # missing in all the sample: strings
    lines = [json.dumps({"a": i}) for i in range(500)] + ['{"a": 1, "new": 2}']
    path = text_file(tmp_path, "\n".join(lines), "t.jsonl")
    refused("row 501, column 'new': expected one of the columns of the first rows", path)
    assert scan(path, types={"new": "int"}).read()["new"].to_pylist()[-1] == 2


def test_a_second_file_must_have_the_same_columns(tmp_path: Path) -> None:
    text_file(tmp_path, "a,b\n1,x\n", "1.csv")
    for name, content, match in [
        ("gone", "a\n1\n", r"2\.csv: expected the columns of .*1\.csv, \['b'\] are missing"),
        ("extra", "a,b,c\n1,x,2\n", r"\['c'\] are extra"),
        ("type", "a,b\n1,x\nq,y\n", r"2\.csv, row 3, column 'a': expected int, got 'q'"),
    ]:
        text_file(tmp_path, content, "2.csv")
        refused(match, str(tmp_path)), name
    text_file(tmp_path, "b,a\ny,2\n", "2.csv")
    assert scan(str(tmp_path)).read().to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    (tmp_path / "2.csv").unlink()
    put(tmp_path, pa.table({"a": pa.array(["x"]), "b": pa.array(["y"])}), "parquet")
    refused(r"t\.parquet, column 'a': expected int64 as in", str(tmp_path))
    put(tmp_path, pa.table({"a": pa.array([2], pa.int8()), "b": pa.array(["y"])}), "parquet")
    assert scan(str(tmp_path)).read()["a"].to_pylist() == [1, 2]


BAD = {
    "csv": (b"a,b\n", [b"1,x", b"2", b"3,y,z", b"q,x", b"4,\xff", b"5,z"], {0, 5}),
    "jsonl": (b"", [b'{"a":1,"b":"x"}', b"[", b'{"a":"q"}', b'{"a":2,"b":"\xff"}', b'{"a":5,"b":"z"}'], {0, 4}),
}


@pytest.mark.parametrize("ending", BAD)
def test_bad_rows_are_skipped_counted_and_kept(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, rows, good = BAD[ending]
    many = [rows[0]] * 50 + rows * 20
    path = text_file(tmp_path, head + b"\n".join(many), f"t.{ending}")
    want = [b"1"] * 50 + [b"1", b"5"] * 20
    bad = 20 * (len(rows) - len(good))
    for size in (40, 1 << 20):
        monkeypatch.setattr(files.blocks, "__defaults__", (size,))
        types = {"a": "int"} if ending == "csv" else {}
        skipped = scan(path, on_bad_rows="skip", types=types)
        assert [str(a).encode() for a in skipped.read(["a"])["a"].to_pylist()] == want
        assert skipped.read(["b"]).num_rows == len(want)  # the same rows, whatever is asked for
        assert skipped.bad.counts == {path: bad} and skipped.bad.total == bad and skipped.bad.kept == {}
        kept = scan(path, on_bad_rows="quarantine", quarantine=str(tmp_path / "q"), types=types)
        kept.read()
        kept.read()
        raw = kept.bad.kept[path].read_bytes()
        assert raw == head + b"".join(r + b"\n" for i, r in enumerate(rows) if i not in good) * 20
        assert [p.name for p in (tmp_path / "q").iterdir()] == [f"0000-t.{ending}"]
    with pytest.raises(ConfigError, match="needs source.quarantine"):
        scan(path, on_bad_rows="quarantine").read()


def test_many_columns(tmp_path: Path) -> None:
    n = 4000
    path = text_file(tmp_path, ",".join(f"c{i}" for i in range(n)) + "\n" + ("1," * (n - 1) + "1\n") * 3)
    got = scan(path)
    assert len(got.schema) == n
    assert got.read(["c3999", "c0"]).to_pydict() == {"c3999": [1, 1, 1], "c0": [1, 1, 1]}


@pytest.mark.slow
def test_a_hundred_thousand_columns(tmp_path: Path) -> None:
    n = 100_000
    path = text_file(tmp_path, ",".join(f"c{i}" for i in range(n)) + "\n" + ("1," * (n - 1) + "1\n") * 3)
    assert scan(path).read().num_columns == n


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"format": "xls"}, "source.format: expected auto, csv"),
        ({"on_bad_rows": "ignore"}, "source.on_bad_rows: expected stop, skip, quarantine"),
        ({"types": {"a": "date"}}, "source.types.a: expected string, int"),
        ({"types": {"z": "int"}}, "source.types: no column 'z'"),
    ],
)
def test_unknown_options(tmp_path: Path, options: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        scan(text_file(tmp_path, "a\n1\n"), **options)
    with pytest.raises(DataError, match="expected a column 'q', the table has a"):
        scan(text_file(tmp_path, "a\n1\n")).read(["q"])


def test_a_damaged_columnar_file(tmp_path: Path) -> None:
    for ending in ("parquet", "orc", "feather"):
        file = put(tmp_path, T, ending)
        file.write_bytes(file.read_bytes()[:-20])
        refused("does not parse as", str(file))


def test_quotes_stand_where_a_plain_walk_finds_them() -> None:
    """Against a state machine over every byte."""
    rng = np.random.default_rng(0)
    for _ in range(3000):
        data = rng.choice(np.frombuffer(b'"",\nx', np.uint8), rng.integers(1, 14))
        want, inside, i = [], False, 0
        while i < len(data):
            if data[i] == ord('"'):
                if not inside and (i == 0 or data[i - 1] in b",\n"):
                    inside = True
                    want.append(i)
                elif inside and i + 1 < len(data) and data[i + 1] == ord('"'):
                    i += 1
                elif inside:
                    inside = False
                    want.append(i)
            i += 1
        got = delimited._quotes(data, ord(","))
        ends = np.flatnonzero(data == ord("\n"))
        assert (np.searchsorted(got, ends) % 2 == np.searchsorted(want, ends) % 2).all(), bytes(data)
        assert len(got) % 2 == len(want) % 2, bytes(data)


@pytest.mark.parametrize(
    "values",
    [
        [True, False, True],
        [1, 0, 1],
        [1.0, 0.0, 1.0],
        [1, -1, 1],
        ["yes", "no", "YES "],
        ["1.0", "0", "1"],
        ["click", "no click", "Click"],
        ["t", "f", "TRUE"],
    ],
)
def test_labels(values: list) -> None:
    got = to_binary(pa.chunked_array([values[:1], values[1:]]), "y")
    assert got.dtype == np.float32 and got.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 0, None], "1 rows have none"),
        (["yes", "", "no"], "1 rows have none"),
        ([0, 1, 2], r"only 0 and 1, got \[2.0\]"),
        ([1.0, 1 + 1e-9, 0.0], "only 0 and 1"),
        ([float("nan"), 1.0, 0.0], "only 0 and 1"),
        (["yes", "maybe", "no"], "got 'maybe'"),
        ([1, 1, 1], "every row is 1"),
        (["no", "no"], "every row is 0"),
        ([[1], [0]], "expected 0 and 1, got list"),
        (pa.array([], pa.int64()), "no rows"),
    ],
)
def test_bad_labels(values: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_binary(pa.chunked_array([pa.array(values)]), "y")


# — a JSON list, deep nesting, long cells —


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read_as_its_objects(tmp_path: Path, size: int, indent: int | None) -> None:
    rows = [
        {"a": i, "t": ["]", "[[", '"\\', "ä\u2028", "two\nlines"][i % 5], "v": [i, -i], "x": 10**i / 7}
        for i in range(20)
    ]
    whole = "\ufeff \n" + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n"
    made = b"".join(
        as_lines("t", (whole.encode()[3:][i : i + size] for i in range(0, len(whole.encode()), size)), 10**6)
    )
    assert [json.loads(line) for line in made.split(b"\n") if line] == rows
    path = text_file(tmp_path, whole, "t.json")
    assert scan(path).read().to_pylist() == rows


def test_an_element_of_a_json_list_without_an_end_is_held_to_a_bound() -> None:
    taken = 0

    def chunks():
        nonlocal taken
        yield b'[{"a": "'
        for _ in range(1000):
            taken += 1
            yield b"x" * 100

    with pytest.raises(DataError, match="row 1 of a JSON list"):
        list(as_lines("t", chunks(), 1000))
    assert taken < 20


@pytest.mark.parametrize("depth", [65, 1000, 20_000, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_deep_json_is_one_line(tmp_path: Path, depth: int, opens: str, closes: str, first: bool, name: str) -> None:
    deep = '{"x": ' + opens * depth + "1" + closes * depth + "}"
    rows = [deep, '{"x": 1}'] if first else ['{"x": 1}', deep]
    content = "\n".join(rows) if name == "t.jsonl" else f"[{', '.join(rows)}]"
    refused("nested", text_file(tmp_path, content, name))


def test_a_table_of_blanks_is_held_to_a_bound() -> None:
    taken = 0

    def chunks():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 100

    with pytest.raises(DataError, match="nothing but blanks"):
        list(as_lines("t", chunks(), 1000))
    assert taken < 20


@pytest.mark.parametrize(
    ("line", "message"),
    [("[" * 100 + '"' + '\\"' * 100_000, "nested deeper"), ('{"x": 1}' + "\n" * 100_000 + "3", "one JSON object")],
    ids=["a quote that is not closed", "blank lines"],
)
def test_no_json_takes_time_that_grows_with_its_square(tmp_path: Path, line: str, message: str) -> None:
    """These took minutes."""
    path, began = text_file(tmp_path, f'{{"x": 1}}\n{line}\n', "t.jsonl"), time.process_time()
    refused(message, path)
    assert time.process_time() - began < 10


def test_brackets_in_texts_are_not_nesting(tmp_path: Path) -> None:
    rows = [{"x": "[" * 200 + '"\\'}] * 300
    assert scan(text_file(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl")).read().to_pylist() == rows


def test_a_cell_may_be_longer_than_a_piece_of_a_block(tmp_path: Path) -> None:
    cells = ["a", "b" * (9 << 20), "c"] + ["d"] * 1000
    path = text_file(tmp_path, "x,y\n" + "".join(f"{c},1\n" for c in cells), "t.csv")
    assert scan(path).read()["x"].to_pylist() == cells

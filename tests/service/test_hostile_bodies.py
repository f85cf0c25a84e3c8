"""100 hostile requests to a real server: none is answered 500, none stops it, none leaves a traceback in its log."""

import gzip
import json
import random
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys.export import bundle as export
from recsys.features.schema import Schema
from tests.service.conftest import model

COUNT = 100
HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
JSON = {"content-type": "application/json"}
TYPE = "Content-Type: application/json\r\n"

Row = dict[str, Any]
Make = Callable[[random.Random, Row], bytes]


@pytest.fixture(scope="module")
def small(schema: Schema, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with graph.onnx alone."""
    out = tmp_path_factory.mktemp("small") / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "compiler", lambda: None)
        export.export_bundle(model(schema, "hashed"), prepared, out, calibrator=None, card={}, golden="rows")
    return out


def request(body: str | bytes, more: str = "") -> bytes:
    """A whole request with a body of that length."""
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    return f"{HEAD}{TYPE}{more}Content-Length: {len(data)}\r\n\r\n".encode() + data


def chunked(body: bytes) -> bytes:
    return f"{HEAD}{TYPE}Transfer-Encoding: chunked\r\n\r\n".encode() + body


def cell(rng: random.Random, row: Row, spelled: str) -> str:
    """The row with one value spelled otherwise."""
    column = rng.choice(sorted(row))
    parts = [f"{json.dumps(c)}: {spelled if c == column else json.dumps(v)}" for c, v in row.items()]
    return "{" + ", ".join(parts) + "}"


def deep(rng: random.Random, _: Row) -> bytes:
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}"), ('{"rows":[', "]}")])
    depth = rng.choice([500, 900, 950, 970, 980, 990, 1000, 20_000, 200_000])
    return request(opened * depth + rng.choice(["", "1", "null"]) + closed * rng.choice([0, depth, depth + 1]))


def deep_cell(rng: random.Random, row: Row) -> bytes:
    depth = rng.choice([6, 900, *range(930, 1000)])
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    return request(cell(rng, row, opened * depth + "1" + closed * depth) + " " * rng.choice([0, 10_000]))


def huge_number(rng: random.Random, row: Row) -> bytes:
    zeros = "0" * rng.choice([20, 400, 4_299, 4_301, 100_000])
    return request(cell(rng, row, rng.choice([f"1{zeros}", f"-1{zeros}", "1e400", "-1e400", f"0.{zeros}1", "1e-400"])))


def no_number(rng: random.Random, row: Row) -> bytes:
    return request(cell(rng, row, rng.choice(["NaN", "Infinity", "-Infinity", "nan", "+1", "01", "1.", "0x1", "1_0"])))


def surrogate(rng: random.Random, row: Row) -> bytes:
    half = rng.choice(['"\\ud800"', '"\\udfff\\ud800"', '"\ud800"', '["\\ud800"]', '"\\u0000"', '"\\ud83d\\ude00"'])
    return request(cell(rng, row, half) if rng.random() < 0.7 else f"{{{half.strip('[]')}: 1}}")


def twice(rng: random.Random, row: Row) -> bytes:
    column = rng.choice(sorted(row))
    return request(json.dumps(row)[:-1] + f", {json.dumps(column)}: {rng.choice(['null', '[]', '{}', '7'])}}}")


def encoding(rng: random.Random, row: Row) -> bytes:
    text = json.dumps({**row, "user": "käufer"}, ensure_ascii=False)
    data = text.encode(rng.choice(["utf-16", "utf-16-le", "utf-32-be", "latin-1", "utf-7", "cp500", "utf-8-sig"]))
    charset = f"Content-Type: application/json; charset={rng.choice(['utf-16', 'latin-1', 'x' * 300, '%00'])}\r\n"
    head = HEAD + rng.choice([TYPE, charset])
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def compressed(rng: random.Random, row: Row) -> bytes:
    name = rng.choice(["gzip", "deflate", "br", "gzip, gzip", "identity", "GZIP", ""])
    pack = rng.choice([gzip.compress, zlib.compress, bytes])
    return request(pack(json.dumps(row).encode()), f"Content-Encoding: {name}\r\n" if name else "")


def chunks(rng: random.Random, row: Row) -> bytes:
    body = json.dumps(row).encode()
    size = f"{len(body):x}".encode()
    good = size + b"\r\n" + body + b"\r\n0\r\n\r\n"
    bad = [
        b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n", b"2\r\n{}xx0\r\n\r\n", b"f" * 18 + b"\r\n{}",
        b"0\r\n\r\n", b"ff\r\n{}", b"f" * 40 + b"\r\n", b"2;" + b"a" * 20_000, b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n",
        b"\r\n\r\n", good[:-3], good * 2,
    ]  # fmt: skip
    sent = rng.choice([good, *bad])
    return chunked(sent) if rng.random() < 0.8 else request(sent, "Transfer-Encoding: chunked\r\n")


def length(rng: random.Random, row: Row) -> bytes:
    said = rng.choice(
        ["-1", "abc", "+3", "3, 4", "9" * 30, "9" * 5_000, "1e3", "0", "5", "", "0x10", "16777217", *["5000"] * 9]
    )
    return f"{HEAD}{TYPE}Content-Length: {said}\r\n\r\n".encode() + json.dumps(row).encode()


def shape(rng: random.Random, row: Row) -> bytes:
    one = json.dumps(row)
    wrong = ["", "null", "3", '"x"', "[[]]", "[null]", "[{}]", '{"rows":null}', '{"rows":{}}', '{"rows":[{"rows":[]}]}']
    wrong += [
        one + "x",
        one + one,
        f"[{one},]",
        f"[{one}",
        "{" + one + "}",
        f"/**/{one}",
        one.replace('"', "'"),
        " " * 99_999,
    ]
    wrong += [
        one + "\0",
        f"[{','.join(['{}'] * 10_001)}]",
        json.dumps([row] * 50 + [{}]),
        "\x01",
        "[" + "0," * 99_999 + "0]",
    ]
    return request(rng.choice(wrong))


def all_alike(rng: random.Random, row: Row) -> bytes:
    value = rng.choice(
        [[], {}, True, -1, "", "x" * 100_000, 0.5, [None], [[]], [{}], [1, "a"], 1e308, "\ufffe", -(2**63)]
    )
    return request(json.dumps(dict.fromkeys(row, value)))


def large(rng: random.Random, row: Row) -> bytes:
    long = json.dumps("x" * 1_000_000)
    many = json.dumps({**row, **{f"k{i}": i for i in range(50_000)}})
    return request(rng.choice([cell(rng, row, long), f"{{{long}: 1}}", many, cell(rng, row, json.dumps([1] * 99_999))]))


def header(rng: random.Random, row: Row) -> bytes:
    body = json.dumps(row)
    more = ["Expect: x", "Expect: 100-continue", "Connection: Upgrade\r\nUpgrade: websocket", "Authorization: ÿ"]
    more += [
        "X: " + "x" * 20_000,
        "Host: twice",
        "Content-Type: text/plain",
        "X\0: 1",
        " folded: 1",
        "TE: trailers",
        ": 1",
    ]
    return request(body, rng.choice(more) + "\r\n")


def line(rng: random.Random, _: Row) -> bytes:
    lines = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" + b"\0" * 99 + b"\r\n\r\n",
        b"\r\n" * 999,
    ]
    for method in ("CONNECT a:1", "OPTIONS *", "FOO /predict", "GET /%ff%00/../predict", "GET http://x/card", "GET //"):
        lines.append(f"{method} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    lines += [
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    ]
    return rng.choice(lines)


KINDS: list[Make] = [
    deep, deep_cell, huge_number, no_number, surrogate, twice, encoding, compressed, chunks, length, shape, shape,
    all_alike, large, header, line,
]  # fmt: skip


def answers(address: tuple[str, int], sent: bytes) -> bytes:
    """All that the server says until it closes; it must close by itself."""
    with socket.create_connection(address, timeout=20) as door:
        parts = []
        try:
            door.sendall(sent)
            while part := door.recv(65536):
                parts.append(part)
        except (ConnectionResetError, BrokenPipeError):
            pass  # it had answered before all was sent
    return b"".join(parts)


@pytest.mark.slow
def test_no_body_brings_the_server_down_or_a_traceback_out(small: Path) -> None:
    row = json.loads((small / "golden.json").read_bytes())["rows"][0]
    command = [sys.executable, "-m", "recsys", "serve", str(small), "--port", "0"]
    command += ["--body-seconds", "0.5", "--header-seconds", "0.5"]
    statuses = set[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stderr
            url = process.stdout.readline().split()[3]
            want = httpx.post(f"{url}/predict", json=row, trust_env=False).json()["probability"]
            with httpx.Client(trust_env=False, timeout=20) as client:
                for i in range(COUNT):
                    rng = random.Random(i)
                    make = KINDS[i % len(KINDS)]
                    said = answers(("127.0.0.1", int(url.rpartition(":")[2])), make(rng, row))
                    what = f"request {i}, {make.__name__}: {said[:300]!r}"
                    status = said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")[9:12].decode()
                    statuses.add(status)
                    assert status in ("", "200", "400", "404", "405", "408", "411", "413", "415", "422"), what
                    assert b"Traceback" not in said, what
                    if status in ("400", "404", "405", "411", "413", "415", "422"):
                        assert b'\r\n\r\n{"error": "' in said and b"\n" not in said.rpartition(b"\r\n\r\n")[2], what
                    good = client.post(f"{url}/predict", json=row)
                    assert good.status_code == 200 and good.json()["probability"] == want, what
                for depth in range(900, 1000):  # near the depth at which json gives up, spelling a value may do so
                    body = cell(random.Random(depth), row, "[" * depth + "]" * depth)
                    assert client.post(f"{url}/predict", content=body, headers=JSON).status_code == 422, depth
        finally:
            process.terminate()
        log = process.stderr.read()
    assert "Traceback" not in log and len(log) < 2_000, log
    assert statuses >= {
        "200",
        "400",
        "408",
        "411",
        "413",
        "415",
        "422",
    }  # else the requests are not what they should be

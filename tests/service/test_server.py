"""The scoring server answers as the bundle does, refuses in one line, and no client can hold it up."""

import gzip
import http.client
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recsys.commands.cli import main
from recsys.errors import ConfigError
from recsys.serving.bundle import Bundle
from recsys.serving.limits import Limits
from recsys.serving.openapi import example_row
from recsys.serving.server import serve

JSON = {"content-type": "application/json"}
TIGHT = [
    "--body-bytes", "20000", "--rows", "50", "--header-seconds", "0.5", "--body-seconds", "0.5", "--connections", "8",
    "--answer-seconds", "0.5", "--stop-seconds", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    return Bundle.load(bundle)


@pytest.fixture(scope="module")
def rows(bundle: Path) -> list[dict[str, Any]]:
    return json.loads((bundle / "golden.json").read_text())["rows"]


@contextmanager
def running(bundle: Path, *options: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own → the process and its address."""
    command = [sys.executable, "-m", "recsys", "serve", str(bundle), "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {k: v for k, v in os.environ.items() if k != "RECSYS_TOKEN"} | env
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, line.split()[3]
        finally:
            process.kill()


@contextmanager
def client_of(address: str, **headers: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, trust_env=False, timeout=30, headers=headers) as client:
        yield client


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with running(bundle) as (_, address), client_of(address, **JSON) as client:
        yield client


@pytest.fixture(scope="module")
def tight(bundle: Path) -> Iterator[str]:
    """Address of a server with small limits."""
    with running(bundle, *TIGHT) as (_, address):
        yield address


def connect(address: str, sent: str = "") -> socket.socket:
    host, port = address.removeprefix("http://").rsplit(":", 1)
    door = socket.create_connection((host, int(port)), timeout=10)
    door.sendall(sent.encode())
    return door


def everything(door: socket.socket) -> str:
    """What comes until the server closes."""
    parts = []
    while part := door.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_one_row_a_list_and_named_rows(client: httpx.Client, loaded: Bundle, rows: list[dict[str, Any]]) -> None:
    want = loaded.score(rows[:5])
    one = client.post("/predict", json=rows[0])
    assert one.status_code == 200
    assert list(one.json()) == ["probability"]
    assert one.json()["probability"] == pytest.approx(want[0], abs=1e-6)
    for sent in (rows[:5], {"rows": rows[:5]}):
        answer = client.post("/predict", json=sent)
        assert list(answer.json()) == ["probabilities"]
        np.testing.assert_allclose(answer.json()["probabilities"], want, atol=1e-6)
    assert client.post("/predict", json=[]).json() == {"probabilities": []}


def test_a_large_request_is_scored_in_a_thread_and_answers_the_same(client, loaded, rows) -> None:
    many = [rows[i % len(rows)] for i in range(2000)]
    np.testing.assert_allclose(
        client.post("/predict", json=many).json()["probabilities"], loaded.score(many), atol=1e-6
    )


def test_unseen_and_missing_are_fine(client: httpx.Client, rows: list[dict[str, Any]]) -> None:
    sent = json.dumps([{**rows[0], "user": "never seen \ud800", "item": -5}, dict.fromkeys(rows[0])])
    answer = client.post("/predict", content=sent)
    assert answer.status_code == 200
    assert all(0 < p < 1 for p in answer.json()["probabilities"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: json.dumps({k: v for k, v in r.items() if k != "city"}), "'city'"),
        (lambda r: json.dumps({**r, "price": "cheap"}), "'price'"),
        (lambda r: json.dumps({**r, "price": float("nan")}), "NaN"),
        (lambda r: json.dumps({**r, "price": float("inf")}), "Infinity"),
        (lambda r: json.dumps(r).replace('"price": ', '"price": 1e999, "x": '), "finite"),
        (lambda r: json.dumps({"rows": r}), "a list of rows"),
        (lambda r: json.dumps([r, 3]), "row 1"),
        (lambda r: json.dumps("row"), "an object"),
        (lambda r: "{not json", "JSON"),
        (lambda r: "", "JSON"),
        (lambda r: b"\xff\xfe\xfd", "JSON"),
        (lambda r: "[" * 100_000, "JSON"),
    ],
)
def test_what_cannot_be_scored_is_422_with_one_line(
    client: httpx.Client, rows: list[dict[str, Any]], change: Any, says: str
) -> None:
    answer = client.post("/predict", content=change(rows[0]))
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "Traceback" not in answer.text


def test_health_and_card(client: httpx.Client, loaded: Bundle) -> None:
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/card").json() == loaded.card
    assert client.get("/predict").status_code == 405
    head = client.head("/health")
    assert (head.status_code, head.content) == (200, b"")


def test_the_docs_load_nothing_from_elsewhere_and_their_example_can_be_scored(client, loaded) -> None:
    page = client.get("/docs").text
    assert not re.search(r"<script|<link|src=|https?://", page)
    assert all(f"<code>{c}</code>" in page for c in loaded.schema.raw_columns)
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    described = described["application/json"]
    assert described["example"] == example_row(loaded.schema)
    assert set(described["schema"]["oneOf"][0]["properties"]) >= set(loaded.schema.raw_columns)
    assert client.post("/predict", json=described["example"]).status_code == 200
    assert client.get("/redoc").status_code == 404


def test_a_connection_that_is_kept_open_does_not_wait_for_delayed_acknowledgements(client, rows) -> None:
    """40 ms a request before the socket named its protocol; ab -k speaks HTTP/1.0 and did not show it."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
    taken = []
    for i in range(40):
        started = time.perf_counter()
        connection.request("POST", "/predict", json.dumps(rows[i]), JSON)
        connection.getresponse().read()
        taken.append(time.perf_counter() - started)
    connection.close()
    assert statistics.median(taken) < 0.03  # Linux delays by 40 ms at least


def test_many_requests_at_once_do_not_mix(client: httpx.Client, loaded: Bundle, rows: list[dict[str, Any]]) -> None:
    want = loaded.score(rows[:40])

    def ask(i: int) -> float:
        return client.post("/predict", json=rows[i]).json()["probability"]

    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose(list(pool.map(ask, range(40))), want, atol=1e-6)


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (HEAD + "Content-Length: 900000000\r\n\r\n{", 413, "at most 20,000 bytes"),
        (HEAD + "Transfer-Encoding: chunked\r\n\r\n" + "1\r\n \r\n" * 9_999, 411, "the header Content-Length"),
        (HEAD + "Content-Length: 400\r\n\r\n{", 408, "within 0.5 s"),
        ("", 408, "headers did not come"),
        ("POST /predict HTTP/1.1\r\nHost: local", 408, "headers did not come"),
        (f"GET /health HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 17_000}", 400, "at most 16 KiB of headers"),
        ("GET /absent HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404, "expected POST /predict"),
        ("PUT /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405, "expected POST /predict"),
    ],
    ids=["length", "chunks", "slow body", "no headers", "half headers", "large headers", "no path", "no method"],
)
def test_a_body_or_header_that_is_too_large_or_slow_is_ended(tight: str, sent: str, status: int, says: str) -> None:
    with connect(tight, sent) as door:
        said = everything(door)
    head, _, body = said.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert list(json.loads(body)) == ["error"] and says in body


def test_a_later_request_that_never_ends_its_headers_is_ended(tight: str) -> None:
    with connect(tight, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as door:
        assert "200 OK" in door.recv(65536).decode()
        door.sendall(b"GET /hea")
        assert "HTTP/1.1 408 " in everything(door)


def test_a_client_that_reads_no_answer_is_cut_off(tight: str) -> None:
    """It held its connection for ever."""
    with connect(tight) as door:
        door.setblocking(False)
        asked = b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000
        ends = time.monotonic() + 10
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < ends:
                try:
                    door.send(asked)
                except BlockingIOError:
                    time.sleep(0.05)


@pytest.mark.parametrize("path", ["/health", "/card", "/absent"])
def test_an_answer_that_came_before_the_body_ends_the_connection(tight: str, path: str) -> None:
    """One more byte of a body that nobody reads kept such a connection open for ever."""
    with connect(tight, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n") as door:
        assert "HTTP/1.1 " in door.recv(65536).decode()
        began = time.monotonic()
        door.sendall(b"x")
        everything(door)
        assert time.monotonic() - began < 3


def test_too_many_rows_and_other_types_are_refused(tight: str) -> None:
    with client_of(tight) as client:
        rows = client.post("/predict", content="[" + ",".join(["{}"] * 51) + "]", headers=JSON)
        assert (rows.status_code, rows.json()["error"]) == (
            413,
            "expected at most 50 rows, got 51: send fewer at a time",
        )
        brackets = client.post("/predict", content="[" + ",".join(["[]"] * 5_000) + "]", headers=JSON)
        assert brackets.status_code == 413
        assert "at most 5,000 of { and [, got 5,001" in brackets.json()["error"]  # and not "rows": it is not parsed
        form = client.post("/predict", content="{}", headers={"content-type": "text/plain"})
        assert form.status_code == 415  # what any web page may send without asking
        assert "application/json" in form.json()["error"]


def test_one_connection_too_many_is_told_so_and_room_comes_back(tight: str) -> None:
    doors = [connect(tight, "POST /predict HTTP/1.1\r\n") for _ in range(8)]
    with connect(tight) as late:
        assert "503 Service Unavailable" in everything(late)
    for door in doors:
        everything(door)
        door.close()
    with client_of(tight) as client:
        assert client.get("/health").status_code == 200


def test_the_bytes_of_all_bodies_are_bounded_and_small_requests_need_no_room(bundle, rows) -> None:
    """512 connections × 16 MiB were 8 GiB."""
    large = json.dumps([rows[i % len(rows)] for i in range(200)])
    options = ["--body-bytes", str(len(large)), "--total-bytes", str(len(large)), "--body-seconds", "3"]
    sent = f"{HEAD}Content-Length: {len(large)}\r\n\r\n{large[:-1]}"
    with running(bundle, *options) as (_, address), client_of(address, **JSON) as client:
        with connect(address, sent) as held:
            while (answer := client.post("/predict", content=large)).status_code == 200:
                time.sleep(0.05)  # the other's bytes are still on their way
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert re.search(r"bodies in work hold [\d,]+ of [\d,]+ bytes", answer.json()["error"])
            assert client.post("/predict", json=rows[0]).status_code == 200
            held.sendall(large[-1:].encode())
            assert "HTTP/1.1 200 " in held.recv(65536).decode()
        with connect(address, sent), connect(address, sent) as refused:  # one of them is refused or comes too late
            refused.recv(65536)
        time.sleep(0.2)
        assert client.post("/predict", content=large).status_code == 200  # all room has come back


def test_a_compressed_body_is_refused_by_its_header(client: httpx.Client, rows: list[dict[str, Any]]) -> None:
    body = gzip.compress(json.dumps(rows[0]).encode())
    answer = client.post("/predict", content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert "uncompressed" in answer.json()["error"]


def test_only_hosts_of_this_machine_are_answered_on_it(client: httpx.Client) -> None:
    rebound = client.get("/card", headers={"host": "attacker.example"})
    assert rebound.status_code == 400
    assert "Host" in rebound.json()["error"]
    for host in ("localhost:8080", "127.0.0.1", "[::1]:9"):
        assert client.get("/card", headers={"host": host}).status_code == 200


def test_a_token_guards_all_but_health(bundle: Path, rows: list[dict[str, Any]]) -> None:
    with running(bundle, "--host", "0.0.0.0", RECSYS_TOKEN="ein längeres Wort") as (_, address):
        here = address.replace("0.0.0.0", "127.0.0.1")
        with client_of(here, host="elsewhere.example") as client:
            assert client.get("/health").status_code == 200
            for path in ("/card", "/docs", "/openapi.json"):
                assert client.get(path).status_code == 401
            assert client.post("/predict", json=rows[0], headers={"authorization": "Bearer wrong"}).status_code == 401
            right = {"authorization": "Bearer ein längeres Wort".encode()}
            assert client.post("/predict", json=rows[0], headers=right).status_code == 200
            assert client.get("/card", headers=right).status_code == 200


def test_a_refusal_is_read_even_if_the_body_comes_after_it(bundle: Path, tight: str) -> None:
    with ExitStack() as stack:
        _, address = stack.enter_context(running(bundle, "--host", "0.0.0.0", RECSYS_TOKEN="word"))
        asked = HEAD + "Content-Length: 4\r\n\r\n"
        door = stack.enter_context(connect(address.replace("0.0.0.0", "127.0.0.1"), asked))
        time.sleep(0.3)  # the answer lies there
        authorized = HEAD + "Authorization: Bearer word\r\nConnection: close\r\n"
        door.sendall(f"more{authorized}Content-Length: 2\r\n\r\n".encode())
        time.sleep(1.2)  # longer than the rest of the first body may take
        door.sendall(b"[]")
        assert re.findall(r"HTTP/1.1 (\d+)", everything(door)) == ["401", "200"]
    with connect(tight, HEAD + "Transfer-Encoding: chunked\r\n\r\n") as door:
        time.sleep(0.3)
        door.sendall(b"more")
        assert everything(door).startswith("HTTP/1.1 411")


def test_other_machines_are_not_served_without_a_token_unless_asked(bundle, monkeypatch, capsys) -> None:
    monkeypatch.delenv("RECSYS_TOKEN", raising=False)
    assert main(["serve", str(bundle), "--host", "0.0.0.0"]) == 2
    assert "RECSYS_TOKEN" in capsys.readouterr().err
    assert main(["serve", str(bundle), "--rows", "0"]) == 2
    assert "--rows must be above 0" in capsys.readouterr().err
    assert main(["serve", str(bundle), "--host", "0.0.0.0", "--any"]) == 2
    assert "unrecognized arguments: --any" in capsys.readouterr().err
    assert main(["serve", str(bundle), "--stop-seconds", "inf"]) == 2
    assert "--stop-seconds must be at most 10^12" in capsys.readouterr().err
    assert main(["serve", str(bundle), "--body-bytes", "2000000000"]) == 2
    assert "--total-bytes 134217728 is less" in capsys.readouterr().err
    for token in ("", " word", "word\n", "a\tb"):
        monkeypatch.setenv("RECSYS_TOKEN", token)
        assert main(["serve", str(bundle)]) == 2
        assert "the token" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to_even_if_a_body_is_half_sent_and_prints_no_traceback(bundle, rows, number) -> None:
    with running(bundle, "--stop-seconds", "1") as (process, address):
        assert httpx.post(f"{address}/predict", json=rows[0], trust_env=False).status_code == 200
        with connect(address, HEAD + "Content-Length: 400\r\n\r\n{"), connect(address, "GET"):
            with connect(address, HEAD + "Content-Length: 400\r\n\r\n{"):
                time.sleep(0.2)  # and goes away with its body half sent
            with connect(address, HEAD + "Transfer-Encoding: chunked\r\n\r\n") as refused:
                assert "HTTP/1.1 411" in refused.recv(65536).decode()
                process.send_signal(number)
                assert process.wait(10) in (0, 128 + number)
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_health_answers_while_large_requests_are_scored_and_too_many_of_them_are_refused(bundle, rows) -> None:
    body = json.dumps([rows[i % len(rows)] for i in range(10_000)])
    with running(bundle, "--waiting", "4") as (_, address), client_of(address, **JSON) as client:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(client.post("/predict", content=body).status_code))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        slowest = 0.0
        while any(t.is_alive() for t in threads):
            started = time.perf_counter()
            with client_of(address) as other:
                assert other.get("/health").status_code == 200
            slowest = max(slowest, time.perf_counter() - started)
        assert slowest < 2
        assert set(statuses) == {200, 503}


@pytest.mark.slow
def test_few_file_descriptors_neither_stop_it_nor_fill_the_log(bundle) -> None:
    """600 half-sent requests to a server that may open 256 files."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
    code += "from recsys.commands.cli import main; sys.exit(main(['serve', sys.argv[1], '--port', '0', *sys.argv[2:]]))"
    command = [sys.executable, "-c", code, str(bundle)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--connections 128" in refused.stderr
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--connections", "128", "--header-seconds", "2"], **pipes) as process:
        try:
            address = process.stdout.readline().split()[3]
            doors = [connect(address, "POST /predict HTTP/1.1\r\n") for _ in range(600)]
            for door in doors:
                door.close()
            time.sleep(2.5)
            assert httpx.get(f"{address}/health", trust_env=False).status_code == 200
        finally:
            process.terminate()
        assert len(process.stderr.read()) < 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_address_in_use_or_out_of_range_is_one_line(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*another host or port"):
            serve(bundle, port=port)
    with pytest.raises(ConfigError, match="0 to 65535, got 70000"):
        serve(bundle, port=70_000)
    with pytest.raises(ConfigError, match="above 0"):
        Limits(body_seconds=0)

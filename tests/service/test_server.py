"""The scoring server answers as the bundle does, and refuses in one line."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from recsys.errors import ConfigError
from recsys.serving.bundle import Bundle
from recsys.serving.server import make_app, serve


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    return Bundle.load(bundle)


@pytest.fixture(scope="module")
def rows(bundle: Path) -> list[dict[str, Any]]:
    return json.loads((bundle / "golden.json").read_text())["rows"]


@pytest.fixture(scope="module")
def client(loaded: Bundle) -> Iterator[httpx.Client]:
    """A client of a real server, on a port that the system chose."""
    server = uvicorn.Server(uvicorn.Config(make_app(loaded), log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            until = time.monotonic() + 30
            while not server.started and thread.is_alive() and time.monotonic() < until:
                time.sleep(0.01)
            address = f"http://127.0.0.1:{door.getsockname()[1]}"
            with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(30)


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


def test_many_requests_at_once_do_not_mix(client: httpx.Client, loaded: Bundle, rows: list[dict[str, Any]]) -> None:
    want = loaded.score(rows[:40])

    def ask(i: int) -> float:
        return client.post("/predict", json=rows[i]).json()["probability"]

    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose(list(pool.map(ask, range(40))), want, atol=1e-6)


def test_serve_answers_until_it_is_told_to_stop(bundle: Path, rows: list[dict[str, Any]], loaded: Bundle) -> None:
    """The command's own door, in a process of its own: a printed address, an answer, a quiet end."""
    code = "import sys; from recsys.serving.server import serve; serve(sys.argv[1], port=0)"
    with subprocess.Popen([sys.executable, "-c", code, str(bundle)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[3]
            answer = httpx.post(f"{address}/predict", json=rows[0], trust_env=False, timeout=30)
            assert answer.json()["probability"] == pytest.approx(loaded.score(rows[:1])[0], abs=1e-6)
        finally:
            server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_an_address_in_use_or_out_of_range_is_one_line(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*another host or port"):
            serve(bundle, port=port)
    with pytest.raises(ConfigError, match="0 to 65535, got 70000"):
        serve(bundle, port=70_000)

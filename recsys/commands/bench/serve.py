"""`recsys bench serve`: requests a second and latency of a real server, beside scoring without HTTP.

The server runs in a process of its own; the client below speaks HTTP/1.1 on connections that it keeps
open, as services do. Both share this machine's cores.
"""

import http.client
import itertools
import json
import subprocess
import sys
import threading
import time
import timeit
from argparse import Namespace
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

import recsys
from recsys.errors import DataError
from recsys.serving.bundle import Bundle
from recsys.terminal import console
from recsys.training.memory import keep_freed_memory

__all__ = ["main"]

_console = console()
_HEADERS = {"Content-Type": "application/json"}
_MANY_ROWS = 200
_CONNECTIONS = 16


@contextmanager
def _server(bundle: Path) -> Generator[str]:
    """Serve the bundle on a free port of this machine → `host:port`."""
    command = [sys.executable, "-m", "recsys", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            if len(words) < 4:
                raise DataError(f"bench serve: the server of {bundle} did not start: the line above says why")
            yield urlsplit(words[3]).netloc
        finally:
            process.terminate()


def _post(connection: http.client.HTTPConnection, body: str) -> None:
    connection.request("POST", "/predict", body, _HEADERS)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise DataError(f"bench serve: expected status 200, got {answer.status}: {content[:200]!r}")


def _kept_open(address: str, bodies: list[str], requests: int) -> list[float]:
    """Seconds of each request on one connection."""
    turn = itertools.cycle(bodies)
    with closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        return timeit.repeat(lambda: _post(connection, next(turn)), number=1, repeat=requests)


def _at_once(address: str, bodies: list[str], requests: int) -> list[float]:
    """Seconds of each request on 16 connections that are busy together."""
    seconds: list[list[float]] = [[] for _ in range(_CONNECTIONS)]

    def client(i: int) -> None:
        seconds[i] = _kept_open(address, bodies, requests // _CONNECTIONS)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [t for part in seconds for t in part]


def _new_each(address: str, bodies: list[str], requests: int) -> list[float]:
    """Seconds of each request on a connection of its own."""
    return [t for i in range(requests) for t in _kept_open(address, [bodies[i % len(bodies)]], 1)]


def _without_http(bundle: Bundle, rows: list[Any], requests: int) -> list[float]:
    """Seconds of scoring one row in this process."""
    turn = itertools.cycle(rows)
    return timeit.repeat(lambda: bundle.score([next(turn)]), number=1, repeat=requests)


def _summary(name: str, seconds: float, latencies: list[float]) -> dict[str, float]:
    return {
        f"{name}_requests_per_second": round(len(latencies) / seconds, 1),
        f"{name}_p50_ms": round(1e3 * float(np.median(latencies)), 3),
        f"{name}_p99_ms": round(1e3 * float(np.quantile(latencies, 0.99)), 3),
    }


def main(given: Namespace) -> int:
    """Measure a bundle's server, and print one JSON line last."""
    keep_freed_memory()
    loaded = Bundle.load(given.bundle)
    rows = json.loads((Path(given.bundle) / "golden.json").read_bytes())["rows"]
    if not rows:
        raise DataError(
            f"bench serve: {given.bundle} holds no golden rows to send: export it with export.golden=synthetic"
        )
    single = [json.dumps(row) for row in rows]
    many = [json.dumps([rows[i % len(rows)] for i in range(_MANY_ROWS)])]
    figures: dict[str, Any] = {}
    with _server(Path(given.bundle)) as address:
        _kept_open(address, single, 200)  # warm
        cases: dict[str, Callable[[], list[float]]] = {
            "one_connection": lambda: _kept_open(address, single, given.requests),
            f"{_CONNECTIONS}_connections": lambda: _at_once(address, single, given.requests),
            "new_connections": lambda: _new_each(address, single, given.requests),
            f"{_MANY_ROWS}_rows": lambda: _kept_open(address, many, max(20, given.requests // 20)),
            "without_http": lambda: _without_http(loaded, rows, given.requests),
        }
        for name, measure in cases.items():
            _console.print(name.replace("_", " "), highlight=False)
            started = time.perf_counter()
            latencies = measure()
            figures |= _summary(name, time.perf_counter() - started, latencies)
    print(
        json.dumps({"bench": "serve", "runtime": loaded.runtime, **figures, "versions": {"recsys": recsys.__version__}})
    )
    return 0

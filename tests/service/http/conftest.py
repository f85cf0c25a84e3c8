"""The service's application on a queue of its own, called in this process: no server, no port.

On SQLite; the slow tests are the same on Postgres.
"""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from recsys.service.http.app import make_app
from recsys.service.http.settings import Settings, Tokens
from recsys.service.queue.open import open_queue
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import NewRun
from tests.service.queue.conftest import Server, server  # noqa: F401  # fixture

TOKENS = Tokens({role: f"{role}-token-of-32-letters-and-more" for role in ("view", "submit", "admin")})


@dataclass
class Caller:
    """Sends requests to an application, with a token and the cookies that it was given."""

    app: FastAPI
    token: str | None = None
    cookies: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, host: str = "127.0.0.1:8081", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        options["headers"] = {**headers, **options.get("headers", {})}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url=f"http://{host}", cookies=self.cookies
            ) as client:
                return await client.request(method, path, **options)

        response = asyncio.run(send())
        self.cookies.update(response.cookies)
        return response

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self("POST", path, **options)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service's folder, which is the current one."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECSYS_DATABASE", raising=False)
    return tmp_path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty database, which the environment names too."""
    url = f"sqlite:///{place / 'runs' / 'service.db'}"
    if request.param == "postgres":
        postgres: Server = request.getfixturevalue("server")
        postgres.clear()
        url = postgres.url
    monkeypatch.setenv("RECSYS_DATABASE", url)
    return url


@pytest.fixture
def queue(database: str) -> Generator[Queue]:
    queue = open_queue(database)
    yield queue
    queue.close()


@pytest.fixture
def settings(place: Path) -> Settings:
    return Settings(place / "runs", place)


@pytest.fixture
def here(queue: Queue, settings: Settings) -> Caller:
    """A caller of a service without tokens, on loopback."""
    return Caller(make_app(queue, settings))


@pytest.fixture
def guarded(queue: Queue, place: Path) -> Callable[[str | None], Caller]:
    """Role → a caller with its token; None → one without."""
    app = make_app(queue, Settings(place / "runs", place, tokens=TOKENS, hosts=None))
    return lambda role: Caller(app, TOKENS.by_role[role] if role else None)


def new_run(place: Path, id: str = "20260101-000000-demo-0", **changes: Any) -> NewRun:
    """A run as `compose` makes it, made up."""
    values: dict[str, Any] = {
        "overrides": ["experiment=demo"],
        "config": {"seed": 0},
        "digest": "0" * 16,
        "name": "demo",
    }
    return NewRun(id=id, runs=str(place / "runs"), cwd=str(place), **{**values, **changes})

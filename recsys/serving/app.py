"""The scoring application: POST /predict, GET /health, /card, /docs and /openapi.json."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from recsys.errors import DataError
from recsys.files import Json
from recsys.serving.bundle import Bundle
from recsys.serving.limits import Limits
from recsys.serving.openapi import docs_page, predict_schema
from recsys.serving.rows import parse_json

__all__ = ["make_app"]

_AT_ONCE = 8_192  # bytes; a body up to this is scored in the event loop: handing it to a thread costs more
_BRACKETS_OF_A_ROW = 100  # most { and [ in a body, for each allowed row: far more than an honest row has
_NOBODY = 499  # status if the client has disconnected: nobody reads it


class _Refusal(Exception):
    """Answers a request with an error instead of a score.

    Args:
        status: HTTP status.
        error: One line that says what is wrong and how to mend it.
    """

    def __init__(self, status: int, error: str):
        self.status, self.error = status, error


def _json(value: Json, status: int = 200) -> Response:
    headers = {"retry-after": "1"} if status == 503 else {}
    headers |= {"www-authenticate": "Bearer"} if status == 401 else {}
    return Response(json.dumps(value), status, headers, "application/json")


class _Room:
    """Counts the bytes of large bodies in memory, from their arrival until they are scored.

    Small bodies are not counted: the limit on connections bounds their sum.

    Args:
        most: Most bytes at once.
    """

    def __init__(self, most: int):
        self.most, self.held = most, 0

    def take(self, size: int) -> None:
        """Count more bytes.

        Raises:
            _Refusal: If their sum would exceed `most`.
        """
        if self.held + size > self.most:
            raise _Refusal(503, f"bodies in work hold {self.held:,} of {self.most:,} bytes: try again later")
        self.held += size


class _Body:
    """The body of one request; its bytes count in the room until `free`."""

    def __init__(self, limits: Limits, room: _Room):
        self.limits, self.room, self.taken = limits, room, 0

    async def read(self, request: Request) -> bytes:
        """Read the body; refuse it if it is too large, too slow or not JSON, or all bodies together are too large."""
        limits = self.limits
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refusal(415, "expected the header Content-Type: application/json: add it")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refusal(415, "expected a body without Content-Encoding: send it uncompressed")
        length = request.headers.get("content-length", "")
        self._check(int(length) if length.isdigit() else 0)
        parts, size = list[bytes](), 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    self._check(size)
                    if size > _AT_ONCE:
                        self._grow(size)
                    parts.append(part)
        except TimeoutError as error:
            late = f"the body did not come whole within {limits.body_seconds:g} s: send it again"
            raise _Refusal(408, late) from error
        except asyncio.CancelledError as error:  # uvicorn cancels unfinished requests when it stops
            raise _Refusal(503, "the server is stopping: send it again later") from error
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self.limits.body_bytes:
            most = self.limits.body_bytes
            raise _Refusal(413, f"expected a body of at most {most:,} bytes: send fewer rows at a time")

    def _grow(self, size: int) -> None:
        self.room.take(size - self.taken)
        self.taken = size

    def free(self) -> None:
        """Stop counting the body's bytes."""
        self.room.held -= self.taken


def _answer(bundle: Bundle, body: bytes, most_rows: int) -> Json:
    """Score the rows in a request's body."""
    most = _BRACKETS_OF_A_ROW * most_rows
    if (brackets := body.count(b"{") + body.count(b"[")) > most:  # parsed, an empty one takes 36 times its bytes
        raise _Refusal(413, f"expected at most {most:,} of {{ and [, got {brackets:,}: send fewer rows at a time")
    sent = parse_json(body)
    if isinstance(sent, dict) and set(sent) == {"rows"} and "rows" not in bundle.schema.raw_columns:
        sent = sent["rows"]
        if not isinstance(sent, list):
            raise DataError(f"rows: expected a list of rows, got {type(sent).__name__}: put the row in [ ]")
    if isinstance(sent, list):
        if len(sent) > most_rows:
            raise _Refusal(413, f"expected at most {most_rows:,} rows, got {len(sent):,}: send fewer at a time")
        return {"probabilities": bundle.answers(sent)}
    if isinstance(sent, dict):
        return {"probability": bundle.answers([sent])[0]}
    raise DataError(f'expected a row as an object, a list of rows or {{"rows": […]}}, got {type(sent).__name__}')


class _Scoring:
    """Scores bodies: small ones in the event loop, large ones in a few threads with a bounded queue."""

    def __init__(self, bundle: Bundle, limits: Limits):
        self.bundle, self.limits, self.inside = bundle, limits, 0
        self.pool = ThreadPoolExecutor(limits.threads, "score")

    async def __call__(self, body: bytes) -> Json:
        """Score a body.

        Raises:
            _Refusal, DataError: If `_answer` raises it, or too many requests wait already.
        """
        if len(body) <= _AT_ONCE:
            return _answer(self.bundle, body, self.limits.rows)
        if self.inside >= self.limits.threads + self.limits.waiting:
            raise _Refusal(503, f"{self.limits.waiting} requests wait already: try again later")
        self.inside += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.pool, _answer, self.bundle, body, self.limits.rows)
        finally:
            self.inside -= 1


def _check_caller(request: Request, token: str | None, hosts: Sequence[str] | None) -> None:
    """Refuse a request without the token, or with a Host header that is not allowed: a web page may have sent it."""
    if hosts is not None:
        named = request.headers.get("host", "")
        host = named.rsplit(":", 1)[0] if not named.endswith("]") else named
        if host.lower() not in hosts:
            raise _Refusal(400, f"expected a Host header among {', '.join(hosts)}, got {host[:60]!r}")
    if token is not None:
        given = request.headers.get("authorization", "").encode("latin-1")  # the bytes as sent
        if not hmac.compare_digest(given, f"Bearer {token}".encode("utf-8", "surrogateescape")):
            raise _Refusal(401, "expected the header Authorization: Bearer TOKEN with this server's token")


Route = Callable[[Request], Awaitable[Response]]


def make_app(
    bundle: Bundle, limits: Limits | None = None, token: str | None = None, hosts: Sequence[str] | None = None
) -> FastAPI:
    """Build the application.

    `POST /predict` takes a raw row, a list of rows or `{"rows": [...]}` and answers
    `{"probability": p}` or `{"probabilities": [...]}`. Each p is a number or, if there are several
    labels, `{"click": p, "buy": q}`. A request that cannot be scored gets
    `{"error": "<one line>"}` and the status that /openapi.json names. `GET /health` answers
    `{"status": "ok"}` without a token, `GET /card` the bundle's card, `GET /docs` a page for people.

    Args:
        bundle: The model.
        limits: Limits on requests; see `Limits`.
        token: Token that callers must send as `Authorization: Bearer TOKEN`; None: no token is needed.
        hosts: Allowed Host headers; None allows all.
    """
    limits = limits or Limits()
    # FastAPI's own pages load scripts from other servers.
    summary = "Scores raw rows with one bundle"
    app = FastAPI(title="recsys", description=summary, docs_url=None, redoc_url=None, openapi_url=None)
    scoring, room = _Scoring(bundle, limits), _Room(limits.total_bytes)
    name = str(bundle.card.get("name") or "recsys")

    def guarded(route: Route, token: str | None = token) -> Route:
        async def answer(request: Request) -> Response:
            try:
                _check_caller(request, token, hosts)
                return await route(request)
            except _Refusal as refusal:
                return _json({"error": refusal.error}, refusal.status)
            except DataError as error:
                return _json({"error": " ".join(str(error).split())}, 422)
            except ClientDisconnect:
                return Response(status_code=_NOBODY)

        return answer

    async def predict(request: Request) -> Response:
        body = _Body(limits, room)
        try:
            return _json(await scoring(await body.read(request)))
        finally:
            body.free()

    async def health(request: Request) -> Response:
        return _json({"status": "ok", "runtime": bundle.runtime})

    async def card(request: Request) -> Response:
        return _json(bundle.card)

    async def docs(request: Request) -> Response:
        return HTMLResponse(docs_page(bundle.schema, name, token is not None))

    async def description(request: Request) -> Response:
        return _json(app.openapi())

    async def refused(request: Request, error: Any) -> Response:
        routes = "expected POST /predict, or GET /health, /card, /docs or /openapi.json"
        answer = _json({"error": f"{error.detail}: {routes}"}, error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(HTTPException, refused)
    read = ["GET", "HEAD"]
    extra = predict_schema(bundle.schema)
    app.add_api_route("/predict", guarded(predict), methods=["POST"], openapi_extra=extra, response_model=None)
    app.add_api_route("/health", guarded(health, None), methods=read, response_model=None)
    app.add_api_route("/card", guarded(card), methods=read, response_model=None)
    app.add_route("/docs", guarded(docs), methods=read, include_in_schema=False)
    app.add_route("/openapi.json", guarded(description), methods=read, include_in_schema=False)
    return app

"""What surrounds every answer: who calls, limits on the body, safe headers, one line of log, no traceback."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from recsys.service.http.auth import WINDOW, Access, Caller, Refusal
from recsys.service.http.settings import Settings
from recsys.service.logs import note

__all__ = ["CSP", "Outer", "answer_error", "retry_after"]

Message = MutableMapping[str, Any]
App = Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_OPEN = ("/health", "/login")  # answered to everybody
_MACHINES = ("/api/", "/metrics", "/health", "/openapi.json", "/static/")  # where no browser needs a session
_BODY_SECONDS = 10.0  # for a body to arrive


def retry_after(status: int) -> dict[str, str]:
    """The header that says after how many seconds to come again, of the statuses for which that helps."""
    seconds = {429: WINDOW, 503: 5}.get(status)
    return {"retry-after": str(seconds)} if seconds else {}


def answer_error(request: Request, status: int, error: str) -> Response:
    """An error as JSON; a browser that asks for a page and has not signed in is sent to /login."""
    page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
    if status == 401 and page and request.method == "GET":
        return Response(status_code=303, headers={"location": "/login"})
    headers = {"www-authenticate": "Bearer"} if status == 401 else retry_after(status)
    return Response(json.dumps({"error": error}), status, headers, "application/json")


class Outer:
    """An ASGI application around another.

    Args:
        app: The inner one. It finds the caller in `request.state.caller`.
        settings: With the limit on bodies.
        access: Decides who calls.
    """

    def __init__(self, app: App, settings: Settings, access: Access):
        self._app, self._settings, self._access = app, settings, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        method: str = scope["method"]
        if method == "HEAD":
            scope, receive, send = _head(scope, send)
        request, started, status = Request(scope), time.monotonic(), 0
        cookie: str | None = None

        async def headed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with(message.get("headers", []), cookie)
            await send(message)

        try:
            sender = self._access.of(request)
            if sender.by == "open" and not sender.csrf and _is_page(request):
                sender, cookie = self._begin(request)
            request.state.caller = sender
            self._check(request, sender)
            await self._app(scope, self._limited(receive), headed)
        except Refusal as refusal:
            if not status:
                await answer_error(request, refusal.status, refusal.error)(scope, receive, headed)
        except Exception as error:
            note(logging.ERROR, "failed", error, method=method, path=request.url.path)
            if status:
                raise
            await answer_error(request, 500, "the service failed: its log says where")(scope, receive, headed)
        finally:
            self._note(request, method, status, started)

    def _begin(self, request: Request) -> tuple[Caller, str]:
        """A session for a browser that needs no token: its forms need a CSRF token all the same."""
        response = Response()
        value = self._access.begin(response, "admin", request.url.scheme == "https")
        known = self._access.of_session(value)
        assert known is not None  # it was made a moment ago
        return known, response.headers["set-cookie"]

    def _check(self, request: Request, sender: Caller) -> None:
        """Refuse what needs no look at the body.

        Raises:
            Refusal: 401, 404, 411, 413 or 414.
        """
        length = request.headers.get("content-length", "0")
        if sender.role is None and request.method != "GET" and request.url.path not in _OPEN:
            raise Refusal(401, "expected the header Authorization: Bearer TOKEN, or a session: sign in at /login")
        if "transfer-encoding" in request.headers or not length.isascii() or not length.isdigit():
            raise Refusal(411, "expected the header Content-Length, and no body in chunks: add it")
        if int(length[:20]) > self._settings.limits.body_bytes:
            raise Refusal(413, f"expected a body of at most {self._settings.limits.body_bytes:,} bytes: send less")
        if len(request.url.path) > 2000 or len(request.url.query) > 65_536:
            raise Refusal(414, "expected a shorter address: send less in it")
        if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:  # no text of Postgres holds it
            raise Refusal(404, "expected an address without the letter NUL (%00): leave it out")

    def _limited(self, receive: Callable[[], Awaitable[Message]]) -> Callable[[], Awaitable[Message]]:
        """`receive`, which raises if the body is too large or too slow."""
        size, whole, until = 0, False, time.monotonic() + _BODY_SECONDS

        async def limited() -> Message:
            nonlocal size, whole
            try:
                async with asyncio.timeout(None if whole else max(0.0, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not come whole within {_BODY_SECONDS:g} s: send it again"
                ) from None
            size += len(message.get("body", b""))
            whole = whole or not message.get("more_body", False)
            if size > self._settings.limits.body_bytes:
                raise HTTPException(413, f"expected at most {self._settings.limits.body_bytes:,} bytes: send less")
            return message

        return limited

    def _note(self, request: Request, method: str, status: int, started: float) -> None:
        path = request.url.path
        if path in ("/health", "/metrics") or path.startswith("/static/"):
            return
        sender: Caller | None = getattr(request.state, "caller", None)
        run = request.scope.get("path_params", {}).get("id")
        role, ms = (sender and sender.role) or "nobody", round((time.monotonic() - started) * 1000, 1)
        note(logging.INFO, "request", method=method, path=path, status=status, ms=ms, role=role, run=run)


def _head(scope: Any, send: Callable[[Message], Awaitable[None]]) -> tuple[Any, Any, Any]:
    """A HEAD as the GET that answers it: its headers are sent on, its body is not, and a stream ends at once."""
    begun = asyncio.Event()

    async def receive() -> Message:
        await begun.wait()
        return {"type": "http.disconnect"}

    async def headers_only(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            begun.set()

    return {**scope, "method": "GET"}, receive, headers_only


def _is_page(request: Request) -> bool:
    return request.method == "GET" and not request.url.path.startswith(_MACHINES)


def _with(headers: list[tuple[bytes, bytes]], cookie: str | None) -> list[tuple[bytes, bytes]]:
    """Headers, with the safe ones that are not set yet."""
    present = {name.lower() for name, _ in headers}
    more = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in present]
    return [*headers, *more, *([(b"set-cookie", cookie.encode())] if cookie else [])]

"""The service's web application: /api, /metrics, /health, /login and the pages."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException

from recsys.errors import RecsysError, in_one_line
from recsys.files import disk_full
from recsys.service.http.api import VIEW, api_router
from recsys.service.http.auth import COOKIE, Access, Refusal, needs
from recsys.service.http.live import Streams
from recsys.service.http.metrics import CONTENT, Metrics
from recsys.service.http.outer import Outer, answer_error, retry_after
from recsys.service.http.settings import Settings
from recsys.service.logs import note
from recsys.service.queue.errors import QueueDown
from recsys.service.queue.folders import read_folders
from recsys.service.queue.sql import SqlQueue

__all__ = ["make_app"]

_LOOK_SECONDS = 2.0
_JOIN_SECONDS = 1.0

_LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in · recsys</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/static/pages.css"></head>
<body><header><span class="brand">recsys</span></header><main id="main"><h1>Sign in</h1><p role="status">{said}</p>
<form method="post" action="/login"><p><label>Token <input type="password" name="token" required
 autocomplete="current-password"></label> <button>Sign in</button></p></form></main></body></html>
"""


def make_app(queue: SqlQueue, settings: Settings) -> FastAPI:
    """Build the application; the process must be in the folder `settings.cwd`.

    Args:
        queue: The queue; it stays open when the application ends.
        settings: See `Settings`.
    """
    access, streams = Access(settings), Streams(queue, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        over = threading.Event()
        looking = threading.Thread(target=_look, args=(queue, settings, over), daemon=True)  # a dead disk may hold it
        looking.start()
        yield
        over.set()
        await asyncio.to_thread(looking.join, _JOIN_SECONDS)
        await streams.close()

    app = FastAPI(title="recsys", description="Submit, watch, cancel, resume and compare runs", lifespan=lifespan,
                  docs_url=None, redoc_url=None, openapi_url=None)  # fmt: skip
    app.state.streams = streams
    _errors(app)
    app.include_router(api_router(queue, settings, streams))
    _others(app, queue, Metrics(queue, streams))
    _login(app, access)
    app.add_middleware(Outer, settings=settings, access=access)
    return app


def _look(queue: SqlQueue, settings: Settings, over: threading.Event) -> None:
    """Keep rows of runs that `recsys run` began up to date with their folders."""
    while True:
        try:
            read_folders(queue, settings.runs)
        except Exception as error:  # the database or the disk may come back, and a folder may hold anything
            note(logging.WARNING, "folders", error)
        if over.wait(_LOOK_SECONDS):
            return


def _errors(app: FastAPI) -> None:
    """Every error is one line of JSON, without what was sent."""

    def refused(request: Request, error: Any) -> Response:
        return answer_error(request, error.status, error.error)

    def http(request: Request, error: Any) -> Response:
        answer = answer_error(request, error.status_code, f"{error.detail}: GET /openapi.json lists what there is")
        answer.headers.update(error.headers or {})
        return answer

    def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer_error(request, 422, "expected a body of JSON, got none: check its quotes and brackets")
        place = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
        said = str(first["msg"])[:200].lower()
        said = said.removeprefix("value error, ") if first["type"] == "value_error" else f"{said}: mend it"
        return answer_error(request, 422, f"{place or 'body'}: {said}")

    def wrong(request: Request, error: Any) -> Response:
        return answer_error(request, 503 if isinstance(error, QueueDown) else 422, in_one_line(error))

    def system(request: Request, error: Any) -> Response:
        if not disk_full(error):
            raise error
        return answer_error(request, 507, "no space is left on the service's disk: free some")

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(RecsysError, wrong)
    app.add_exception_handler(OSError, system)


def _others(app: FastAPI, queue: SqlQueue, metrics: Metrics) -> None:
    @app.get("/health", summary="Whether the service and its database answer")
    def health() -> dict[str, str]:
        queue.counts()
        return {"status": "ok"}

    @app.get("/metrics", dependencies=[VIEW], response_class=Response, summary="State of the queue, for Prometheus")
    def measured() -> Response:
        return Response(metrics.render(), media_type=CONTENT)

    @app.get("/openapi.json", dependencies=[VIEW], include_in_schema=False)
    def description() -> Response:
        return JSONResponse(app.openapi())


def _login(app: FastAPI, access: Access) -> None:
    @app.get("/login", include_in_schema=False)
    def login_page(request: Request) -> Response:
        return HTMLResponse(_LOGIN.format(said="A token of this service: RECSYS_TOKEN, or that of another role."))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        token = (await request.form(max_files=0, max_fields=10)).get("token", "")
        try:
            role = access.role_of(token, request) if isinstance(token, str) else None
        except Refusal as refusal:
            return HTMLResponse(_LOGIN.format(said=refusal.error), refusal.status, retry_after(refusal.status))
        if role is None:
            return HTMLResponse(_LOGIN.format(said="This is no token of this service."), 401)
        answer = RedirectResponse("/", 303)
        access.begin(answer, role, request.url.scheme == "https")
        return answer

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        await needs("view")(request)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

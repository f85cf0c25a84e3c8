"""The service's application with its pages; an error that a browser meets is a page too."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from recsys.errors import RecsysError
from recsys.service.http.app import make_app
from recsys.service.http.auth import Refusal
from recsys.service.http.settings import Settings
from recsys.service.pages.routes import router
from recsys.service.pages.view import View
from recsys.service.queue.sql import SqlQueue

__all__ = ["make_site"]

Handler = Callable[[Request, Exception], Response]


def make_site(queue: SqlQueue, settings: Settings) -> FastAPI:
    """Build the application; see `make_app`.

    Args:
        queue: The queue; it stays open when the application ends.
        settings: See `Settings`.
    """
    app = make_app(queue, settings)
    app.include_router(router(queue, settings))
    view = View(settings)
    for kind in (Refusal, HTTPException, RequestValidationError, RecsysError):
        app.add_exception_handler(kind, _error_page(app, kind, view))
    return app


def _error_page(app: FastAPI, kind: type[Exception], view: View) -> Handler:
    """A handler that shows what the application's own one answers: to a browser as a page, else as it is."""
    answer = cast(Handler, app.exception_handlers[kind])

    def handle(request: Request, error: Exception) -> Response:
        plain = answer(request, error)
        path, wanted = request.url.path, request.headers.get("accept", "")
        if plain.status_code < 400 or "text/html" not in wanted or path.startswith("/api/"):
            return plain
        said = json.loads(bytes(plain.body))["error"]
        title = HTTPStatus(plain.status_code).phrase.capitalize()
        return view(request, "error", plain.status_code, title=title, error=said)

    return handle

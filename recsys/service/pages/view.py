"""Renders the templates; text is escaped there, always."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import QueryParams

from recsys.service.http.auth import Caller
from recsys.service.http.settings import Settings
from recsys.service.pages.parts import words
from recsys.service.pages.static import address

__all__ = ["View", "changed", "link"]


def link(path: str, **query: Any) -> str:
    """An address; of the query, what is empty or None is left out."""
    kept = {key: value for key, value in query.items() if value not in (None, "", [], ())}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path


def changed(path: str, query: QueryParams, **change: Any) -> str:
    """The same address with other values of some keys; None or [] removes a key."""
    names = {name.removeprefix("_"): value for name, value in change.items()}
    kept = [(key, value) for key, value in query.multi_items() if key not in names and value != ""]
    for key, value in names.items():
        kept += [(key, v) for v in (value if isinstance(value, list) else [value]) if v is not None]
    return f"{path}?{urlencode(kept)}"


class View:
    """Renders pages.

    Args:
        settings: With MLflow's address, and whether tokens are needed.
    """

    def __init__(self, settings: Settings):
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters.update(
            {n: getattr(words, n) for n in ("clock", "duration", "megabytes", "shown", "size")}
        )
        known: Any = {"mlflow": settings.mlflow, "version": version("recsys"), "link": link, "static": address}
        self._templates.globals.update(known)
        self._guarded = bool(settings.tokens.by_role)

    def __call__(self, request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page.

        Args:
            request: Who asks, and for what.
            name: Of the template, without its endings.
            status: HTTP status.
            values: What the template shows.
        """
        sender: Caller | None = getattr(request.state, "caller", None)
        return HTMLResponse(self._page(name, self._common(request, sender) | values), status)

    def _page(self, name: str, values: Mapping[str, Any]) -> str:
        return self._templates.get_template(f"{name}.html.j2").render(values)

    def _common(self, request: Request, sender: Caller | None) -> dict[str, Any]:
        path, query = request.url.path, request.url.query
        return {
            "csrf": sender.csrf if sender else "",
            "role": (sender and sender.role) or "",
            "may": sender is not None and sender.may("submit"),
            "signed_in": self._guarded and sender is not None and sender.by == "cookie",
            "next": f"{path}?{query}" if query else path,
            "here": path.strip("/") or "runs",
        }

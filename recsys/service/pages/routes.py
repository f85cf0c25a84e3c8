"""The addresses of the pages: each view is an address, each action a form."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from recsys.files import Json
from recsys.service.curves import Curves
from recsys.service.http.api import change, compose, get
from recsys.service.http.auth import Caller, Refusal, needs
from recsys.service.http.bodies import Asked
from recsys.service.http.settings import Settings
from recsys.service.pages.compared import add_comparison
from recsys.service.pages.parts.defaults import Defaults
from recsys.service.pages.parts.one import one_run
from recsys.service.pages.parts.rows import Row, rows_of
from recsys.service.pages.parts.words import duration
from recsys.service.pages.static import FILES
from recsys.service.pages.submission import add_submission
from recsys.service.pages.swept import add_sweep
from recsys.service.pages.view import View, link
from recsys.service.queue.records import STATES, Load, State
from recsys.service.queue.sql import SqlQueue

__all__ = ["router"]

_Submitter = Annotated[Caller, Depends(needs("submit"))]
_Viewer = Annotated[Caller, Depends(needs("view"))]


def router(queue: SqlQueue, settings: Settings) -> APIRouter:
    """The routes of all pages.

    Args:
        queue: The queue.
        settings: See `Settings`.
    """
    routes, view = APIRouter(include_in_schema=False), View(settings)

    def config_of(overrides: list[str]) -> Json:
        return compose(Asked(overrides=overrides), settings, "")[-1].config

    defaults = Defaults(config_of)
    _add_static(routes)
    _add_runs(routes, queue, view)
    add_submission(routes, queue, settings, view, defaults)
    add_comparison(routes, queue, settings, view)
    add_sweep(routes, queue, settings, view)
    _add_actions(routes, queue, settings)
    _add_one(routes, queue, settings, view, defaults)
    return routes


def _add_static(routes: APIRouter) -> None:
    @routes.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        if (file := FILES.get(name)) is None:
            raise Refusal(404, "there is no such file")
        keeps = request.url.query == file.digest
        headers = {"cache-control": "public, max-age=31536000, immutable" if keeps else "no-cache"}
        return Response(file.body, 200, headers, file.kind)


def _add_runs(routes: APIRouter, queue: SqlQueue, view: View) -> None:
    @routes.get("/")
    def runs(
        request: Request,
        sender: _Viewer,
        state: Annotated[list[State] | None, Query()] = None,
        text: Annotated[str, Query(max_length=200)] = "",
        before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        all: Annotated[bool, Query()] = False,
    ) -> Response:
        load, counts, states = queue.load(), queue.counts(), state or []
        folded = not (all or states or text)  # what is looked for may be a run of a sweep
        rows = queue.find(states, None, text, before, limit, folded)
        filters: dict[str, Any] = {"state": states, "text": text, "limit": limit if limit != 50 else None,
                                   "all": "yes" if all else None}  # fmt: skip
        by_state = [(name, counts.get(name, 0)) for name in STATES if counts.get(name) or name in _USUAL]
        return view(
            request, "runs", after=load.newest_event, load=_load(load, counts.get("queued", 0)), text=text,
            rows=rows_of(rows, load.now, sender.may("submit")), states=states, counts=by_state, all=all,
            filtered=bool(states or text), before=before, limit=limit,
            newest=link("/", **filters) if before is not None else None,
            older=link("/", **filters, before=rows[-1].number) if len(rows) == limit else None,
        )  # fmt: skip


_USUAL = ("queued", "running", "finished", "failed", "cancelled")


def _load(load: Load, queued: int) -> str:
    """How busy the queue is, in a sentence."""
    alive = load.alive
    waits = (
        f" The oldest of {queued:,} that wait was submitted {duration(load.now - load.waiting_since)} ago."
        if (load.waiting_since is not None and queued)
        else ""
    )
    if load.broken:
        waits += f" Schedules that cannot be submitted: {', '.join(load.broken)}; recsys schedules says why."
    if not alive:
        return f"No worker is here: what is queued waits until you start recsys worker.{waits}"
    rooms = {w.host: w.room for w in alive}
    cores = sum(room.cores for room in rooms.values())
    used = sum(need.cores for need in load.used.values())
    return f"{len(alive)} worker{'s' * (len(alive) > 1)}, {used} of {cores} cores in use.{waits}"


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form, each once."""
    return {k: v for k, v in (await request.form(max_files=0)).items() if isinstance(v, str)}


_Form = Annotated[dict[str, str], Depends(_fields)]


def _back(form: dict[str, str], default: str) -> str:
    """Where to go after an action: a page of ours, as the form says."""
    wanted = form.get("next", "")
    ours = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted and wanted.isprintable()
    return wanted if ours else default


def _add_actions(routes: APIRouter, queue: SqlQueue, settings: Settings) -> None:
    @routes.post("/runs/{id:run}/cancel")
    def cancel(id: str, sender: _Submitter, form: _Form) -> Response:
        row = change("cancel", id, sender, queue, settings)
        return RedirectResponse(_back(form, Row(row, 0.0).link), 303)

    @routes.post("/runs/{id:run}/resume")
    def resume(id: str, sender: _Submitter, form: _Form) -> Response:
        row = change("resume", id, sender, queue, settings, form.get("dead") == "yes")
        return RedirectResponse(_back(form, Row(row, 0.0).link), 303)

    @routes.post("/runs/{id:run}/retry")
    def retry(id: str, sender: _Submitter) -> Response:
        return RedirectResponse(Row(change("retry", id, sender, queue, settings), 0.0).link, 303)


def _add_one(routes: APIRouter, queue: SqlQueue, settings: Settings, view: View, defaults: Defaults) -> None:
    curves = Curves()

    @routes.get("/runs/{id:run}")
    def run(id: str, request: Request, sender: _Viewer) -> Response:
        row, load = get(queue, id), queue.load()
        shown = Row(row, load.now, sender.may("submit"))
        if row.new.kind == "sweep" or (row.new.kind == "direct" and queue.find(parent=id, limit=1)):
            return RedirectResponse(f"/sweep/{quote(id)}", 303)
        return view(request, "run", **one_run(settings, shown, load.newest_event, curves, defaults))

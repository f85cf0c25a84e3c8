"""The endpoints of /api: all that the commands do, as JSON."""

import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from threading import Lock
from typing import Annotated, Any, Literal

from annotated_types import MaxLen
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from recsys.errors import ConfigError, DataError
from recsys.files import Json
from recsys.service import compare
from recsys.service.curves import Curves
from recsys.service.http.auth import Caller, Refusal, needs
from recsys.service.http.bodies import Asked, Resumed, get
from recsys.service.http.files import blocks, headers, home_of, listing
from recsys.service.http.gate import check_composed, gate
from recsys.service.http.live import Streams, add_streams
from recsys.service.http.settings import Settings
from recsys.service.inside import open_inside
from recsys.service.local import LocalDoor
from recsys.service.logs import note
from recsys.service.options import options
from recsys.service.outcomes import Figures
from recsys.service.queue.records import MOST_LISTED, NewRun, QueuedRun, Schedule, State
from recsys.service.queue.schedules import add_schedule, list_schedules, remove_schedule
from recsys.service.queue.sql import SqlQueue
from recsys.service.submit import new_runs
from recsys.service.wire import row_json

__all__ = ["api_router", "change", "chosen", "compose", "get", "schedule", "submit"]

_composing, _counting = Lock(), Lock()  # the composer is one of the process; so is the count of those that wait
_waiting = 0
_Before = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
_Ids = Annotated[str, MaxLen(60_000)]
_INFO = 20
VIEW = Depends(needs("view"))
Submitter = Annotated[Caller, Depends(needs("submit"))]


def compose(asked: Asked, settings: Settings, user: str) -> list[NewRun]:
    """Gate, compose and check what is asked → the runs, of which nothing is queued.

    Raises:
        ConfigError: If a setting is invalid, or may not be submitted over HTTP.
        Refusal: 503 if too many wait for the composer.
    """
    gate(asked.overrides, settings, asked.multirun)
    submission = asked.submission()
    if settings.runs != settings.cwd / "runs":
        submission = replace(submission, overrides=[*submission.overrides, f"runs='{settings.runs}'"])
    with _turn(settings.limits.composing):
        runs = new_runs(submission, user)
    for run in runs:
        if run.kind == "run":
            check_composed(run.config, settings)
    return runs


@contextmanager
def _turn(most: int) -> Generator[None]:
    """Wait for the composer, unless others wait already: they would take all threads of the service."""
    global _waiting
    with _counting:
        if _waiting >= most:
            raise Refusal(503, f"{most} submissions or checks are being composed: try again in a few seconds")
        _waiting += 1
    try:
        with _composing:
            yield
    finally:
        with _counting:
            _waiting -= 1


def submit(asked: Asked, sender: Caller, queue: SqlQueue, settings: Settings) -> list[QueuedRun]:
    """Queue what is asked → the run; of a sweep, the parent and then its runs.

    Raises:
        ConfigError: As `compose`, and as `Queue.submit`.
        Refusal: If there is no room for it.
    """
    _check_room(queue, settings)
    rows = queue.submit(compose(asked, settings, f"http:{sender.role}"))
    for row in rows:
        note(_INFO, "submitted", run=row.id, role=sender.role)
    return rows


def change(
    what: Literal["cancel", "resume", "retry"],
    id: str,
    sender: Caller,
    queue: SqlQueue,
    settings: Settings,
    dead: bool = False,
) -> QueuedRun:
    """Do it to a run, or to all runs of a sweep → its row; of `retry`, the new run's.

    Args:
        what: What to do.
        id: Of the run.
        sender: Who asks.
        queue: The queue.
        settings: See `Settings`.
        dead: For `resume`, as `Queue.resume`.

    Raises:
        Refusal: 404 if there is no such run, 409 if its state forbids it; or if there is no room to queue it again.
    """
    get(queue, id)
    if what != "cancel":
        _check_room(queue, settings)
    turn, allowed = lambda: _turn(settings.limits.composing), lambda config: check_composed(config, settings)
    door = LocalDoor(queue, settings.runs, allowed, turn)
    try:
        row = door.resume(id, dead) if what == "resume" else door.cancel(id) if what == "cancel" else door.retry(id)
    except ConfigError as error:
        raise Refusal(409, str(error)) from error
    note(_INFO, what, run=row.id, role=sender.role)
    return row


def schedule(asked: Asked, sender: Caller, queue: SqlQueue, settings: Settings) -> Schedule:
    """Submit a run at set times from now on.

    Raises:
        ConfigError: As `compose`; or if it is a sweep, or `every` is invalid.
        Refusal: 403 unless the sender is an admin: it lasts, and nobody looks at what it submits.
    """
    if not sender.may("admin"):
        raise Refusal(403, f"expected a token of role admin for a schedule, got one of role {sender.role}: ask for one")
    (run,) = compose(asked, settings, f"http:{sender.role}")
    added = add_schedule(queue, run.name, str(asked.every), run)
    note(_INFO, "scheduled", schedule=added.id, role=sender.role)
    return added


def _schedule(schedule: Schedule) -> Json:
    values = asdict(schedule)
    values["template"]["config"] = {}
    return values


def _check_room(queue: SqlQueue, settings: Settings) -> None:
    """Refuse a submission if there is no room for it.

    Raises:
        Refusal: 503 if too many runs wait, 507 if the disk is nearly full.
    """
    limits = settings.limits
    if (waiting := queue.counts().get("queued", 0)) >= limits.queued:
        raise Refusal(503, f"{waiting:,} runs wait, as many as may: cancel some, or submit again later")
    settings.runs.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(settings.runs).free) < limits.free_bytes:
        wanted = f"expected {limits.free_bytes >> 20:,}"
        raise Refusal(507, f"{free >> 20:,} MiB are free on the disk of the folder of runs, {wanted}: free some")


def _short(run: QueuedRun) -> Json:
    """A row as JSON without its configuration, which has a hundred times its letters."""
    return row_json(replace(run, new=replace(run.new, config={})))


def api_router(queue: SqlQueue, settings: Settings, streams: Streams) -> APIRouter:
    """The routes of /api."""
    router = APIRouter(prefix="/api")
    _lists(router, queue, settings)
    _changes(router, queue, settings)
    add_streams(router, queue, settings, streams)
    _schedules(router, queue)
    _one(router, queue, settings)
    return router


def chosen(queue: SqlQueue, ids: Sequence[str]) -> list[QueuedRun]:
    """As `recsys.service.compare.chosen`.

    Raises:
        Refusal: 404 if there is none of an id.
    """
    try:
        return compare.chosen(queue, ids)
    except ConfigError as error:
        raise Refusal(404, str(error)) from error


def _lists(router: APIRouter, queue: SqlQueue, settings: Settings) -> None:
    figures = Figures(lambda run: home_of(run, settings))

    @router.get("/runs", dependencies=[VIEW], summary="Runs, the newest first; `before` asks for the next page")
    def runs(
        state: Annotated[list[State] | None, Query()] = None,
        parent: Annotated[str | None, Query(max_length=500)] = None,
        text: Annotated[str, Query(max_length=200)] = "",
        before: _Before = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 50,
        top: Annotated[bool, Query(description="without the runs of sweeps; their parents are there")] = False,
    ) -> Json:
        rows = queue.find(state or (), parent, text, before, limit, top)
        return {"runs": [_short(row) for row in rows], "counts": queue.counts()}

    @router.get("/options", dependencies=[VIEW], summary="Groups, their options and settings, with docs and ranges")
    def every_option() -> Json:
        return options(settings.cwd, settings.launchers)

    @router.get("/compare", dependencies=[VIEW], summary="Runs side by side: what differs, figures, seeds grouped")
    def compared(
        ids: Annotated[list[_Ids], Query(description="ids of 1 to 500 runs, or of sweeps: with commas, or repeated")],
        baseline: Annotated[str | None, Query(max_length=500)] = None,
    ) -> Json:
        return compare.compare(chosen(queue, ",".join(ids).split(",")), figures, baseline)

    @router.post("/check", dependencies=[VIEW], summary="What a submission would queue; nothing is queued")
    def check(asked: Asked) -> Json:
        try:
            composed = compose(asked, settings, "")
        except ConfigError as error:
            return {"error": str(error), "configs": []}
        return {"error": None, "configs": [run.config for run in composed if run.kind == "run"]}


def _changes(router: APIRouter, queue: SqlQueue, settings: Settings) -> None:
    @router.post("/runs", status_code=201, summary="Queue a run; of a sweep, the parent and then its runs")
    def submit_runs(asked: Asked, sender: Submitter) -> Json:
        if asked.every is None:
            return {"runs": [_short(row) for row in submit(asked, sender, queue, settings)]}
        return {"runs": [], "schedule": _schedule(schedule(asked, sender, queue, settings))}

    @router.post("/runs/{id:run}/cancel", summary="Ask a run to stop, or all runs of a sweep")
    def cancel(id: str, sender: Submitter) -> Json:
        return _short(change("cancel", id, sender, queue, settings))

    @router.post("/runs/{id:run}/resume", summary="Queue a run again that was stopped; it goes on from its checkpoint")
    def resume(id: str, sender: Submitter, how: Resumed | None = None) -> Json:
        return _short(change("resume", id, sender, queue, settings, how is not None and how.dead))

    @router.post("/runs/{id:run}/retry", status_code=201, summary="Queue the same configuration as a new run")
    def retry(id: str, sender: Submitter) -> Json:
        return _short(change("retry", id, sender, queue, settings))


def _schedules(router: APIRouter, queue: SqlQueue) -> None:
    @router.get("/schedules", dependencies=[VIEW], summary="Runs that are submitted at set times")
    def schedules() -> Json:
        return {"schedules": [_schedule(each) for each in list_schedules(queue)]}

    @router.delete("/schedules/{id}", dependencies=[Depends(needs("admin"))], summary="End a schedule; its runs stay")
    def remove(id: str) -> Json:
        try:
            return _schedule(remove_schedule(queue, id))
        except ConfigError as error:
            raise Refusal(404, str(error)) from error


def _one(router: APIRouter, queue: SqlQueue, settings: Settings) -> None:
    @router.get("/runs/{id:run}/files/{path:path}", dependencies=[VIEW], response_class=Response,
                summary="A file of a run, or a list of a folder's files")  # fmt: skip
    def file(id: str, path: str) -> Response:
        home = home_of(get(queue, id), settings)
        try:
            opened = open_inside(home, id, path)
        except DataError as error:
            raise Refusal(404, str(error)) from error
        if opened.is_folder:
            return JSONResponse(listing(opened))
        return StreamingResponse(blocks(opened), headers=headers(opened))

    curves = Curves()

    @router.get("/runs/{id:run}/curves", dependencies=[VIEW], summary="Figures by step, thinned to so many points each")
    def drawn(
        id: str,
        points: Annotated[int, Query(ge=16, le=100_000)] = 1000,
        names: Annotated[list[str] | None, Query(max_length=50)] = None,
    ) -> Json:
        home = home_of(get(queue, id), settings)
        return {"curves": curves.of(home, id, points, frozenset(names or ()))}

    @router.get("/runs/{id:run}", dependencies=[VIEW], summary="One run, with its configuration")
    def run(id: str) -> dict[str, Any]:
        return row_json(get(queue, id))

"""Streams: events of runs by id, so that a client that reconnects misses nothing, and logs as they grow."""

import asyncio
import logging
import math
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from recsys.files import Json
from recsys.service.http.auth import Refusal, needs
from recsys.service.http.bodies import get
from recsys.service.http.files import LogPiece, home_of, read_log
from recsys.service.http.settings import Settings
from recsys.service.logs import note
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import ENDED, MOST_LISTED

__all__ = ["Streams", "add_streams"]

VIEW = Depends(needs("view"))
_Before = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
_AT_ONCE = 1000  # events of one query


def _finite(value: Any) -> Any:
    """The value with null instead of numbers that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value


class Streams:
    """All streams of the service; one task looks for new events, for all of them.

    Args:
        queue: Holds the events.
        settings: With the limits on streams, and the folder of runs.
    """

    def __init__(self, queue: Queue, settings: Settings):
        self._queue, self._settings, self._limits = queue, settings, settings.limits
        self.count, self._over = 0, False
        self._newest, self._watch = 0, None
        self._waiting = set[asyncio.Event]()  # one of each stream of events

    async def slot(self) -> AsyncIterator[None]:
        """A FastAPI dependency that counts a stream until it ends.

        Raises:
            Refusal: 503 if there are too many.
        """
        if self.count >= self._limits.streams:
            raise Refusal(503, f"{self._limits.streams} streams are open: close one, or try again later")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    async def events(self, after: int | None, run: str | None) -> AsyncIterator[ServerSentEvent]:
        """Events after an id, or from now on, then each new one.

        Args:
            after: The last id that the client has seen.
            run: Only this run's.
        """
        if after is None:
            after = (await asyncio.to_thread(self._queue.load)).newest_event
            yield ServerSentEvent(id=str(after), comment="from now on", retry=2000)
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            self._begin(after)
            while not self._over:
                changed.clear()
                events = await asyncio.to_thread(self._queue.events, after, run, _AT_ONCE)
                for event in events:
                    after = event.id
                    yield ServerSentEvent(id=str(event.id), event=event.kind, data=_finite(asdict(event)))
                if len(events) < _AT_ONCE and not self._over and not await self._heard(changed):
                    yield ServerSentEvent(comment="still here")
        finally:
            self._waiting.discard(changed)

    async def _heard(self, changed: asyncio.Event) -> bool:
        """Wait for a new event → whether one came before it is time for a heartbeat."""
        try:
            async with asyncio.timeout(self._limits.heartbeat_seconds):
                return await changed.wait()
        except TimeoutError:
            return False

    def _begin(self, seen: int) -> None:
        """Watch the queue, unless that is done already."""
        if self._watch is None or self._watch.done():
            self._newest = seen
            self._watch = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """Wake the streams when there is a new event; end with the last stream."""
        while self._waiting:
            await asyncio.sleep(self._limits.poll_seconds)
            try:
                events = await asyncio.to_thread(self._queue.events, self._newest, None, _AT_ONCE)
            except Exception as error:  # the database may come back
                note(logging.WARNING, "events", error)
                continue
            if events:
                self._newest = events[-1].id
                for changed in self._waiting:
                    changed.set()

    async def log(self, run: str, start: int) -> AsyncIterator[ServerSentEvent]:
        """The log of a run from a byte on, until the run has ended; the id of an event is the next byte."""
        silent = 0.0
        while not self._over:
            row = await asyncio.to_thread(self._queue.get, run)
            ended = row.state in ENDED
            piece: LogPiece = await asyncio.to_thread(read_log, home_of(row, self._settings), run, start)
            start = piece.next
            if piece.body:
                silent = 0.0
                yield ServerSentEvent(id=str(start), event="log", data=piece.body.decode("utf-8", "replace"))
            elif ended:
                yield ServerSentEvent(id=str(start), event="end", data="")
                return
            else:
                silent += self._limits.poll_seconds
                if silent >= self._limits.heartbeat_seconds:
                    silent = 0.0
                    yield ServerSentEvent(comment="still here")
                await asyncio.sleep(self._limits.poll_seconds)

    def end(self) -> None:
        """Let every stream end, since the server is to stop; clients come back with the last id that they have seen."""
        self._over = True
        for changed in self._waiting:
            changed.set()

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch


def add_streams(router: APIRouter, queue: Queue, settings: Settings, streams: Streams) -> None:
    """The routes of events and logs."""
    slot = Depends(streams.slot)

    def exists(id: str) -> None:
        home_of(get(queue, id), settings)

    @router.get("/events/stream", dependencies=[VIEW, slot], response_class=EventSourceResponse,
                summary="Events as they come; a client that reconnects with Last-Event-ID misses nothing")  # fmt: skip
    async def follow_events(
        after: _Before = None,
        run: Annotated[str | None, Query(max_length=500)] = None,
        last_event_id: Annotated[str, Header(max_length=30)] = "",
    ) -> AsyncIterable[ServerSentEvent]:
        seen = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else after
        async for event in streams.events(seen, run):
            yield event

    @router.get("/events", dependencies=[VIEW], summary="Events after an id, the oldest first")
    def events(
        after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
        run: Annotated[str | None, Query(max_length=500)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    ) -> Json:
        return {"events": [asdict(event) for event in queue.events(after, run, limit)]}

    @router.get("/runs/{id:run}/log/stream", dependencies=[VIEW, Depends(exists), slot],
                response_class=EventSourceResponse,
                summary="The log of a run as it grows, until the run has ended")  # fmt: skip
    async def follow_log(
        id: str,
        start: Annotated[int, Query(alias="from", ge=-(2**62), le=2**62)] = 0,
        last_event_id: Annotated[str, Header(max_length=30)] = "",
    ) -> AsyncIterable[ServerSentEvent]:
        seen = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else start
        async for event in streams.log(id, seen):
            yield event

    @router.get("/runs/{id:run}/log", dependencies=[VIEW], response_class=Response,
                summary="A piece of a run's log, of 1 MiB at most, from a byte on; X-Log-Start says which")  # fmt: skip
    def log(id: str, start: Annotated[int, Query(alias="from", ge=-(2**62), le=2**62)] = 0) -> Response:
        piece = read_log(home_of(get(queue, id), settings), id, start)
        headers = {"x-log-start": str(piece.start), "x-log-size": str(piece.size)}
        return Response(piece.body, 200, headers, "text/plain; charset=utf-8")

"""The connection class that holds clients to a server's limits."""

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from recsys.serving.limits import Limits

__all__ = ["connection_class"]

_REST_SECONDS = 1.0  # that a client may go on sending after its answer


class _Sized(h11.Connection):
    """Refuses chunked bodies before it reads a chunk: each costs 10 µs and may hold a single byte."""

    chunked = False

    def next_event(self) -> Any:
        """Parse the next event.

        Raises:
            h11.RemoteProtocolError: If it is not HTTP, or a request with a chunked body.
        """
        event = super().next_event()
        if isinstance(event, h11.Request) and any(name == b"transfer-encoding" for name, _ in event.headers):
            self.chunked = True
            raise h11.RemoteProtocolError("a body in chunks")
        return event


class _Connection(H11Protocol):
    """Uvicorn's connection, with limits on the number of connections and the time of headers and answers.

    Uvicorn itself waits for ever for headers that do not end, and for a client that does not read its answer.
    """

    limits: Limits
    header_bytes: int
    _ended = False  # by an error answer that h11 knows nothing of

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._sized = _Sized(h11.SERVER, self.header_bytes)
        self.conn = self._sized
        self._timers: dict[str, asyncio.TimerHandle] = {}
        transport.set_write_buffer_limits(0)  # pause_writing is called for any byte that the client does not read
        if len(self.connections) > self.limits.connections:
            self._write("503 Service Unavailable", "too many connections: try again later")
            transport.close()  # at once: it is one connection too many
        else:
            self._start("headers", self.limits.header_seconds, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._ended:
            return
        super().data_received(data)
        if self._ended:
            return
        if self.conn.our_state is not h11.DONE:  # the rest of a body that was answered already has come
            self._stop("rest")
        if self.conn.their_state is not h11.IDLE:
            self._stop("headers")
        elif "headers" not in self._timers and self.conn.trailing_data[0]:  # a later request has begun
            self._start("headers", self.limits.header_seconds, self._too_slow)
        elif "headers" not in self._timers and self.timeout_keep_alive_task is None:
            seconds = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:  # answered before the whole body came; the rest is dropped
            self._start("rest", _REST_SECONDS, self.transport.close)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("answer", self.limits.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop("answer")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._stop(name)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._ended:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        if self._sized.chunked:
            self._end("411 Length Required", "expected the header Content-Length, not a body in chunks: add it")
        else:
            self._end(
                "400 Bad Request",
                f"expected HTTP/1.1 with at most {self.header_bytes >> 10} KiB of headers: mend the request",
            )

    def _start(self, name: str, seconds: float, then: Callable[[], None]) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, then)

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    def _too_slow(self) -> None:
        self._end("408 Request Timeout", f"the headers did not come whole within {self.limits.header_seconds:g} s")

    def _end(self, status: str, error: str) -> None:
        """Write an error answer without h11, and close once the client does, or after a second.

        If a socket is closed with bytes in it that nobody has read, the system resets the connection, and the
        client may never see the answer.
        """
        if self.transport.is_closing() or self._ended:
            return
        self._ended = True
        self._stop("headers")
        self._write(status, error)
        self._start("rest", _REST_SECONDS, self.transport.close)
        try:
            self.transport.write_eof()
        except OSError:  # the client has gone
            self.transport.close()

    def _write(self, status: str, error: str) -> None:
        """Write an error answer without h11."""
        body = f'{{"error": "{error}"}}'
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n{body}".encode())


def connection_class(limits: Limits, header_bytes: int = 16_384) -> type[H11Protocol]:
    """Make the class of a server's connections, which keep to its limits.

    Args:
        limits: See `Limits`.
        header_bytes: Most bytes of the request line and all headers together.
    """
    return type("Connection", (_Connection,), {"limits": limits, "header_bytes": header_bytes})

"""What a server takes at most, and the connection class that holds clients to it."""

import asyncio
from dataclasses import dataclass, fields

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from recsys.errors import ConfigError

__all__ = ["HEADER_BYTES", "Limits", "connection_class"]

HEADER_BYTES = 16_384  # of the request line and all headers together
_MOST = 10**12  # of any limit: infinity and numbers that no system takes are slips


@dataclass(frozen=True)
class Limits:
    """Limits of a scoring server. Each refusal has the HTTP status named here.

    Args:
        body_bytes: Largest request body (413).
        total_bytes: All bodies of more than 8 KiB that are received, wait or are scored, together (503).
        rows: Most rows in one request (413).
        header_seconds: Time until a request line and its headers have come whole (408).
        body_seconds: Time until the body has come whole, from the end of the headers (408).
        connections: Open connections at once (503).
        waiting: Requests that wait for a free scoring thread (503).
        threads: Scoring threads for large requests. Small ones are scored at once.
        stop_seconds: Time that running requests have to end after SIGTERM.

    Raises:
        ConfigError: If a limit is not above 0 or beyond 10¹², or one body may be larger than all.
    """

    body_bytes: int = 16 << 20
    total_bytes: int = 128 << 20
    rows: int = 10_000
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    connections: int = 512
    waiting: int = 64
    threads: int = 2
    stop_seconds: float = 5.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not 0 < value <= _MOST:
                option, wrong = f.name.replace("_", "-"), "at most 10^12" if value > 0 else "above 0"
                raise ConfigError(f"serve: --{option} must be {wrong}, got {value}: for example {f.default}")
        if self.body_bytes > self.total_bytes:
            raise ConfigError(
                f"serve: --total-bytes {self.total_bytes} is less than --body-bytes {self.body_bytes}, so that no such "
                "body could be taken: raise it, or lower the other"
            )


def connection_class(limits: Limits) -> type[H11Protocol]:
    """The class of uvicorn's connections, with a limit on their count and on the time of headers.

    Uvicorn itself waits for ever for a request that never ends its headers.
    """

    class Connection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._end("503 Service Unavailable", "too many connections: try again later")
            else:
                self._timer = self.loop.call_later(limits.header_seconds, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            between_requests = self.conn.their_state is h11.IDLE
            if between_requests and self._timer is None:  # a later request of the connection has begun
                self._timer = self.loop.call_later(limits.header_seconds, self._too_slow)
            elif not between_requests:
                self._stop_timer()

        def on_response_complete(self) -> None:
            if self.conn.their_state is not h11.DONE:  # the answer came before the whole body, which nobody reads
                self.transport.close()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._end("408 Request Timeout", f"the headers did not come whole within {limits.header_seconds:g} s")

        def _end(self, status: str, error: str) -> None:
            """Answer and close, outside of HTTP's usual cycle."""
            body = f'{{"error": "{error}"}}'
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n{body}".encode())
            self.transport.close()

    return Connection

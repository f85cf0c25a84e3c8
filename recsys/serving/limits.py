"""Limits of a scoring server."""

from dataclasses import dataclass, fields

from recsys.errors import ConfigError

__all__ = ["Limits"]

_MOST = 10**12  # largest value of any limit: above it, as infinity is, it must be a mistake


@dataclass(frozen=True)
class Limits:
    """Limits of a scoring server. Each refusal has the HTTP status named here.

    Args:
        body_bytes: Largest request body (413).
        total_bytes: Sum of all bodies above 8 KiB that are being received, waiting or being scored (503).
        rows: Most rows in one request (413).
        header_seconds: Time for the request line and all headers to arrive (408).
        body_seconds: Time for the whole body to arrive after the headers (408).
        answer_seconds: Time for the client to read an answer; then the connection is closed.
        connections: Open connections at once (503).
        waiting: Requests that wait for a free scoring thread (503).
        threads: Scoring threads for large requests. Small ones are scored at once.
        stop_seconds: Time that running requests have to end after SIGTERM.

    Raises:
        ConfigError: If a limit is not in (0, 10¹²], or `body_bytes` is above `total_bytes`.
    """

    body_bytes: int = 16 << 20
    total_bytes: int = 128 << 20
    rows: int = 10_000
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    answer_seconds: float = 10.0
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

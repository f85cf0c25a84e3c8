"""Serve one bundle over HTTP until told to stop."""

import ipaddress
import logging
import resource
import socket
from pathlib import Path

import uvicorn

from recsys.errors import ConfigError
from recsys.serving.app import make_app
from recsys.serving.bundle import Bundle
from recsys.serving.connections import connection_class
from recsys.serving.limits import Limits

__all__ = ["AT_ONCE", "Server", "check_files", "is_loopback", "is_ours", "listen", "serve"]

_WAITING = 512  # connections that the system holds until the event loop accepts them
AT_ONCE = 16  # most that the event loop accepts in a turn; it counts them, or closes them, up to three turns later
_SPARE_FILES = 4 * AT_ONCE + 64  # descriptors for those and everything else: the graph, streams, the event loop


def listen(host: str, port: int, command: str = "serve") -> socket.socket:
    """Bind the address before anything is loaded; uvicorn would only log a failure and exit 1.

    asyncio turns Nagle's algorithm off only if the socket names IPPROTO_TCP. With that algorithm, every
    answer on a connection that is kept open waits 40 ms for the client's delayed acknowledgement.

    Args:
        host: Address to listen on.
        port: 0 (any free one) to 65535.
        command: Whose error it is.

    Raises:
        ConfigError: If it cannot listen there.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"{command}: expected a port from 0 to 65535, got {port}: choose another")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_WAITING)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{command}: cannot listen on {host}:{port}: {reason}: choose another host or port"
        ) from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_access(host: str, token: str | None, anyone: bool) -> None:
    if token is not None and (token == "" or token != token.strip() or not token.isprintable()):
        wrong = "is empty" if token == "" else "has blanks around it or control characters, which no header can hold"
        raise ConfigError(f"serve: the token {wrong}: set RECSYS_TOKEN to a long random word")
    if token is None and not anyone and not is_loopback(host):
        raise ConfigError(
            f"serve: other machines reach {host}, and no token is set: set the environment variable RECSYS_TOKEN, "
            "or give --anyone if a proxy in front checks callers"
        )


def check_files(limits: Limits) -> None:
    """Raise this process's limit on open files to what the connections need.

    Raises:
        ConfigError: If the system does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            most = hard - _SPARE_FILES
            raise ConfigError(
                f"serve: {limits.connections} connections need {needed} open files, this process may have {hard}: "
                f"set --connections {max(1, most)}, or raise the limit (ulimit -n)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Server(uvicorn.Server):
    """Uvicorn's server, which takes one number both for `AT_ONCE` and for `_WAITING`."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_WAITING)


def is_ours(record: logging.LogRecord) -> bool:
    """Whether to keep a log record: those about bad requests are dropped, since clients could fill the disk."""
    return not record.getMessage().startswith(("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket"))


def serve(
    path: Path | str,
    host: str = "127.0.0.1",
    port: int = 8000,
    runtime: str = "auto",
    *,
    limits: Limits | None = None,
    token: str | None = None,
    anyone: bool = False,
) -> None:
    """Serve a bundle until interrupted (SIGINT or SIGTERM).

    Args:
        path: The bundle.
        host: Address to listen on.
        port: 0 (any free one) to 65535.
        runtime: See `Bundle.load`.
        limits: See `Limits`.
        token: Token that callers must send as `Authorization: Bearer TOKEN`; None: no token is needed.
        anyone: Whether to serve an address that other machines reach even without a token.

    Raises:
        ConfigError: If the server cannot listen on the address, or others reach it without `token` or `anyone`.
        BundleError: If the bundle is damaged or cannot be scored here.
    """
    limits = limits or Limits()
    _check_access(host, token, anyone)
    check_files(limits)
    with listen(host, port) as listener:
        hosts = ["localhost", "127.0.0.1", "[::1]", host] if token is None and is_loopback(host) else None
        app = make_app(Bundle.load(path, runtime), limits, token, hosts)
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{listener.getsockname()[1]}"
        print(f"serving {path} on {url} (POST /predict, GET /health, /card, /docs)", flush=True)
        logging.getLogger("uvicorn.error").addFilter(is_ours)
        config = uvicorn.Config(
            app,
            http=connection_class(limits),
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=AT_ONCE,
            timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        )
        try:
            Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn raises it again after it has stopped properly
            return

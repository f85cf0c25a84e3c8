"""Serves the application until it is told to stop, with the rules of the scoring server."""

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from recsys.errors import ConfigError
from recsys.service.http.app import make_app
from recsys.service.http.settings import Settings, Tokens
from recsys.service.logs import LOG, to_stream
from recsys.service.queue.sql import SqlQueue
from recsys.serving.connections import connection_class
from recsys.serving.limits import Limits
from recsys.serving.server import AT_ONCE, Server, check_files, is_loopback, is_ours, listen

__all__ = ["serve", "settings_for"]

_CONNECTIONS = Limits(connections=512, answer_seconds=30.0, stop_seconds=3.0)

_HEADER_BYTES = 65_536  # the address of a comparison names up to 500 runs


class _Server(Server):
    """A server that ends the streams of its application when it is to stop; it would wait for them.

    Args:
        config: Of uvicorn.
        app: The application.
        ends: Is called when it is to stop, before it waits for requests.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, ends: Callable[[], None] | None):
        super().__init__(config)
        self._app, self._ends = app, ends

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._ends:
            self._ends()
        self._app.state.streams.end()
        await super().shutdown(sockets)


def settings_for(
    runs: Path,
    host: str,
    *,
    hosts: Sequence[str] = (),
    roots: Sequence[Path] = (),
    launchers: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """The settings of a service that is started in the current folder.

    Args:
        runs: The folder of runs.
        host: Address that it will listen on.
        hosts: Further names that callers may use for it, such as that of a proxy.
        roots: Folders in which the paths of a submitted configuration may lie.
        launchers: Options of the group `launcher` that may be submitted, beside `local` and `torchrun`.
        environment: Has RECSYS_TOKEN, RECSYS_TOKEN_SUBMIT, RECSYS_TOKEN_VIEW, and for links to MLflow's pages
            RECSYS_MLFLOW_URL, or else MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: If other machines reach the address and there is no token.
    """
    tokens = Tokens.from_environment(environment)
    if not tokens.by_role and not is_loopback(host):
        raise ConfigError(
            f"service: other machines reach {host}, and no token is set: set the environment variable RECSYS_TOKEN to "
            "the output of `openssl rand -hex 32`"
        )
    names = dict.fromkeys(("localhost", "127.0.0.1", "[::1]", host.lower(), *(h.lower() for h in hosts)))
    mlflow = environment.get("RECSYS_MLFLOW_URL") or environment.get("MLFLOW_TRACKING_URI", "")
    return Settings(
        runs=runs.absolute(),
        cwd=Path.cwd(),
        roots=tuple(root.absolute() for root in roots),
        tokens=tokens,
        hosts=tuple(names) if hosts or not tokens.by_role else None,
        launchers=Settings.launchers | frozenset(launchers),
        mlflow=mlflow if mlflow.startswith(("http://", "https://")) and "@" not in mlflow else None,
    )


def _log_uvicorn() -> None:
    """Write what uvicorn has to say into our log."""
    log = logging.getLogger("uvicorn.error")
    log.handlers[:], log.propagate = LOG.handlers, False
    log.addFilter(is_ours)


def serve(
    queue: SqlQueue,
    settings: Settings,
    host: str,
    port: int,
    began: Callable[[str], None] | None = None,
    make: Callable[[SqlQueue, Settings], FastAPI] = make_app,
    ends: Callable[[], None] | None = None,
) -> None:
    """Serve the application until SIGINT or SIGTERM.

    Args:
        queue: The queue; it stays open.
        settings: See `settings_for`.
        host: Address to listen on.
        port: 0 (any free one) to 65535.
        began: Is called with the service's address once it listens.
        make: Builds the application; `make_site` adds the pages.
        ends: Is called when it is told to stop, before it waits for requests that have not been answered.

    Raises:
        ConfigError: If it cannot listen there.
    """
    check_files(_CONNECTIONS)
    with listen(host, port, "service") as listener:
        to_stream()
        _log_uvicorn()
        app = make(queue, settings)
        config = uvicorn.Config(
            app,
            http=connection_class(_CONNECTIONS, _HEADER_BYTES),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=AT_ONCE,
            timeout_graceful_shutdown=max(1, round(_CONNECTIONS.stop_seconds)),
        )
        if began:
            name = f"[{host}]" if ":" in host else host
            began(f"http://{name}:{listener.getsockname()[1]}")
        try:
            _Server(config, app, ends).run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn raises it again after it has stopped properly
            return

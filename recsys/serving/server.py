"""A scoring server over one bundle: POST /predict, GET /health, GET /card."""

import socket
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from recsys.errors import ConfigError, DataError
from recsys.serving.bundle import Bundle
from recsys.serving.rows import parse_json

__all__ = ["make_app", "serve"]


async def _body(request: Request) -> bytes:
    """Take the body as it is: FastAPI's own parsing lets NaN pass and words errors its own way."""
    return await request.body()


def _answer(bundle: Bundle, sent: Any) -> dict[str, Any]:
    if isinstance(sent, dict) and set(sent) == {"rows"} and "rows" not in bundle.schema.raw_columns:
        sent = sent["rows"]
        if not isinstance(sent, list):
            raise DataError(f"rows: expected a list of rows, got {type(sent).__name__}: put the row in [ ]")
    if isinstance(sent, list):
        return {"probabilities": bundle.score(sent).tolist()}
    if isinstance(sent, dict):
        return {"probability": float(bundle.score([sent])[0])}
    raise DataError(f'expected a row as an object, a list of rows or {{"rows": […]}}, got {type(sent).__name__}')


def make_app(bundle: Bundle) -> FastAPI:
    """The application.

    `POST /predict` takes a raw row, a list of rows or `{"rows": [...]}` and answers
    `{"probability": p}` or `{"probabilities": [...]}`; a request that cannot be scored gets HTTP
    422 and `{"error": "<one line>"}`. `GET /health` answers `{"status": "ok"}`, `GET /card` the
    bundle's card.

    Args:
        bundle: The model; FastAPI's threads share it.
    """
    app = FastAPI(title="recsys", description="Scores raw rows with one bundle")

    @app.exception_handler(DataError)
    async def refuse(_: Request, error: DataError) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split())}, status_code=422)

    @app.post("/predict")
    def predict(body: Annotated[bytes, Depends(_body)]) -> dict[str, Any]:
        return _answer(bundle, parse_json(body))

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "runtime": bundle.runtime}

    @app.get("/card")
    def card() -> dict[str, Any]:
        return bundle.card

    return app


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before anything is loaded: uvicorn would log a refusal and exit 1."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"serve: expected a port from 0 to 65535, got {port}: choose another")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"serve: cannot listen on {host}:{port}: {reason}: choose another host or port") from error


def serve(path: Path | str, host: str = "127.0.0.1", port: int = 8000, runtime: str = "auto") -> None:
    """Serve a bundle until interrupted.

    Args:
        path: The bundle.
        host: Address to listen on.
        port: 0 (any free one) to 65535.
        runtime: See `Bundle.load`.

    Raises:
        ConfigError: If the address cannot be listened on.
        BundleError: If the bundle is damaged or cannot be scored here.
    """
    with _listen(host, port) as door:
        app = make_app(Bundle.load(path, runtime))
        address = f"[{host}]" if ":" in host else host
        print(
            f"serving {path} on http://{address}:{door.getsockname()[1]} (POST /predict, GET /health, /card)",
            flush=True,
        )
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[door])

"""Static files of the pages: read once, and served under a name that holds their digest."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FILES", "File", "address"]

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class File:
    """A static file.

    Args:
        body: Its bytes.
        kind: Its media type.
        digest: 12 hexadecimal digits of its SHA-256.
    """

    body: bytes
    kind: str
    digest: str


def _files(folder: Path) -> dict[str, File]:
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix in _TYPES]
    bodies = {p: p.read_bytes() for p in paths}
    return {p.name: File(b, _TYPES[p.suffix], hashlib.sha256(b).hexdigest()[:12]) for p, b in bodies.items()}


FILES = _files(Path(__file__).parent / "static")


def address(name: str) -> str:
    """The address of a file, which changes with its content, so that a browser keeps it for ever."""
    return f"/static/{name}?{FILES[name].digest}"

"""The manifest of a bundle: size and sha256 of each file at export. Standard library only."""

import hashlib
import json
from pathlib import Path
from typing import Any

from recsys.errors import BundleError
from recsys.files import Json

__all__ = ["FORMAT", "MANIFEST", "canonical", "check_manifest", "read_manifest", "write_manifest"]

FORMAT = 3  # of the folder; a loader reads its own format only
MANIFEST = "manifest.json"
NEEDED = ("calibrator.json", "card.json", "encoders.json", "golden.json", "schema.json", "weights.safetensors")
OPTIONAL = ("graph.onnx", "graph.pt2", "past.npz")


def canonical(value: Any) -> bytes:
    """A JSON value in canonical form: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(body: Json) -> bytes:
    return canonical({**body, "digest": hashlib.sha256(canonical(body)).hexdigest()})


def write_manifest(folder: Path) -> None:
    """List every file of a folder with its size and sha256, and seal the listing with its own digest."""
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)}
        for p in sorted(folder.iterdir())
        if p.name != MANIFEST
    }
    (folder / MANIFEST).write_bytes(_sealed({"format": FORMAT, "files": files}))


def read_manifest(folder: Path) -> Json:
    """Read the manifest and check its own digest → size and sha256 by file name."""
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"expected a bundle at {folder}, found no {MANIFEST} in it: give a bundle's folder")
    stored = (folder / MANIFEST).read_bytes()
    broken = BundleError(f"{folder}: {MANIFEST} has changed since export: export or copy it again")
    try:
        body = json.loads(stored)
        whole = isinstance(body, dict) and body.pop("digest", None) is not None and _sealed(body) == stored
    except (ValueError, RecursionError) as error:  # no JSON, or a value that `canonical` never writes
        raise broken from error
    if not whole:
        raise broken
    if body.get("format") != FORMAT:
        raise BundleError(f"{folder}: bundle format {body.get('format')}, this recsys reads {FORMAT}: export it again")
    files = body.get("files")
    if not isinstance(files, dict) or not all(_is_entry(e) for e in files.values()):
        raise BundleError(f"{folder}: {MANIFEST} lists no bytes and sha256 of files: export it again")
    if strange := sorted(set(files) - {*NEEDED, *OPTIONAL}):
        raise BundleError(f"{folder}: {MANIFEST} lists {strange[0]!r}, which is no file of a bundle: export it again")
    if lacking := sorted(set(NEEDED) - set(files)):
        raise BundleError(f"{folder}: {MANIFEST} does not list {lacking[0]}, which every bundle has: export it again")
    return files


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


def check_manifest(folder: Path) -> Json:
    """Compare every file with the manifest; refuse links and files that it does not list.

    Returns:
        bytes and sha256 of each file, by name.

    Raises:
        BundleError: If the folder is no bundle, or a file is missing, changed, a link or not listed.
    """
    listed = read_manifest(Path(folder))
    for path in sorted(Path(folder).iterdir()):
        if path.name not in listed and path.name != MANIFEST:
            raise BundleError(f"{folder}: {path.name!r} is not listed in {MANIFEST}: remove it, or export again")
        if path.is_symlink():
            raise BundleError(f"{folder}: {path.name} is a symbolic link: put the file itself there")
    for name, want in listed.items():
        path = Path(folder) / name
        if not path.is_file():
            raise BundleError(f"{folder}: {name} is missing: export or copy the bundle again")
        size = path.stat().st_size
        if size != want["bytes"]:
            raise BundleError(
                f"{folder}: {name} has changed since export: expected {want['bytes']:,} bytes, got {size:,}: "
                "export or copy it again"
            )
        got = _sha256(path)
        if got != want["sha256"]:
            raise BundleError(
                f"{folder}: {name} has changed since export: expected sha256 {want['sha256'][:12]}…, "
                f"got {got[:12]}…: export or copy it again"
            )
    return listed

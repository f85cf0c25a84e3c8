"""`recsys checkpoint inspect`, `diff`, `reshard` and `unshard`, on trained models and on checkpoints of a training."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from recsys.errors import ConfigError
from recsys.terminal import console
from recsys.training.tensors.compare import differences
from recsys.training.tensors.read import TensorFolder
from recsys.training.tensors.rewrite import find_tensors, rewrite

__all__ = ["diff", "inspect", "reshard", "unshard"]

_WIDTH = 120  # columns, if the output is not a terminal


def _read(path: Path) -> TensorFolder:
    return TensorFolder(find_tensors(path), "give another, or make it again")


def inspect(given: Namespace) -> int:
    """Print the tables of a folder, its step and its best step; every checksum is verified."""
    source = _read(given.path)
    source.verify()
    manifest, rest = source.manifest, source.manifest.rest
    table = Table("table", *(_right(c) for c in ("rows", "dim", "dtype", "bytes")), "optimiser", _right("files"))
    for name, t in source.tables.items():
        parts = [p for p in manifest.parts if p.table == name]
        size = sum(source.tensor(p).nbytes for p in parts)
        files = len({p.file for p in parts})
        table.add_row(name, f"{t.rows:,}", str(t.dim), t.dtype, f"{size:,}", t.state or "none", str(files))
    dense = [p for p in manifest.parts if not p.table]
    size, files = sum(source.tensor(p).nbytes for p in dense), len({p.file for p in dense})
    table.add_row(f"{len(dense)} other tensors", "", "", "", f"{size:,}", "", str(files))
    out = console(_WIDTH, stderr=False)
    out.print(str(source.folder), soft_wrap=True)
    out.print(table)
    out.print(", ".join(_about(rest, manifest.world, sum(manifest.files.values()))), soft_wrap=True)
    return 0


def _right(name: str) -> Column:
    return Column(name, justify="right")


def _about(rest: dict[str, Any], world: int, size: int) -> list[str]:
    steps = [f"{key.replace('_', ' ')} {rest[key]}" for key in ("step", "best_step") if key in rest]
    best = [f"best validation logloss {rest['best']:.6f}"] if isinstance(rest.get("best"), float) else []
    return [*steps, *best, f"written by {world} {'process' if world == 1 else 'processes'}", f"{size:,} bytes"]


def diff(given: Namespace) -> int:
    """Print what differs between two folders → 1 if anything does."""
    table = Table("tensor or value", _right("differ"), _right("of"), _right("largest difference"))
    a, b = _read(given.a), _read(given.b)
    for d in differences(a, b):
        if d.count is None:
            table.add_row(d.name, d.text)
        else:
            table.add_row(d.name, f"{d.count:,}", f"{d.total:,}", f"{d.largest:.3g}")
    equal = f"equal: {len(a.tables)} tables, and {sum(not p.table for p in a.manifest.parts)} other tensors"
    console(_WIDTH, stderr=False).print(table if table.row_count else equal)
    return int(table.row_count > 0)


def reshard(given: Namespace) -> int:
    """Write a folder again in other files."""
    for name in ("files", "rows"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise ConfigError(f"--{name}: expected at least 1, got {value}")
    rewrite(given.source, given.target, given.files, given.rows)
    print(given.target)
    return 0


def unshard(given: Namespace) -> int:
    """Write a folder again with each table in one piece."""
    rewrite(given.source, given.target, files=1)
    print(given.target)
    return 0

"""What differs between two folders of plain tensors, read range by range.

R rows of a range, D embedding dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from recsys.training.tensors.read import TensorFolder

__all__ = ["Difference", "differences"]


_ROWS = 1 << 18  # rows that are compared at once


@dataclass(frozen=True)
class Difference:
    """A tensor or a value that differs.

    Args:
        name: Its name.
        count: Rows of a table, or numbers of another tensor, that differ in any bit; None if its kind differs.
        total: Count of all of them.
        largest: Largest difference of two numbers; infinite if one of them is not finite.
        text: What the two are, if they cannot be compared number by number.
    """

    name: str
    count: int | None = None
    total: int = 0
    largest: float = 0.0
    text: str = ""


def differences(a: TensorFolder, b: TensorFolder) -> Iterator[Difference]:
    """All that differs: tables, then other tensors, then numbers and texts. How they are cut into files does not count.

    Raises:
        DataError: If a file is damaged.
    """
    for name in sorted(a.tables.keys() | b.tables.keys()):
        one, other = a.tables.get(name), b.tables.get(name)
        if one is None or other is None or one != other:
            yield Difference(name, text=f"{_kind(one)} | {_kind(other)}")
            continue
        for kind in one.kinds:
            difference = _of_table(a, b, name, kind)
            if difference.count:
                yield difference
    parts = [{p.tensor: p for p in folder.manifest.parts if not p.table} for folder in (a, b)]
    for name in sorted(parts[0].keys() | parts[1].keys()):
        x, y = (folder.tensor(p[name]) if name in p else None for folder, p in zip((a, b), parts, strict=True))
        if x is None or y is None or x.dtype != y.dtype or x.shape != y.shape:
            yield Difference(name, text=f"{_kind(x)} | {_kind(y)}")
        elif (count := int(_unequal(x.reshape(-1, 1), y.reshape(-1, 1)).sum())) > 0:
            yield Difference(name, count, x.numel(), _largest(x, y))
    yield from _values(a.manifest.rest, b.manifest.rest, "")


def _of_table(a: TensorFolder, b: TensorFolder, name: str, kind: str) -> Difference:
    rows, count, largest = a.tables[name].rows, 0, 0.0
    parts = [p for folder in (a, b) for p in folder.manifest.parts if (p.table, p.kind) == (name, kind)]
    for start, stop in pairwise(sorted({*range(0, rows, _ROWS), rows, *(p.start for p in parts)})):
        (x,), (y,) = (folder.pieces(name, kind, start, stop) for folder in (a, b))
        unequal_R = _unequal(x.reshape(len(x), -1), y.reshape(len(y), -1))
        if unequal_R.any():
            count, largest = count + int(unequal_R.sum()), max(largest, _largest(x[unequal_R], y[unequal_R]))
    return Difference(f"{name} ({kind})", count, rows, largest)


def _unequal(x_RD: Tensor, y_RD: Tensor) -> Tensor:
    """Whether a bit of a row differs, for each row."""
    x, y = (z.contiguous().view(torch.uint8) for z in (x_RD, y_RD))
    return (x != y).any(1)


def _largest(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).abs().nan_to_num(nan=torch.inf).max())


def _kind(x: Any) -> str:
    if x is None:
        return "none"
    return f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else f"{x.rows} x {x.dim} {x.dtype}, state {x.state}"


def _values(a: Any, b: Any, name: str) -> Iterator[Difference]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _values(a.get(key), b.get(key), f"{name}/{key}" if name else str(key))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _values(x, y, f"{name}/{i}")
    elif a != b and not (a != a and b != b):  # NaN is not equal to itself
        yield Difference(name, text=f"{_short(a)} | {_short(b)}")


def _short(value: Any) -> str:
    return f"{len(value)} items" if isinstance(value, list | dict) else str(value)

"""The table rows that a field reads, and how its reads are combined.

B rows of a batch, L id columns, P lookups, V table rows, r rank, D embedding dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.features.encoders import hash_text

__all__ = ["PRIME", "Lookup", "joined", "joined_width", "table_rows", "weighted_mean"]

PRIME = 2**31 - 1  # ids and multipliers stay below it, so a·id + b fits in int64


@dataclass(frozen=True)
class Lookup:
    """One read of a table for one field.

    Args:
        field: The field whose ids are read.
        table: Name of the table.
        salt: None reads row = id // divisor. Otherwise row = ((a·id + b) mod (2³¹ − 1)) mod V, with a
            and b drawn from the salt: Carter and Wegman's 2-universal hash (1979, section 3), chosen
            because it needs no bit operation and so exports to every runtime.
        divisor: Count of consecutive ids that read the same row, at least 1.
        wraps: Whether row = id // divisor is taken modulo V.
        combine: How this read is combined with the earlier reads of its field: placed beside them, added to
            the last of them, or multiplied by it; that one must then be as wide as this one.
    """

    field: str
    table: str
    salt: str | None = None
    divisor: int = 1
    wraps: bool = False
    combine: Literal["concat", "sum", "product"] = "concat"

    @property
    def direct(self) -> bool:
        """Whether row = id."""
        return self.salt is None and self.divisor == 1 and not self.wraps

    def coefficients(self) -> tuple[int, int]:
        """(a, b) of the hash; without a salt (1, 0), which is the identity below 2³¹ − 1."""
        if self.salt is None:
            return 1, 0
        return 1 + hash_text(f"a{self.salt}") % (PRIME - 1), hash_text(f"b{self.salt}") % PRIME


def table_rows(
    ids: Tensor, a: Tensor | int, b: Tensor | int, rows: Tensor | int, divisor: Tensor | int | None = None
) -> Tensor:
    """((a·(id // divisor) + b) mod (2³¹ − 1)) mod rows, elementwise, int64; ids are at least 0."""
    if divisor is not None:
        ids = torch.div(ids, divisor, rounding_mode="floor")
    return (a * ids + b) % PRIME % rows


_JOIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "product": torch.mul}


def joined(reads: Sequence[Tensor], combine: Sequence[str]) -> list[Tensor]:
    """The reads of a field → its columns: each read is placed beside the last one, added to it or multiplied by it.

    Args:
        reads: [B, D] each.
        combine: `concat`, `sum` or `product` for each read; the first one's is ignored.
    """
    parts: list[Tensor] = []
    for read, how in zip(reads, combine, strict=True):
        if parts and how in _JOIN:
            parts[-1] = _JOIN[how](parts[-1], read)
        else:
            parts.append(read)
    return parts


def joined_width(lookups: Sequence[Lookup], dims: Sequence[int]) -> int:
    """Width of a field's combined reads, from the widths of its reads."""
    return sum(dim for i, (k, dim) in enumerate(zip(lookups, dims, strict=True)) if i == 0 or k.combine == "concat")


def weighted_mean(sum_D: Tensor, weight_1: Tensor) -> Tensor:
    """Σ w·x and Σ w → Σ w·x / Σ w, and 0 where Σ w = 0; the last dimension of `weight_1` is 1."""
    nothing = weight_1 == 0
    return torch.where(nothing, 0.0, sum_D / torch.where(nothing, 1.0, weight_1))

"""Tables of numbers in 32, 16, 8 or 4 bits, of full or low rank, with a row for every id or a shared one for some.

B rows of a batch, V ids, R rows that are held, r rank, D embedding dim, P lookups.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.tables.contract import FormState, TableForm

__all__ = ["HeldRows", "Table", "held_row", "held_rows", "id_map", "only_numbers", "pack", "places", "spread", "unpack"]

_ABSENT = -(2**31)  # so low that clamping a row number plus it at 0 gives the shared row


def pack(codes_Rr: Tensor) -> Tensor:
    """uint8 codes from 0 to 15 → two a byte: byte j holds column 2j in its low half, column 2j + 1 in its high half."""
    low, high = codes_Rr[:, ::2], codes_Rr[:, 1::2]
    return low | torch.nn.functional.pad(high, (0, low.shape[1] - high.shape[1])) << 4


def unpack(codes: Tensor, width: int) -> Tensor:
    """Stored codes → float32 numbers, `width` in the last dimension; this undoes `pack` if it was used."""
    x = codes.float()
    if codes.shape[-1] == width:
        return x
    high = (x * 0.0625).floor()  # exact in floating point; a shift of uint8 does not export to ONNX
    return torch.stack([x - 16 * high, high], -1).flatten(-2)[..., :width]


def id_map(kept_V: Tensor) -> Tensor:
    """One word for every eight ids: which of them have their own row, and how many held rows come before.

    Args:
        kept_V: bool, whether an id has its own row.

    Returns:
        ⌈V/8⌉ words, bits + 256·before: half a byte an id as int32, twice that as int64, which only a
        table of 2²³ or more held rows needs.
    """
    kept = torch.nn.functional.pad(kept_V.long(), (0, -len(kept_V) % 8)).view(-1, 8)
    count = kept.sum(1)
    words = (kept << torch.arange(8)).sum(1) + 256 * (count.cumsum(0) - count)
    return words.int() if int(count.sum()) < 2**23 else words


def places() -> Tensor:
    """256×8: for a word's bits and an id's bit, 1 + the count of set bits before it, or far below 0 if it is unset."""
    bits, place = torch.arange(256)[:, None], torch.arange(8)
    set_here = (bits >> place) & 1
    return torch.where(set_here == 1, set_here.cumsum(1), _ABSENT).int()


def held_rows(words: Tensor, places: Tensor) -> Tensor:
    """The held row of each id 0, 1, …, eight ids for each word; ids without their own row share row 0.

    Args:
        words: `id_map`.
        places: `places()`.
    """
    before = (words >> 8).unsqueeze(1)
    return (before + places.index_select(0, words & 255)).clamp(min=0).flatten()


def held_row(words: Tensor, places: Tensor, row: Tensor) -> Tensor:
    """`held_rows` for the ids `row` only."""
    word = words[row >> 3]
    return ((word >> 8) + places[word & 255, row & 7]).clamp(min=0)


def spread(
    codes: Tensor, rank: int, words: Tensor | None, places: Tensor | None, sizes: Sequence[tuple[int, int, int]]
) -> Tensor:
    """Storage of tables of one form, concatenated → a row for each id, one byte or more a number: Σ V × r.

    Args:
        codes: The codes of all tables.
        rank: r.
        words: The id maps of the tables that have one, or None if no table has one.
        places: `places()` if there are words.
        sizes: For each table, its count of rows of codes, of words (0 without an id map) and of ids.
    """
    if codes.shape[1] != rank:
        codes = unpack(codes, rank).to(torch.uint8)
    if words is None or places is None:
        return codes
    parts, row, word = [], 0, 0
    for rows, count, ids in sizes:
        held = codes[row : row + rows]
        if count:
            held = held.index_select(0, held_rows(words[word : word + count], places)[:ids])
        parts.append(held)
        row, word = row + rows, word + count
    return torch.cat(parts)


@dataclass(frozen=True)
class Table:
    """W = (codes·scale + offset)·basis; `words` maps ids to rows.

    Args:
        codes: R×r float32 or float16; or uint8, each a code of 8 bits or two of 4 bits (`pack`). The
            length of `scale` tells which.
        scale: r float32, the step of each column. None if the codes are the numbers themselves.
        offset: r float32, the number that code 0 represents.
        basis: r×D float32 of a low-rank table. None means r = D.
        words: `id_map` of the V ids; the first row of codes is then the shared row. None: each id has its own row.
        ids: V, needed with `words` only.
    """

    codes: Tensor
    scale: Tensor | None = None
    offset: Tensor | None = None
    basis: Tensor | None = None
    words: Tensor | None = None
    ids: int | None = None

    @property
    def rows(self) -> int:
        """V, the count of ids."""
        return self.codes.shape[0] if self.ids is None else self.ids

    @property
    def rank(self) -> int:
        """r, the count of numbers held for a row."""
        return self.codes.shape[1] if self.scale is None else len(self.scale)

    @property
    def dim(self) -> int:
        """D, the width of a looked-up row."""
        return self.rank if self.basis is None else self.basis.shape[1]

    @property
    def bits(self) -> int:
        """Bits of one held number."""
        return 8 * self.codes.element_size() if self.codes.shape[1] == self.rank else 4

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in storage: codes, steps, basis and id map."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor))

    @property
    def kind(self) -> Hashable:
        """Bits, rank, and whether there are steps and a basis."""
        return self.bits, self.rank, self.scale is None, self.basis is None

    @property
    def small(self) -> tuple[str, ...]:
        """The names of scale, offset and basis, if there are any."""
        return tuple(n for n in ("scale", "offset", "basis") if getattr(self, n) is not None)

    def describe(self) -> dict[str, int | str]:
        """Held rows (fewer than V if ids share one), rank, and bits of one held number."""
        return {"form": "numbers", "held": len(self.codes), "rank": self.rank, "bits": self.bits}

    def _numbers(self, codes: Tensor) -> Tensor:
        """Codes of rows → the r numbers of each row, before the basis."""
        x_r = unpack(codes, self.rank)
        return x_r if self.scale is None or self.offset is None else torch.addcmul(self.offset, x_r, self.scale)

    def held(self) -> Tensor:
        """The R×r float32 rows that are held, before the basis."""
        return self._numbers(self.codes)

    def read(self, row: Tensor) -> Tensor:
        """Ids of any shape → their rows."""
        held = row if self.words is None else held_row(self.words, places(), row)
        x_r = self._numbers(self.codes[held])
        return x_r if self.basis is None else x_r @ self.basis

    def dense(self) -> Tensor:
        """The V×D float32 table that it represents."""
        w = self.held() if self.basis is None else self.held() @ self.basis
        if self.words is None:
            return w
        return w[held_rows(self.words, places())[: self.rows]]

    def state(self) -> FormState:
        """The parts that it has."""
        return {k: v for k, v in vars(self).items() if v is not None}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The table of these parts."""
        return cls(**state)

    @staticmethod
    def scorer(tables: "Sequence[Table]") -> nn.Module:
        """A module that reads all lookups with one gather."""
        return HeldRows(tables)


class HeldRows(nn.Module):
    """Lookups in tables of one kind, with one gather: row_BP → x_BPD.

    In memory, reading through an id map or from half a byte costs more than the bytes it saves. Therefore
    the rows are spread out when a model is made or a graph is loaded: one for each id, one byte or more
    a number. Only storage stays small.

    Args:
        tables: The table of each lookup; all have one rank, dim and precision.
    """

    start: Tensor
    codes: Tensor
    spread: Tensor | None
    scale: Tensor | None
    offset: Tensor | None
    basis: Tensor | None
    words: Tensor | None
    places: Tensor

    def __init__(self, tables: Sequence[Table]):
        super().__init__()
        used = list({id(t): t for t in tables}.values())
        self.rank = used[0].rank
        begins = dict(zip(map(id, used), [0, *torch.tensor([t.rows for t in used]).cumsum(0).tolist()], strict=False))
        self.register_buffer("start", torch.tensor([begins[id(t)] for t in tables]))
        self.sizes = [(len(t.codes), 0 if t.words is None else len(t.words), t.rows) for t in used]
        self.register_buffer("sizes_T3", torch.tensor(self.sizes))  # for readers of the weights file
        maps = [t.words for t in used if t.words is not None]
        self.register_buffer("codes", torch.cat([t.codes for t in used]))
        self.register_buffer("words", torch.cat(maps) if maps else None)
        self.register_buffer("places", places() if maps else None)
        packed = maps or self.codes.shape[1] != self.rank
        self.register_buffer("spread", self._spread() if packed else None, persistent=False)
        for part in ("scale", "offset", "basis"):
            each = [p for p in (getattr(t, part) for t in tables) if p is not None]
            self.register_buffer(part, torch.stack(each) if each else None)

    def _spread(self) -> Tensor:
        return spread(self.codes, self.rank, self.words, self.places, self.sizes)

    def forward(self, row_BP: Tensor) -> Tensor:
        """→ x_BPD."""
        codes = self._spread() if self.spread is None else self.spread
        x_BPr = nn.functional.embedding(row_BP + self.start, codes).float()
        if self.scale is not None and self.offset is not None:
            x_BPr = torch.addcmul(self.offset, x_BPr, self.scale)
        if self.basis is None:
            return x_BPr
        x_BPD = x_BPr[..., :1] * self.basis[:, 0]
        for i in range(1, self.rank):  # r fused multiply-adds are faster than a batched product of such thin matrices
            x_BPD = torch.addcmul(x_BPD, x_BPr[..., i : i + 1], self.basis[:, i])
        return x_BPD


def only_numbers(tables: Mapping[str, TableForm], group: str) -> dict[str, Table]:
    """The tables, for a method that works on rows of numbers.

    Args:
        tables: Name → table of any form.
        group: The configuration group of the method.

    Raises:
        ConfigError: If a table has another form.
    """
    numbers = {name: table for name, table in tables.items() if isinstance(table, Table)}
    for name, table in tables.items():
        if name not in numbers:
            raise ConfigError(
                f"{group} takes tables whose rows are numbers (dense, low rank, shared rows), got {name!r}, "
                f"which is a {type(table).__name__}: leave the group out, ~{group}"
            )
    return numbers

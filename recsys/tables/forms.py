"""The forms of a table: 32, 16, 8 or 4 bits a number, few directions or all, every row or only those worth their bytes.

V ids, R rows that are held, r rank, D embedding dim, P lookups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Table", "held_rows", "id_map", "pack", "places", "spread", "unpack"]

_ABSENT = -(2**31)  # below any row number, so that clamping at 0 leads to the shared row


def pack(codes_Rr: Tensor) -> Tensor:
    """uint8 codes of 0 to 15, two a byte: byte j holds column 2j in its low half and column 2j + 1 in its high half."""
    low, high = codes_Rr[:, ::2], codes_Rr[:, 1::2]
    return low | torch.nn.functional.pad(high, (0, low.shape[1] - high.shape[1])) << 4


def unpack(codes: Tensor, width: int) -> Tensor:
    """Stored codes → float32 numbers, `width` in the last dimension; undoes `pack` if it was used."""
    x = codes.float()
    if codes.shape[-1] == width:
        return x
    high = (x * 0.0625).floor()  # exact in floating point; a shift of uint8 does not export to ONNX
    return torch.stack([x - 16 * high, high], -1).flatten(-2)[..., :width]


def id_map(kept_V: Tensor) -> Tensor:
    """For eight ids at a time, one word: which of them have a row of their own, and how many rows stand before.

    Args:
        kept_V: bool, whether an id has a row of its own.

    Returns:
        ⌈V/8⌉ words, bits + 256·before: half a byte an id as int32, twice that as int64, which only a
        table of 2²³ or more held rows needs.
    """
    kept = torch.nn.functional.pad(kept_V.long(), (0, -len(kept_V) % 8)).view(-1, 8)
    count = kept.sum(1)
    words = (kept << torch.arange(8)).sum(1) + 256 * (count.cumsum(0) - count)
    return words.int() if int(count.sum()) < 2**23 else words


def places() -> Tensor:
    """256×8: for a word's bits and an id's place among them, 1 + the set bits before it, or far below 0 if not set."""
    bits, place = torch.arange(256)[:, None], torch.arange(8)
    set_here = (bits >> place) & 1
    return torch.where(set_here == 1, set_here.cumsum(1), _ABSENT).int()


def held_rows(words: Tensor, places: Tensor) -> Tensor:
    """The held row of each id 0, 1, …, eight for each word: 0 is the row that ids without one of their own share.

    Args:
        words: `id_map`.
        places: `places()`.
    """
    before = (words >> 8).unsqueeze(1)
    return (before + places.index_select(0, words & 255)).clamp(min=0).flatten()


def spread(
    codes: Tensor, rank: int, words: Tensor | None, places: Tensor | None, sizes: Sequence[tuple[int, int, int]]
) -> Tensor:
    """What tables of one form store, one after another → a row for each id, one number in a byte or more: Σ V × r.

    Args:
        codes: The codes of all tables.
        rank: r.
        words: The id maps of those that have one, or None if none has.
        places: `places()` if there are words.
        sizes: For each table, how many rows of codes, words and ids it has; no words, no id map.
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
    """W = (codes·scale + offset)·basis, the row of an id found through `words`.

    Args:
        codes: R×r float32 or float16; or uint8, each a code of 8 bits, or two of 4 bits (`pack`),
            which the count of scales tells.
        scale: r float32, the step of each column. None if the codes are the numbers themselves.
        offset: r float32, what code 0 stands for.
        basis: r×D float32 of a low-rank table. None means r = D.
        words: `id_map` of the V ids; codes then begin with the shared row. None: every id has its own.
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
        """r, the numbers held for a row."""
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
        """Bytes of storage really held: codes, steps, basis and id map."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor))

    def held(self) -> Tensor:
        """The R×r float32 rows that are held, before the basis."""
        x_Rr = unpack(self.codes, self.rank)
        return x_Rr if self.scale is None or self.offset is None else torch.addcmul(self.offset, x_Rr, self.scale)

    def dense(self) -> Tensor:
        """The V×D float32 table it stands for."""
        w = self.held() if self.basis is None else self.held() @ self.basis
        if self.words is None:
            return w
        return w[held_rows(self.words, places())[: self.rows]]

    def to(self, device: torch.device) -> "Table":
        """A copy on another device."""
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

"""The forms of a table: 32, 16, 8 or 4 bits a number, few directions or all, every row or only those worth their bytes.

V ids, R rows that are held, r rank, D embedding dim, P lookups.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Table", "held_row", "id_map", "pack", "places", "unpack"]

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
    """For a word's eight bits and an id's place among them: 1 + the set bits before it, or far below 0 if not set."""
    bits, place = torch.arange(256)[:, None], torch.arange(8)
    before = torch.stack([(bits >> j) & 1 for j in range(8)], -1).cumsum(-1)[:, 0]
    return torch.where(((bits >> place) & 1) == 1, before, _ABSENT).int().flatten()


def held_row(ids: Tensor, word_of: Tensor, words: Tensor, places: Tensor) -> Tensor:
    """The held row of each id, int64: 0 is the row that ids without one of their own share.

    Args:
        ids: int64, any shape.
        word_of: Where each id's word stands in `words`.
        words: `id_map`, of one table or of several in a row.
        places: `places()`.
    """
    word = words.index_select(0, word_of.flatten()).long()
    place = places.index_select(0, ((word & 255) << 3) + (ids.flatten() & 7))
    return ((word >> 8) + place).clamp(min=0).view(ids.shape)


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
        ids = torch.arange(self.rows)
        return w[held_row(ids, ids >> 3, self.words, places())]

    def mapped(self) -> "Table":
        """The same numbers behind an id map in which every id has a row of its own; the shared row is never read."""
        codes = torch.cat([torch.zeros_like(self.codes[:1]), self.codes])
        return replace(self, codes=codes, words=id_map(torch.ones(self.rows, dtype=torch.bool)), ids=self.rows)

    def to(self, device: torch.device) -> "Table":
        """A copy on another device."""
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

"""Rows in 16, 8 or 4 bits a number."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recsys.config.ranges import Bits
from recsys.errors import ConfigError
from recsys.tables.contract import TableForm
from recsys.tables.forms import Table, held_rows, only_numbers, pack, places

__all__ = ["held_reads", "rounded", "rounding"]

_CLIPS = torch.linspace(1.0, 0.5, 6)  # at least half: rows read often hold the large numbers, which must not shrink


def held_reads(table: Table, reads_V: Tensor) -> Tensor:
    """How often training rows read each row that is held → R, float64, with a sum above 0."""
    reads_R = reads_V.double() if reads_V.any() else torch.ones(len(reads_V), dtype=torch.double)
    if table.words is None:
        return reads_R
    held_V = held_rows(table.words, places())[: table.rows]
    return torch.zeros(len(table.codes), dtype=torch.double).index_add(0, held_V, reads_R)


def rounded(table: Table, bits: int, weight_R: Tensor) -> Table:
    """The same table with its held rows in `bits` bits a number.

    With L = 2^bits − 1, column j holds codes c from 0 to L, which represent step_j·(c − L/2). The step is
    2·clip·max|w_j| / L. Of six clips from 1 to 1/2 the one with the least weighted squared error is taken,
    so that an error is at most half a step unless the number was clipped. All rows of a column share one
    step, since a scale for each row would double the bytes of four-bit rows of width 8.

    Args:
        table: Float32 rows, or a low-rank table, whose factor A is rounded.
        bits: 32 (no change), 16 (float16), 8 or 4. A single column of 4 bits takes a whole byte.
        weight_R: Weight of each held row, ≥ 0.
    """
    if bits == 32:
        return table
    if bits == 16:
        return replace(table, codes=table.codes.half())
    if bits == 4 and table.rank == 1:
        bits = 8
    x_Rr = table.codes.float()
    levels = 2**bits - 1
    weight_R1 = (weight_R / weight_R.sum()).float()[:, None]
    largest_r = x_Rr.abs().amax(0).clamp(min=1e-12)
    steps_Cr = 2 * _CLIPS[:, None] * largest_r / levels
    errors = [(weight_R1 * (x_Rr - _stand_for(_codes(x_Rr, s_r, levels), s_r, levels)) ** 2).sum(0) for s_r in steps_Cr]
    step_r = steps_Cr.gather(0, torch.stack(errors).argmin(0, keepdim=True))[0]
    codes = _codes(x_Rr, step_r, levels).to(torch.uint8)
    return replace(table, codes=pack(codes) if bits == 4 else codes, scale=step_r, offset=-step_r * levels / 2)


def _codes(x_Rr: Tensor, step_r: Tensor, levels: int) -> Tensor:
    return (x_Rr / step_r + levels / 2).round().clamp(0, levels)


def _stand_for(codes_Rr: Tensor, step_r: Tensor, levels: int) -> Tensor:
    return step_r * (codes_Rr - levels / 2)


def rounding(
    tables: Mapping[str, TableForm], reads: Mapping[str, Tensor], fisher: Mapping[str, Tensor], bits: Bits
) -> tuple[dict[str, Table], dict[str, str]]:
    """Round every table that holds float32 rows to `bits` bits a number.

    Args:
        tables: Rows of numbers; for a low-rank table, factor A is rounded.
        reads: How often training rows read each row: the weight of its error.
        fisher: Not used.
        bits: 16, 8 or 4.

    Returns:
        The tables, and a note for each that was left as it is.

    Raises:
        ConfigError: If `bits` is another number, or a table has another form.
    """
    if bits not in (16, 8, 4):
        raise ConfigError(f"quantization.bits: expected 16, 8 or 4, got {bits!r}: choose one of them")
    smaller, notes = dict[str, Table](), dict[str, str]()
    for name, table in only_numbers(tables, "quantization").items():
        if table.bits < 32:
            smaller[name], notes[name] = table, f"holds {table.bits} bits a number already"
        else:
            smaller[name] = rounded(table, bits, held_reads(table, reads[name]))
    return smaller, notes

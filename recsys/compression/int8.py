"""Eight-bit rows: each row its own scale and offset."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from recsys.compression.low_rank import TableReport, relative_error
from recsys.tables import Table

__all__ = ["int8"]


def _rows(table: Table) -> Table:
    w_Vr = table.codes.float()
    low_V, high_V = w_Vr.amin(1), w_Vr.amax(1)
    offset_V = low_V.half()
    scale_V = ((high_V - offset_V.float()) / 255).half()
    step_V1 = scale_V.float().clamp(min=1e-12)[:, None]
    codes = ((w_Vr - offset_V.float()[:, None]) / step_V1).round().clamp(0, 255).to(torch.uint8)
    return replace(table, codes=codes, scale=scale_V, offset=offset_V)


def int8(tables: Mapping[str, Table]) -> tuple[dict[str, Table], list[TableReport]]:
    """ŵ = scale_v·code + offset_v with 8-bit codes and float16 scale and offset: r + 4 bytes a row.

    The error of a number is at most half a step, (max − min)/510, plus the rounding of scale and
    offset to float16. Codes are fitted to the rounded scale and offset, not to the exact ones.

    Args:
        tables: Dense or low-rank tables; of a low-rank one the factor A is quantised.
    """
    made = {name: _rows(t) for name, t in tables.items()}
    reports = [
        TableReport(
            n, t.rows, t.dim, t.codes.shape[1], t.nbytes, made[n].nbytes, relative_error(t.dense(), made[n].dense())
        )
        for n, t in tables.items()
    ]
    return made, reports

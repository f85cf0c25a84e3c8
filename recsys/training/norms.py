"""How far one step moves a model, beside how large the model is: measured at looks at validation, and never changed.

R rows of a table, D embedding dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.frame.contracts import RoutedEmbedding
from recsys.frame.ctr import CTR

__all__ = ["Move"]


class Move:
    """What a step changes. Make it before the backward pass, which updates the tables; it reads and draws nothing else.

    Args:
        model: Before the step.
        dense: The parameters that the optimiser of the dense layers trains.
        batch: Rows of the step, which say what table rows it reads.
    """

    def __init__(self, model: CTR, dense: Sequence[nn.Parameter], batch: Batch):
        self._model, self._dense = model, dense
        self._before = [p.detach().clone() for p in dense]
        self._rows = _rows_read(model, batch)
        self._rows_before = self._read()
        self._gradient = float("nan")

    def after_backward(self) -> None:
        """Measure the gradient, before an optimiser may change it."""
        self._gradient = _norm([p.grad for p in self._dense if p.grad is not None])

    def figures(self) -> dict[str, float]:
        """What the step has done; call it after the optimisers.

        Returns:
            grad_norm: ‖g‖₂ of all dense parameters together. update_ratio: ‖Δw‖₂ / ‖w‖₂ of the same, with w before
            the step; for AdamW about its learning rate divided by the mean size of a weight. table_update_ratio: the
            same for the table rows that the batch reads; left out if no table is trained.
        """
        moved = _ratio([p.detach() for p in self._dense], self._before)
        figures = {"grad_norm": self._gradient, "update_ratio": moved}
        if self._rows:
            figures["table_update_ratio"] = _ratio(self._read(), self._rows_before)
        return figures

    def _read(self) -> list[Tensor]:
        held = (
            {(part.table, part.start): part.weight_RD for part in self._model.trainable().held()} if self._rows else {}
        )
        return [held[key].detach()[rows].clone() for key, rows in self._rows.items()]


def _norm(parts: Sequence[Tensor]) -> float:
    """‖x‖₂ of all parts together, summed in float64."""
    return float(sum(float(p.double().square().sum()) for p in parts) ** 0.5)


def _ratio(now: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """‖now − before‖₂ / ‖before‖₂; 0 if nothing was there and nothing is."""
    moved, size = _norm([a - b for a, b in zip(now, before, strict=True)]), _norm(before)
    return moved / size if size else float(moved > 0)


@torch.no_grad()
def _rows_read(model: CTR, batch: Batch) -> dict[tuple[str, int], Tensor]:
    """(table, first row that is held) → the held rows that a batch reads, each once, counted from the first."""
    embedding = model.embedding
    if not isinstance(embedding, RoutedEmbedding):
        return {}
    held = embedding.held()
    trained = {part.table for part in held}
    routed, read = embedding.route(batch), dict[str, list[Tensor]]()
    keys = routed.keys()
    lengths = dict(zip(keys, routed.length_per_key(), strict=True))
    blocks = dict(zip(keys, routed.values().split([lengths[k] for k in keys]), strict=True))
    for lookup, of_lookup in zip(embedding.lookups, embedding.keys, strict=True):
        if lookup.table in trained:
            read.setdefault(lookup.table, []).extend(blocks[key] for key in of_lookup)
    rows: dict[tuple[str, int], Tensor] = {}
    for part in held:
        numbers = torch.cat(read.get(part.table, [routed.values()[:0]])).unique() - part.start
        rows[part.table, part.start] = numbers[(numbers >= 0) & (numbers < len(part.weight_RD))].long()
    return rows

"""One batch as the model takes it.

B rows, K sparse fields, L id columns (L ≥ K), N numeric fields, T labels.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from recsys.features.schema import Schema

__all__ = ["Batch", "to_jagged"]


def to_jagged(ids_BL: Tensor, keys: list[str], lengths: list[int]) -> KeyedJaggedTensor:
    """Padded id columns → a KeyedJaggedTensor with the same key order.

    Args:
        ids_BL: int; −1 pads.
        keys: The K field names.
        lengths: K column counts; they sum to L.
    """
    ids_LB = ids_BL.t().contiguous()
    if ids_BL.shape[1] == len(keys):
        values = ids_LB.reshape(-1)
        if values.numel() == 0 or int(values.min()) >= 0:
            return KeyedJaggedTensor(keys, values, lengths=torch.ones_like(values, dtype=torch.int32))
    values, counts = [], []
    for block_CB in ids_LB.split(lengths):
        ids_BC = block_CB.t()
        there_BC = ids_BC >= 0
        values.append(ids_BC[there_BC])
        counts.append(there_BC.sum(1, dtype=torch.int32))
    return KeyedJaggedTensor(keys, torch.cat(values), lengths=torch.cat(counts))


@dataclass
class Batch(Pipelineable):
    """A batch; TorchRec's pipelines can move it.

    Args:
        ids: int64; a key for each looked-up field except sequences, in schema order. A sequence is
            read position by position, straight from `ids_BL`.
        ids_BL: All ids, row-major, padded with −1: the input of plain-tensor (exported) models.
        dense_BN: float32; the numbers, then the weights of weighted lists.
        label_BT: float32, 0 or 1, the main label first; NaN if one of the others was not observed. One label
            may come as label_B.
        weight_B: float32 sample weights ≥ 0; None weighs all rows alike.
    """

    ids: KeyedJaggedTensor
    ids_BL: Tensor
    dense_BN: Tensor
    label_BT: Tensor
    weight_B: Tensor | None = None

    def __post_init__(self) -> None:
        if self.label_BT.ndim == 1:
            self.label_BT = self.label_BT.unsqueeze(1)

    @property
    def label_B(self) -> Tensor:
        """The main label."""
        return self.label_BT[:, 0]

    @classmethod
    def of(
        cls, schema: Schema, ids_BL: Tensor, dense_BN: Tensor, label_BT: Tensor, weight_B: Tensor | None = None
    ) -> "Batch":
        """A batch from row-major arrays."""
        pooled = [f for f in schema.sparse if f.kind != "sequence"]
        picked_BL = ids_BL
        if len(pooled) < len(schema.sparse):
            picked_BL = ids_BL[:, [c for f in pooled for c in schema.id_columns[f.name]]]
        jagged = to_jagged(picked_BL, [f.name for f in pooled], [f.max_length for f in pooled])
        return cls(jagged, ids_BL, dense_BN, label_BT, weight_B)

    def _parts(self) -> list[Any]:
        return [getattr(self, f.name) for f in fields(self)]

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """A copy on another device."""
        return Batch(*(None if p is None else p.to(device, non_blocking=non_blocking) for p in self._parts()))

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that a stream uses these tensors."""
        for part in self._parts():
            if part is not None:
                part.record_stream(stream)

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory."""
        return Batch(*(None if p is None else p.pin_memory() for p in self._parts()))

    def __len__(self) -> int:
        return self.label_BT.shape[0]

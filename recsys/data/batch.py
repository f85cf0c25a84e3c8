"""One batch as the model takes it. B rows, K sparse fields, L id columns (L ≥ K), N numeric fields."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

__all__ = ["Batch", "to_jagged"]


def to_jagged(ids_BL: Tensor, keys: list[str], lengths: list[int]) -> KeyedJaggedTensor:
    """Padded id columns → a KeyedJaggedTensor with the same key order.

    Args:
        ids_BL: int; −1 pads.
        keys: K field names.
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
        ids: K keys in schema order, int64.
        ids_BL: The same ids row-major, −1 padded: what plain-tensor (exported) models take.
        dense_BN: float32.
        label_B: float32, 0 or 1.
    """

    ids: KeyedJaggedTensor
    ids_BL: Tensor
    dense_BN: Tensor
    label_B: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """A copy on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that a stream uses these tensors."""
        for f in fields(self):
            getattr(self, f.name).record_stream(stream)

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory."""
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))

    def __len__(self) -> int:
        return self.label_B.shape[0]

"""A frozen logistic regression beside the network: its columns of x_BW, and the mean of both logits.

B rows, W the width of all fields with their linear columns, V without them, N numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.features.schema import Schema

__all__ = ["Linear", "linear_fields"]


def linear_fields(schema: Schema) -> list[str]:
    """The fields that have a linear column: all looked-up ones except sequences, which only the network reads."""
    return [f.name for f in schema.sparse if f.kind != "sequence"]


class Linear(nn.Module):
    """x_BW → the network's input and the logit of the logistic regression; then the weighted mean of both logits.

    The last column of each of `linear_fields` is the regression's weight of its id. Numbers are columns of x_BW
    already; their weights and the intercept are here. Thereby replacing a field's columns replaces its part of
    both logits. Nothing here is trained by gradients: `share`, the network's weight in the mean, is 1 while the
    network trains, and is chosen on validation.

    Args:
        schema: The fields; numbers come last.
        widths: Width of each field in x_BW, sequences pooled.
    """

    weight_N: Tensor
    bias: Tensor
    share: Tensor

    def __init__(self, schema: Schema, widths: Sequence[int]):
        super().__init__()
        linear, sparse = set(linear_fields(schema)), len(schema.sparse)
        self.extra = [int(f.name in linear) for f in schema.fields]
        self.network = [w - e for w, e in zip(widths, self.extra, strict=True)]
        self._sizes, self._numbers = list(widths[:sparse]), sum(widths[sparse:])
        self._alike = len(linear) == sparse and len(set(self._sizes)) == 1
        self.register_buffer("weight_N", torch.zeros(self._numbers))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("share", torch.ones(()))

    def forward(self, x_BW: Tensor) -> tuple[Tensor, Tensor]:
        """→ x_BV, logit_B."""
        looked_up, numbers_BN = x_BW.tensor_split([sum(self._sizes)], 1)
        if self._alike:
            x_BFD = looked_up.unflatten(1, (len(self._sizes), -1))
            parts, linear_BF = [x_BFD[..., :-1].flatten(1)], x_BFD[..., -1]
        else:
            blocks = list(zip(looked_up.split(self._sizes, 1), self.extra, strict=False))
            parts = [b[:, : b.shape[1] - e] for b, e in blocks]
            linear_BF = torch.cat([b[:, -1:] for b, e in blocks if e] or [looked_up[:, :0]], 1)
        # An element-wise product and sum, since autocast would round a matrix product to bf16.
        logit_B = linear_BF.sum(1) + (numbers_BN * self.weight_N).sum(1) + self.bias
        return torch.cat([*parts, numbers_BN], 1), logit_B

    def mean(self, network_BT: Tensor, linear_B: Tensor) -> Tensor:
        """share·network + (1 − share)·linear → logit_BT, T = 1."""
        return self.share * network_BT + (1 - self.share) * linear_B.unsqueeze(1)

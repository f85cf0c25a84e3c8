"""The floor of a training step: its matrix products alone, in the same shapes and precision.

They are recorded while the model itself answers, so that no list of layers has to be kept by hand. Each product a·b of
the answer has two more in the backward pass, with G the gradient of its result: G·bᵀ for a and aᵀ·G for b.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from recsys.errors import DataError

__all__ = ["Operand", "Product", "check_complete", "floor_step", "of_step", "padded", "recorded"]

_aten = torch.ops.aten
_FACTORS = {  # operation → positions of its two factors
    _aten.mm: (0, 1),
    _aten.bmm: (0, 1),
    _aten.mv: (0, 1),
    _aten.addmm: (1, 2),
    _aten._addmm_activation: (1, 2),
    _aten.baddbmm: (1, 2),
    _aten.addmv: (1, 2),
}
_LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Operand:
    """A factor of a product: a matrix, or a batch of them.

    Args:
        shape: Its shape: two numbers, three for a batch.
        stride: Its stride, in elements; 0 along a dimension that repeats one matrix.
        dtype: Its precision.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> "Operand":
        """The shape, layout and precision of a tensor; a vector is a matrix of one column."""
        x = x.unsqueeze(1) if x.ndim == 1 else x
        return cls(tuple(x.shape), x.stride(), x.dtype)

    @property
    def transposed(self) -> "Operand":
        """The same numbers with rows and columns exchanged."""
        *batch, rows, columns = zip(self.shape, self.stride, strict=True)
        shape, stride = zip(*batch, columns, rows, strict=True)
        return Operand(shape, stride, self.dtype)

    def drawn(self) -> Tensor:
        """A random tensor of this shape and layout, which shares memory with no other."""
        reach = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return torch.randn(reach).to(self.dtype).as_strided(self.shape, self.stride)


def _dense(shape: Sequence[int], dtype: torch.dtype) -> Operand:
    return Operand(tuple(shape), tuple(prod(shape[i + 1 :]) for i in range(len(shape))), dtype)


@dataclass(frozen=True)
class Product:
    """One matrix product, or a batch of them: a·b."""

    a: Operand
    b: Operand

    @property
    def flops(self) -> int:
        """2 · rows · inner · columns: a multiplication and an addition count as two."""
        return 2 * prod(self.a.shape) * self.b.shape[-1]

    @property
    def backward(self) -> "tuple[Product, Product]":
        """The products that give the gradients of a and of b."""
        grad = _dense((*self.a.shape[:-1], self.b.shape[-1]), self.a.dtype)
        return Product(grad, self.b.transposed), Product(self.a.transposed, grad)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if places := _FACTORS.get(func.overloadpacket):
            self.products.append(Product(*(Operand.of(args[i]) for i in places)))
        return func(*args, **(kwargs or {}))


def recorded(call: Callable[[], object]) -> list[Product]:
    """The matrix products of a call on this thread, in order."""
    with _Recorder() as recorder:
        call()
    return recorder.products


def of_step(answer: Callable[[], object]) -> list[Product]:
    """The matrix products of a step: those of the answer, then two for each of them in the backward pass.

    No gradients are recorded: thereby each layer multiplies as it is defined, not by what training makes of it.

    Args:
        answer: Computes the logits of a batch.
    """
    with torch.no_grad():
        forward = recorded(answer)
    return [*forward, *(p for f in reversed(forward) for p in f.backward)]


def padded(products: Sequence[Product]) -> list[Product]:
    """The same with every width above 1 raised to whole cache lines, which some processors prefer.

    Batches of small matrices stay as they are.
    """

    def wide(n: int, dtype: torch.dtype) -> int:
        step = _LINE // dtype.itemsize
        return n if n == 1 else -(-n // step) * step

    def raised(x: Operand) -> Operand:
        return _dense([wide(n, x.dtype) for n in x.shape], x.dtype)

    return [p if len(p.a.shape) > 2 else Product(raised(p.a), raised(p.b)) for p in products]


def check_complete(products: Sequence[Product], model: nn.Module, rows: int) -> None:
    """Check that no linear layer hides its products, for example in an operator of its own.

    Args:
        products: Those of a step.
        model: Each of its linear layers is applied to every row at least once: 6 · rows · inputs · outputs operations.
        rows: Rows of the batch.

    Raises:
        DataError: If there are too few products.
    """
    least = sum(6 * rows * m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    seen = sum(p.flops for p in products)
    if seen < least:
        raise DataError(
            f"the floor: expected at least {least:.3g} floating-point operations a step by the model's linear layers, "
            f"recorded {seen:.3g}: add the operator that hides them to {__name__}"
        )


def floor_step(products: Sequence[Product]) -> Callable[[], None]:
    """A function that computes the products, and nothing else; all memory is reserved beforehand."""
    factors = [(p.a.drawn(), p.b.drawn()) for p in products]
    results = [torch.matmul(a, b) for a, b in factors]

    def step() -> None:
        for (a, b), result in zip(factors, results, strict=True):
            torch.matmul(a, b, out=result)

    return step

"""A device that is none: its tensors lie in the CPU's memory, and no operation takes them together with the CPU's.

It finds what would fail on a GPU, without one: a tensor that a forward pass makes on the CPU, a generator of the CPU
for numbers of the device, `numpy()` without a copy. FBGEMM's own kernels run, those for the CPU: only the class that
asks for a place of the tables, which knows the CPU and CUDA alone, is told the CPU.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from recsys.embeddings import bags
from recsys.training.device import Device

PLACE = torch.device("privateuseone", 0)
_generators: list[torch.Generator] = []
_storages: dict[int, torch.UntypedStorage] = {}  # of the device's tensors; held, so that no address is used twice


class _Fake(Device):
    """The value that is handed down."""

    def generator(self, seed: int) -> torch.Generator:
        """A source of random numbers for tensors that are drawn on the device."""
        _generators.append(torch.Generator().manual_seed(seed))
        return _generators[-1]

    def wait(self) -> None:
        """Its operations end before they return."""

    def _module(self) -> Any:
        return torch.random


FAKE = _Fake(PLACE, reason="fake")


def is_fake(x: Any) -> bool:
    """Whether it is a tensor of the device."""
    return isinstance(x, Tensor) and x.untyped_storage()._cdata in _storages


def _to_device(x: Any) -> Any:
    if isinstance(x, Tensor):
        _storages[x.untyped_storage()._cdata] = x.untyped_storage()
    return x


def _copy(x: Tensor) -> Tensor:
    """A copy on the CPU."""
    return torch.empty(x.shape, dtype=x.dtype).copy_(x.detach())


class _Operations(TorchDispatchMode):
    """What is computed from tensors of the device is on the device; others may not be mixed in, except scalars."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        strays = [tuple(x.shape) for x in given if not is_fake(x) and x.dim() > 0]
        if func.namespace == "fbgemm":  # an empty tensor there stands for a setting that is not used
            strays = [shape for shape in strays if shape != (0,)]
        mixes = any(map(is_fake, given)) and func._schema.name != "aten::copy_"
        if mixes and strays:
            raise RuntimeError(f"{func}: tensors of the CPU, of shapes {strays}, among those of the device")
        out = func(*args, **(kwargs or {}))
        return tree_map(_to_device, out) if mixes else out


class _Places(TorchFunctionMode):
    """What Python asks of a device: where a tensor is, a new one there, a copy here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, first = getattr(func, "__name__", ""), args[0] if args else None
        if name == "__get__" and getattr(func, "__self__", None) is Tensor.device:
            return PLACE if is_fake(first) else func(*args)
        if name in ("numpy", "__array__") and is_fake(first) and not kwargs.get("force"):
            raise TypeError("numpy() of a tensor of the device: copy it first, by numpy(force=True)")
        devices = {str(a) for a in (*args, kwargs.get("device")) if isinstance(a, torch.device | str)}
        there, here = str(PLACE) in devices, "cpu" in devices
        if name in ("to", "cpu") and (there or here or name == "cpu"):
            return first if is_fake(first) is there else _to_device(_copy(first)) if there else _copy(first)
        if generator := kwargs.get("generator"):
            known = any(generator is g for g in _generators)
            if known is not (there or any(map(is_fake, tree_leaves(args)))):
                raise RuntimeError(f"{name}: a generator of another device than the numbers that it draws")
        if kwargs.get("device") != PLACE:
            return func(*args, **kwargs)
        return tree_map(_to_device, func(*args, **{**kwargs, "device": "cpu"}))


class _Bags(bags.FusedEmbeddingBagCollection):
    """TorchRec's tables, said to be on the device if they are asked to be."""

    def __init__(self, *args: Any, device: torch.device, **kwargs: Any):
        with torch.device("cpu"):
            super().__init__(*args, **kwargs, device=torch.device("cpu"))
        if device.type == PLACE.type:
            for module in [self, *(m._emb_module for m in self._emb_modules)]:
                for tensor in (*module.parameters(), *module.buffers()):
                    _to_device(tensor)


@contextmanager
def fake_device() -> Generator[Device]:
    """Within it the device is there."""
    with patch.object(bags, "FusedEmbeddingBagCollection", _Bags), _Operations(), _Places():
        yield FAKE

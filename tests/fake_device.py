"""A device that is none: its tensors lie in the CPU's memory, and no operation takes them together with the CPU's.

It finds what would fail on a GPU, without one: a tensor that a forward pass makes on the CPU, a generator of the CPU
for numbers of the device, `numpy()` without a copy, a batch that is read before its copy is done. FBGEMM's own kernels
run, those for the CPU: only the class that asks for a place of the tables, which knows the CPU and CUDA alone, is told
the CPU.
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
        return _Module


class _Stream:
    """Copies that are begun in it may be read only after another stream has waited for them, and said that it reads."""

    current: "_Stream | None" = None

    def __init__(self) -> None:
        self.begun: set[int] = set()

    def record_event(self) -> set[int]:
        """What is begun until now."""
        return set(self.begun)

    def wait_event(self, event: set[int]) -> None:
        """What the event has recorded is there."""
        _missing["wait"] -= event


class _Module:
    """What torch.cuda is to a GPU."""

    Stream = _Stream
    get_rng_state, set_rng_state = staticmethod(torch.get_rng_state), staticmethod(torch.set_rng_state)

    @staticmethod
    def current_stream() -> _Stream:
        """The stream of computations."""
        return _Stream.current or _Stream()

    @staticmethod
    @contextmanager
    def stream(stream: _Stream) -> Generator[None]:
        """Within it copies are in the stream."""
        before, _Stream.current = _Stream.current, stream
        try:
            yield
        finally:
            _Stream.current = before


_pinned: dict[int, torch.UntypedStorage] = {}
_missing: dict[str, set[int]] = {"wait": set(), "record": set()}  # storages that are copied, but not safe to read yet


FAKE = _Fake(PLACE, reason="fake")


def is_fake(x: Any) -> bool:
    """Whether it is a tensor of the device."""
    return isinstance(x, Tensor) and x.untyped_storage()._cdata in _storages


def _to_device(x: Any) -> Any:
    if isinstance(x, Tensor):
        _storages[x.untyped_storage()._cdata] = x.untyped_storage()
    return x


def _begun(there: Tensor, source: Tensor) -> Tensor:
    """The copy of a tensor to the device: in a stream of its own it is not there at once."""
    if _Stream.current:
        if source.untyped_storage()._cdata not in _pinned:
            raise RuntimeError("a copy beside the computation: the memory is not page-locked")
        for lack in (_Stream.current.begun, *_missing.values()):
            lack.add(there.untyped_storage()._cdata)
    return there


def _recorded(x: Tensor, stream: _Stream) -> None:
    _missing["record"].discard(x.untyped_storage()._cdata)


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
        if early := [tuple(x.shape) for x in given for lack in _missing.values() if x.untyped_storage()._cdata in lack]:
            raise RuntimeError(f"{func}: tensors of shapes {early} are read before their copy is done, or not recorded")
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
        if name == "__get__" and getattr(func, "__self__", None) is Tensor.is_cpu:
            return not is_fake(first)
        if name in ("numpy", "__array__") and is_fake(first) and not kwargs.get("force"):
            raise TypeError("numpy() of a tensor of the device: copy it first, by numpy(force=True)")
        if name == "pin_memory":
            pinned = _copy(first)
            _pinned[pinned.untyped_storage()._cdata] = pinned.untyped_storage()
            return pinned
        devices = {str(a) for a in (*args, kwargs.get("device")) if isinstance(a, torch.device | str)}
        there, here = str(PLACE) in devices, "cpu" in devices
        if name in ("to", "cpu") and (there or here or name == "cpu"):
            return (
                first if is_fake(first) is there else _begun(_to_device(_copy(first)), first) if there else _copy(first)
            )
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
    recorded = patch.object(Tensor, "record_stream", _recorded)
    with patch.object(bags, "FusedEmbeddingBagCollection", _Bags), recorded, _Operations(), _Places():
        for lack in _missing.values():
            lack.clear()
        yield FAKE

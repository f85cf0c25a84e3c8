"""The device and precision of a run: one value that is chosen once and passed on."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.errors import ConfigError

__all__ = ["CPU", "Device"]


@dataclass(frozen=True)
class Device:
    """Where tensors are, and the precision in which dense layers multiply.

    Args:
        torch_device: Torch's name of the device.
        autocast_dtype: Precision of dense layers while a model trains; None is float32.
        reason: A sentence on why it was chosen.
    """

    torch_device: torch.device
    autocast_dtype: torch.dtype | None = None
    reason: str = "It was given."

    @classmethod
    def choose(cls, name: str = "auto", precision: str = "auto") -> "Device":
        """The device of a run.

        Args:
            name: `cpu`, `cuda` or `auto`, which is the GPU if torch can use one, else the CPU.
            precision: `fp32`, `bf16` or `auto`, which is bf16 if the hardware multiplies it.

        Raises:
            ConfigError: If a GPU is asked for and torch can use none.
        """
        gpu = torch.cuda.is_available()
        if name == "cuda" and not gpu:
            wanted = "device: expected a GPU that torch can use, found none: "
            raise ConfigError(wanted + "set device=cpu, or see what recsys doctor says")
        place = torch.device("cuda", torch.cuda.current_device()) if gpu and name != "cpu" else torch.device("cpu")
        itself = _multiplies_bf16(place)
        half = itself if precision == "auto" else precision == "bf16"
        reasons = {  # for the place and the precision, if they were not set
            f"device={name}": f"torch can use {'a' if gpu else 'no'} GPU",
            f"train.precision={precision}": f"it {'multiplies' if itself else 'does not multiply'} bf16 itself",
        }
        why, why_half = (r if s.endswith("=auto") else f"{s} was set" for s, r in reasons.items())
        reason = f"{place.type}, since {why}; {'bf16' if half else 'fp32'}, since {why_half}"
        return cls(place, torch.bfloat16 if half else None, reason)

    @property
    def name(self) -> str:
        """Name of place and precision, on which the last bits of a result depend, such as `cpu float32`."""
        return f"{self.torch_device.type} {str(self.autocast_dtype or torch.float32).removeprefix('torch.')}"

    def autocast(self) -> AbstractContextManager[object]:
        """A context in which dense layers run in `autocast_dtype`."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.torch_device.type, self.autocast_dtype)

    def in_float32(self) -> "Device":
        """The same place, with dense layers in float32."""
        return replace(self, autocast_dtype=None)

    def wait(self) -> None:
        """Wait until all computations on the device are done, to measure time."""
        if self.torch_device.type != "cpu":
            self._module().synchronize()

    def batch(self, batch: Batch) -> Batch:
        """The batch, moved to the device."""
        return batch if self.torch_device.type == "cpu" else batch.to(self.torch_device, non_blocking=True)

    def ahead(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, moved to the device: the next one is copied while the device computes with the one before.

        On a GPU the copy is from page-locked memory and in a stream of its own. On the CPU nothing is moved or read
        ahead.
        """
        if self.torch_device.type == "cpu":
            yield from batches
            return
        module, waiting = self._module(), None
        copies = module.Stream()
        for batch in batches:
            batch.ids.sync()  # counts the ids of each key here: a step would otherwise wait for the device to say so
            with module.stream(copies):
                coming = batch.pin_memory().to(self.torch_device, non_blocking=True), copies.record_event()
            if waiting is not None:
                yield self._arrived(*waiting)
            waiting = coming
        if waiting is not None:
            yield self._arrived(*waiting)

    def _arrived(self, batch: Batch, copied: torch.Event) -> Batch:
        """A batch that the device's current computations may read: they wait for its copy, and its memory for them."""
        now = self._module().current_stream()
        now.wait_event(copied)
        batch.record_stream(now)
        return batch

    def generator(self, seed: int) -> torch.Generator:
        """A random generator for tensors on the device."""
        return torch.Generator(self.torch_device).manual_seed(seed)

    def random_states(self) -> list[Tensor]:
        """The states of torch's default random generators: the CPU's, and this device's if it is another."""
        states = [torch.get_rng_state()]
        return states if self.torch_device.type == "cpu" else [*states, self._module().get_rng_state()]

    def set_random_states(self, states: list[Tensor]) -> None:
        """Restore the output of `random_states`; a state of another kind of device is ignored."""
        torch.set_rng_state(states[0])
        if self.torch_device.type != "cpu" and len(states) > 1:
            self._module().set_rng_state(states[1])

    def _module(self) -> ModuleType:
        return torch.get_device_module(self.torch_device)


def _multiplies_bf16(place: torch.device) -> bool:
    """Whether the hardware multiplies bf16 itself."""
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()  # type: ignore[attr-defined]  # torch has no public name for it


CPU = Device(torch.device("cpu"))
"""The CPU in float32."""

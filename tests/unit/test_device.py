"""The device of a run: which one is chosen, and why."""

import pytest
import torch

from recsys.errors import ConfigError
from recsys.training.device import CPU, Device


def test_auto_precision_asks_the_processor_that_computes(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for cpu, gpu in ((False, True), (True, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=cpu: supported)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, supported=gpu: supported)
        assert (Device.choose("cpu").autocast_dtype is torch.bfloat16) is cpu
        assert (Device.choose("auto").autocast_dtype is torch.bfloat16) is gpu
    assert Device.choose("auto").torch_device == torch.device("cuda", 0)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = Device.choose("auto", "fp32")
    assert chosen.torch_device == CPU.torch_device and chosen.autocast_dtype is None
    assert chosen.reason == "cpu, since torch can use no GPU; fp32, since train.precision=fp32 was set"
    with pytest.raises(ConfigError, match="device: expected a GPU that torch can use, found none: set device=cpu"):
        Device.choose("cuda")


def test_random_states_go_back(monkeypatch) -> None:
    torch.manual_seed(3)
    states, drawn = CPU.random_states(), torch.rand(4)
    CPU.set_random_states(states)
    assert torch.equal(torch.rand(4), drawn)
    assert torch.equal(torch.rand(4, generator=CPU.generator(3)), torch.rand(4, generator=CPU.generator(3)))

"""What a machine gives to runs, and that no two runs get one GPU."""

import os
import tempfile
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.service.queue.records import Needs
from recsys.service.worker import slots


def test_a_machine_gives_what_it_has_or_what_was_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-1234")
    has = slots.machine()
    assert has.gpus == 2 and 1 <= has.cores <= (os.cpu_count() or 1) and has.memory > 1 << 28
    assert slots.machine(3, 1 << 30, 1) == Needs(3, 1 << 30, 1)
    with pytest.raises(ConfigError, match="gpus: expected at most 2, which are there, got 3"):
        slots.machine(count=3)
    (tmp_path / "memory.max").write_text(f"{1 << 30}\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(slots, "_CGROUP", tmp_path)
    assert slots.machine() == Needs(1, int((1 << 30) * 0.9), 2)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert slots.machine() == has


def test_a_gpu_belongs_to_one_run_until_all_its_processes_let_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(slots, "_WAIT", 0.1)
    assert slots.take_gpus(0) == ([], [])
    first, held = slots.take_gpus(1)
    other, also = slots.take_gpus(1)
    assert (first, other) == (["4"], ["7"])
    with pytest.raises(ConfigError, match="expected 1 free GPUs, got 0"):
        slots.take_gpus(1)
    copy = os.dup(held[0])  # as a process of the run has it
    os.close(held[0])
    with pytest.raises(ConfigError):
        slots.take_gpus(1)
    os.close(copy)
    again, handles = slots.take_gpus(1)
    assert again == ["4"]
    for handle in (*handles, *also):
        os.close(handle)

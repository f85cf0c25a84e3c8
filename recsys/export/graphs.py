"""A model as graphs that scoring runtimes read: graph.onnx and graph.pt2, both without weights of their own.

The weights are in weights.safetensors alone: graph.onnx points into that file, and the loader of
graph.pt2 gives it that file's tensors.

B rows, L id columns, N dense columns, T labels.
"""

import logging
import os
import platform
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from onnxscript import ir
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package
from torch._inductor.utils import fresh_cache

from recsys.features.schema import Schema
from recsys.frame.merged import Scorer
from recsys.serving.runtimes import machine
from recsys.serving.weights import WEIGHTS, tensor_places
from recsys.tables.plain import PlainEmbedding

__all__ = [
    "ScoringGraph", "compiler", "input_widths", "trace", "without_torch_notices", "write_onnx", "write_pt2",
    "write_weights",
]  # fmt: skip

_INLINE_BYTES = 1024  # smaller constants stay inside graph.onnx: onnxruntime needs shapes there


class ScoringGraph(nn.Module):
    """logit_BT = score(ids_BL, dense_BN) over plain tensors: the module that every runtime runs.

    Args:
        model: Is copied, with plain tables in place of its own.
    """

    def __init__(self, model: Scorer):
        super().__init__()
        self.model = model.scoring()  # the fused tables stay behind
        self.eval()

    def forward(self, ids_BL: Tensor, dense_BN: Tensor) -> Tensor:
        """→ logit_BT."""
        return self.model.score(ids_BL, dense_BN)

    @contextmanager
    def packed(self) -> Generator[None]:
        """See `PlainEmbedding.packed`."""
        with ExitStack() as stack:
            for module in self.modules():
                if isinstance(module, PlainEmbedding):
                    stack.enter_context(module.packed())
            yield


def compiler() -> str | None:
    """The C++ compiler that .pt2 graphs are made with, or None."""
    named = os.environ.get("CXX")
    if named:
        return shutil.which(named)
    return next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)


def input_widths(schema: Schema) -> tuple[int, int]:
    """The widths L and N of the inputs."""
    weights = sum(len(columns) for columns in schema.weight_columns.values())
    return sum(f.max_length for f in schema.sparse), sum(f.max_length for f in schema.numeric) + weights


def trace(graph: ScoringGraph, schema: Schema, *, packed: bool) -> torch.export.ExportedProgram:
    """Trace the graph for any batch size from 1.

    Args:
        graph: What to trace.
        schema: Its fields.
        packed: Whether the graph unpacks the stored rows itself. onnxruntime does so once, when it loads a
            graph; graph.pt2 would do so in every call, and is therefore given unpacked rows.
    """
    ids, dense = input_widths(schema)
    example = (torch.zeros(2, ids, dtype=torch.long), torch.zeros(2, dense))
    free = {0: torch.export.Dim.DYNAMIC}
    # Without this, torch takes a batch of 1 for a special case and refuses it.
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]  # private
    stored = graph.packed() if packed else nullcontext()
    with torch.no_grad(), oblivious, stored:
        program = torch.export.export(graph, example, dynamic_shapes={"ids_BL": free, "dense_BN": free})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds paths of this machine, and would end up in both graphs
    return program


@contextmanager
def without_torch_notices() -> Generator[None]:
    """Silence warnings of torch 2.13 about its own internals, which no user can mend."""
    # The first warns that torchvision, which nothing needs, is missing; the second of a function that inductor calls.
    logs = [logging.getLogger(f"torch.{n}") for n in ("onnx._internal.exporter._registration", "fx._symbolic_trace")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"`torch\.jit\.script.*` is deprecated", DeprecationWarning)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def write_weights(graph: ScoringGraph, folder: Path) -> dict[str, Tensor]:
    """Write weights.safetensors → what it holds, by name."""
    state = {k: v.detach().cpu().contiguous().clone() for k, v in graph.state_dict().items()}
    safetensors.torch.save_file(state, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)  # safetensors lets only the owner read it
    return state


def write_onnx(program: torch.export.ExportedProgram, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write graph.onnx, whose weights point into the folder's weights.safetensors.

    Args:
        program: The traced graph.
        folder: The bundle's folder; it holds weights.safetensors already.
        state: Tensors of weights.safetensors, by name.
    """
    exported = torch.onnx.export(
        program, (), dynamo=True, input_names=["ids_BL", "dense_BN"], output_names=["logit_BT"], verbose=False
    )
    assert exported is not None
    for node in exported.model.graph:
        node.metadata_props.clear()  # the tracer's notes are as long as the graph
    places = tensor_places(folder / WEIGHTS)
    stored = {name: tensor.numpy() for name, tensor in state.items()}
    for value in exported.model.graph.initializers.values():
        constant = value.const_value
        if constant is None or constant.nbytes < _INLINE_BYTES:
            continue
        array = constant.numpy()  # the exporter renames tensors: find them by their content
        same = (n for n, a in stored.items() if a.dtype == array.dtype and np.array_equal(a, array))
        name = next(same, None)
        if name is not None:
            place, shape = places[name], ir.Shape(array.shape)
            value.const_value = ir.ExternalTensor(
                WEIGHTS, place.start, place.length, constant.dtype, shape=shape, name=str(value.name), base_dir=folder
            )
    ir.save(exported.model, folder / "graph.onnx")


def write_pt2(program: torch.export.ExportedProgram, folder: Path) -> dict[str, str]:
    """Write graph.pt2 without weights, compiled for the processor family rather than this very processor.

    Returns:
        `machine` and `instructions` that it needs.
    """
    portable = platform.machine() in ("x86_64", "AMD64")
    options: dict[str, Any] = {"cpp.march": "x86-64-v3", "cpp.simdlen": 256} if portable else {}
    options |= {"aot_inductor.package_constants_in_so": False, "aot_inductor.enable_line_tables": False}
    with tempfile.TemporaryDirectory(prefix=".compile.", dir=folder) as place:
        # A cache of its own: compiled tables would pile up in the shared one.
        with fresh_cache(dir=place):
            aoti_compile_and_package(program, package_path=f"{place}/graph.pt2", inductor_configs=options)
        roots = [str(Path(torch.__file__).parents[1]), place, str(Path(place).resolve())]
        _repack(Path(place) / "graph.pt2", folder / "graph.pt2", roots)
    return {"machine": machine(), "instructions": "AVX2" if portable else "native"}


def _repack(package: Path, out: Path, roots: list[str]) -> None:
    """Copy a package without its C++ sources and without the paths of this machine, compressed.

    Args:
        package: What the compiler wrote.
        out: The file to write.
        roots: Folders whose paths are overwritten with slashes.
    """
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if entry.filename.endswith(".cpp"):  # a copy for people; nothing loads it
                continue
            data = source.read(entry)
            for root in roots:
                data = data.replace(root.encode(), b"/" * len(root.encode()))
            target.writestr(zipfile.ZipInfo(entry.filename), data, zipfile.ZIP_DEFLATED)

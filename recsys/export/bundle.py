"""Write a bundle: graphs, weights, schema with encoders, golden batch, card and manifest.

B rows, L id columns, N dense columns, W the width of all fields side by side.
"""

import json
import logging
import math
import os
import platform
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package  # type: ignore[attr-defined]
from torch._inductor.utils import fresh_cache

import recsys
from recsys.data.batch import Batch
from recsys.errors import ConfigError, DataError
from recsys.files import unfinished_folder
from recsys.models.ctr import CTR
from recsys.rows import RowEncoder, encoders_to_json
from recsys.schema import Schema
from recsys.serving.bundle import machine, probabilities, verify
from recsys.serving.manifest import FORMAT, canonical, write_manifest

__all__ = ["ScoringGraph", "compiler", "export_bundle"]

_PROTOBUF_LIMIT = 1_900_000_000  # an .onnx file must stay below 2 GiB; larger weights go beside it


class ScoringGraph(nn.Module):
    """logit_B = head(pool(lookup(ids_BL, dense_BN))) over plain tensors: what every runtime runs.

    Args:
        model: Copied, but for tables: those become plain ones.
    """

    def __init__(self, model: CTR):
        super().__init__()
        self.model = model.over(model.embedding.plain())  # type: ignore[operator]  # the fused tables stay behind
        self.eval()

    def forward(self, ids_BL: Tensor, dense_BN: Tensor) -> Tensor:
        """→ logit_B."""
        x = self.model.embedding.lookup(ids_BL, dense_BN)  # type: ignore[operator]
        return self.model.head(self.model.pool(x, ids_BL))


def compiler() -> str | None:
    """The C++ compiler that .pt2 graphs are made with, or None."""
    named = os.environ.get("CXX")
    if named:
        return shutil.which(named)
    return next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)


def _widths(schema: Schema) -> tuple[int, int]:
    """L and N."""
    weights = sum(len(columns) for columns in schema.weight_columns.values())
    return sum(f.max_length for f in schema.sparse), sum(f.max_length for f in schema.numeric) + weights


def _program(graph: ScoringGraph, schema: Schema) -> torch.export.ExportedProgram:
    """Trace the graph for any batch size from 1."""
    ids, dense = _widths(schema)
    example = (torch.zeros(2, ids, dtype=torch.long), torch.zeros(2, dense))
    free = {0: torch.export.Dim.DYNAMIC}
    # Without this, torch takes a batch of 1 for a special case and refuses it.
    with torch.no_grad(), torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(graph, example, dynamic_shapes={"ids_BL": free, "dense_BN": free})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds paths of this machine, and would end up in both graphs
    return program


@contextmanager
def _without_torch_notices() -> Generator[None]:
    """Keep out what torch 2.13 says about its own insides, which no user can mend."""
    # The first warns that torchvision is not here, which nothing needs; the second of a function that inductor calls.
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


def _write_onnx(program: torch.export.ExportedProgram, path: Path, nbytes: int) -> None:
    made = torch.onnx.export(
        program, (), dynamo=True, input_names=["ids_BL", "dense_BN"], output_names=["logit_B"], verbose=False
    )
    assert made is not None
    for node in made.model.graph:
        node.metadata_props.clear()  # the tracer's notes are as long as the graph
    made.save(path, external_data=nbytes > _PROTOBUF_LIMIT)


def _write_pt2(program: torch.export.ExportedProgram, path: Path) -> dict[str, str]:
    """Compile for the processor family rather than this very processor, so that the file can travel."""
    portable = platform.machine() in ("x86_64", "AMD64")
    options: dict[str, Any] = {"cpp.march": "x86-64-v3", "cpp.simdlen": 256} if portable else {}
    with fresh_cache(dir=str(path.parent)):  # compiled tables would pile up in the shared cache
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    return {"machine": machine(), "instructions": "AVX2" if portable else "native"}


def _golden(model: CTR, encoder: RowEncoder, rows: list[dict[str, Any]], calibrator: dict[str, Any] | None) -> bytes:
    """Raw rows and the answers of the model itself, before any export."""
    schema = encoder.schema
    columns = {*schema.raw_columns, *schema.lookup_columns}
    rows = [{c: v for c, v in row.items() if c in columns} for row in rows]
    ids_BL, dense_BN = (torch.from_numpy(a) for a in encoder(rows))
    training = model.training
    model.eval()
    with torch.no_grad():
        logit_B = model(Batch.of(schema, ids_BL, dense_BN, torch.zeros(len(rows)))).float().numpy()
    model.train(training)
    if not np.isfinite(logit_B).all():
        raise DataError("export: expected finite logits of the golden rows, got NaN: the model diverged, retrain")
    p_B = probabilities(logit_B, calibrator)
    return canonical({"rows": rows, "logits": logit_B.tolist(), "probabilities": p_B.tolist()})


def _json_ready(value: Any) -> Any:
    """Numbers that JSON lacks become null, paths and others their spelling."""
    if isinstance(value, dict):
        return {str(k): _json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _card(given: dict[str, Any], schema: Schema, pt2: dict[str, str] | None, folder: Path, name: str) -> dict[str, Any]:
    ids, dense = _widths(schema)
    said = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"recsys": recsys.__version__, "torch": str(torch.__version__), "onnx": onnx.__version__},
        "inputs": {
            "ids_BL": {"dtype": "int64", "shape": ["B", ids], "padding": -1},
            "dense_BN": {"dtype": "float32", "shape": ["B", dense]},
        },
        "output": {"logit_B": {"dtype": "float32", "shape": ["B"]}},
        "runtimes": ["onnx", "pt2"] if pt2 else ["onnx"],
        "note": None if pt2 else "no C++ compiler at export, so no graph.pt2: set CXX or install g++, and export again",
        "pt2": pt2,
        "bytes": {p.name: p.stat().st_size for p in sorted(folder.iterdir())},
        "fields": [
            {"name": f.name, "kind": f.kind, "inputs": list(f.inputs), "cardinality": f.cardinality}
            for f in schema.fields
        ],
    }
    return _json_ready({"name": name, **given, **said})


def _write(
    folder: Path, model: CTR, prepared: Path, calibrator: dict[str, Any] | None, card: dict[str, Any], name: str
) -> None:
    schema, graph = model.schema, ScoringGraph(model)
    encoder = RowEncoder.load(prepared, schema)
    rows = json.loads((prepared / "golden_rows.json").read_bytes())
    (folder / "golden.json").write_bytes(_golden(model, encoder, rows, calibrator))
    state = {k: v.detach().cpu().contiguous().clone() for k, v in graph.state_dict().items()}
    (folder / "schema.json").write_bytes(canonical(schema.to_json()))
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    # safetensors makes its file for the owner alone; a server often runs as another user
    (folder / "weights.safetensors").chmod((folder / "schema.json").stat().st_mode)
    stored = encoders_to_json({f.name: encoder.encoders[f.name] for f in schema.fields})
    (folder / "encoders.json").write_bytes(canonical(stored))
    if encoder.past and (past := encoder.past.subset(set(schema.names))).arrays:
        past.save(folder / "past.npz")
    (folder / "calibrator.json").write_bytes(canonical(calibrator))
    with _without_torch_notices():
        program = _program(graph, schema)
        _write_onnx(program, folder / "graph.onnx", sum(t.nbytes for t in state.values()))
        pt2 = _write_pt2(program, folder / "graph.pt2") if compiler() else None
    (folder / "card.json").write_bytes(canonical(_card(card, schema, pt2, folder, name)))
    write_manifest(folder)


def export_bundle(
    model: CTR, prepared: Path, out: Path, *, calibrator: dict[str, Any] | None, card: dict[str, Any]
) -> dict[str, Any]:
    """Write a model as a bundle and replay its golden batch before it appears.

    Args:
        model: Trained or compressed; its schema may be a subset of what was prepared.
        prepared: The prepared data set: encoders and golden raw rows.
        out: Folder to make; it appears whole or not at all.
        calibrator: `{"x": […], "y": […]}`, or None.
        card: What the experiment says of the model; `name` names it (default: the folder's name).

    Returns:
        The card, with `verified`: what `verify` found.

    Raises:
        ConfigError: If `out` exists, or `prepared` is no prepared data set.
        BundleError: If a runtime answers other than the model.
    """
    prepared, out = Path(prepared), Path(out)
    if out.exists():
        raise ConfigError(f"export: expected {out} not to exist yet, it does: choose another folder or remove it")
    if not (prepared / "golden_rows.json").is_file():
        raise ConfigError(f"export: expected golden_rows.json in {prepared}, found none: run stages=[prepare]")
    with unfinished_folder(out) as building:
        _write(building, model, prepared, calibrator, card, str(card.get("name") or out.name))
        verified = verify(building)
    return {**json.loads((out / "card.json").read_bytes()), "verified": verified}

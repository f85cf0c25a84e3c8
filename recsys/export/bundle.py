"""Write a bundle: graphs, weights, schema with encoders, golden batch, card and manifest.

B rows, L id columns, N dense columns, T labels, W the width of all fields side by side.
"""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import recsys
from recsys.errors import ConfigError
from recsys.export.golden import GOLDEN, golden_answers, synthetic_rows
from recsys.export.graphs import (
    ScoringGraph,
    compiler,
    input_widths,
    trace,
    without_torch_notices,
    write_onnx,
    write_pt2,
    write_weights,
)
from recsys.features.row_encoder import Row, RowEncoder, encoders_to_json
from recsys.features.schema import Schema
from recsys.files import Json, read_json, unfinished_folder
from recsys.frame.merged import Scorer
from recsys.results import read_prepared
from recsys.serving.bundle import Calibration
from recsys.serving.manifest import FORMAT, canonical, write_manifest
from recsys.serving.verify import Golden, verify

__all__ = ["export_bundle"]


def _json_ready(value: Any) -> Any:
    """Make a value fit for JSON: NaN and infinities become null, paths and other objects strings."""
    if isinstance(value, dict):
        return {str(k): _json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _card(given: Json, schema: Schema, pt2: dict[str, str] | None, folder: Path) -> Json:
    ids, dense = input_widths(schema)
    facts = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"recsys": recsys.__version__, "torch": str(torch.__version__), "onnx": onnx.__version__},
        "inputs": {
            "ids_BL": {"dtype": "int64", "shape": ["B", ids], "padding": -1},
            "dense_BN": {"dtype": "float32", "shape": ["B", dense]},
        },
        "output": {"logit_BT": {"dtype": "float32", "shape": ["B", len(schema.labels)]}},
        "labels": schema.labels,
        "runtimes": ["onnx", "pt2"] if pt2 else ["onnx"],
        "note": None if pt2 else "no C++ compiler at export, so no graph.pt2: set CXX or install g++, and export again",
        "pt2": pt2,
        "bytes": {p.name: p.stat().st_size for p in sorted(folder.iterdir())},
        "fields": [
            {"name": f.name, "kind": f.kind, "inputs": list(f.inputs), "cardinality": f.cardinality}
            for f in schema.fields
        ],
    }
    measured = given.get("metrics") or None
    why = None if measured else "not measured: the run has no evaluation of this model; add evaluate to stages"
    return _json_ready({**given, **facts, "metrics": measured, "metrics_note": why})


def _without_past(schema: Schema) -> Schema:
    """The schema of a bundle without past.npz: requests must bring the past-only columns like any other."""
    return replace(schema, fields=tuple(replace(f, past=None) for f in schema.fields))


def _write(
    folder: Path,
    model: Scorer,
    prepared: Path,
    calibrator: Calibration,
    card: Json,
    golden: str,
    past: bool,
) -> Golden:
    """Write all files → the golden batch of real rows, whatever golden.json holds."""
    schema, graph = model.schema if past else _without_past(model.schema), ScoringGraph(model)
    encoder = RowEncoder.load(prepared, schema)
    rows = read_prepared(prepared, "golden_rows.json", list[Row])
    answers = golden_answers(model, encoder, rows, calibrator)
    made_up = synthetic_rows(encoder) if golden == "synthetic" else []
    kept = answers if golden == "rows" else golden_answers(model, encoder, made_up, calibrator)
    (folder / "golden.json").write_bytes(canonical(kept))
    (folder / "schema.json").write_bytes(canonical(schema.to_json()))
    stored = encoders_to_json({f.name: encoder.encoders[f.name] for f in schema.fields})
    (folder / "encoders.json").write_bytes(canonical(stored))
    if past and encoder.past and (known := encoder.past.subset(set(schema.names))).arrays:
        known.save(folder / "past.npz")
    (folder / "calibrator.json").write_bytes(canonical(calibrator))
    with without_torch_notices():
        state = write_weights(graph, folder)
        write_onnx(trace(graph, schema, packed=True), folder, state)
        pt2 = write_pt2(trace(graph, schema, packed=False), folder) if compiler() else None
    (folder / "card.json").write_bytes(canonical(_card(card, schema, pt2, folder)))
    write_manifest(folder)
    return answers


def export_bundle(
    model: Scorer,
    prepared: Path,
    out: Path,
    *,
    calibrator: Calibration,
    card: Json,
    golden: str = "synthetic",
    past: bool = True,
) -> Json:
    """Write a model as a bundle; replay real test rows and golden.json before the folder appears.

    Args:
        model: Trained or compressed; its schema may be a subset of what was prepared.
        prepared: The prepared data set: encoders and golden raw rows.
        out: Folder to make; it appears whole or not at all.
        calibrator: `{"x": […], "y": […]}`, or None; for several labels a list of these, the main label's first.
        card: Facts about the model for card.json; `name` is the folder's name by default.
        golden: What golden.json keeps: `synthetic`, made-up rows; `rows`, up to 256 raw rows of the
            test split, which may be personal data; `none`.
        past: Whether to write past.npz, which supplies past-only columns, such as a user's last items. Its keys
            are hashes: whoever guesses an id can look it up. Without it, every request must bring these columns.

    Returns:
        The card, with `verified`: what `verify` found.

    Raises:
        ConfigError: If `golden` is none of these, `out` exists, or `prepared` is no prepared data set.
        BundleError: If a runtime's answers differ from the model's.
    """
    prepared, out = Path(prepared), Path(out)
    if golden not in GOLDEN:
        raise ConfigError(f"export.golden: expected {', '.join(GOLDEN)}, got {golden!r}: choose one of them")
    if out.exists():
        raise ConfigError(f"export: expected {out} not to exist yet, it does: choose another folder or remove it")
    if not (prepared / "golden_rows.json").is_file():
        raise ConfigError(f"export: expected golden_rows.json in {prepared}, found none: run stages=[prepare]")
    with unfinished_folder(out) as building:
        answers = _write(building, model, prepared, calibrator, {"name": out.name, **card}, golden, past)
        verified = verify(building, golden=answers)
    return {**read_json(out / "card.json", "a card", "export again"), "verified": verified}

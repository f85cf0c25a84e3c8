"""Stage evaluate: every model of the run on the test split, and a recalibration from validation."""

import statistics
import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

from pipelines.stage import MODEL_STAGES, Result, Stage, newest_model, write_json
from recsys import checkpoint
from recsys.data import baseline
from recsys.data.shards import Shards
from recsys.files import write_text
from recsys.html import page, table
from recsys.metrics import evaluate, fit_calibrator, sigmoid
from recsys.models.ctr import CTR
from recsys.train import logits

__all__ = ["measure", "run"]


def _nbytes(model: CTR) -> int:
    """Bytes of tables and dense parameters as held for scoring."""
    held = [*model.interaction.parameters(), *model.sequences.parameters(), *model.sequences.buffers()]
    dense = sum(p.numel() * p.element_size() for p in held)
    return model.embedding.plain().nbytes + dense  # type: ignore[operator]


@torch.no_grad()
def _microseconds(model: CTR, shards: Shards) -> float:
    """Median µs a row of eager scoring at 512 rows, tables as plain tensors."""
    plain, batch = model.over(model.embedding.plain()), shards.batch(slice(0, 512))  # type: ignore[operator]
    times = []
    for _ in range(30):
        started = time.perf_counter()
        plain(batch)
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times) / len(batch)


def measure(folder: Path, stage: Stage) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """A model's figures, and its probabilities on validation and on test."""
    model, _ = checkpoint.load(folder)
    valid, test = (Shards(stage.data, split, model.schema) for split in ("valid", "test"))
    valid_B, test_B = sigmoid(logits(model, valid)), sigmoid(logits(model, test))
    found = evaluate(test_B, test.label_B, test.group_B)
    found |= {f"valid_{k}": v for k, v in evaluate(valid_B, valid.label_B).items() if k in ("auc", "logloss")}
    plain = model.embedding.plain()  # type: ignore[operator]
    found |= {"fields": len(model.schema.fields), "bytes": _nbytes(model), "table_bytes": plain.nbytes}
    return found | {"us_per_row": _microseconds(model, test)}, valid_B, test_B


def _reliability(curves: dict[str, np.ndarray], label_B: np.ndarray) -> go.Figure:
    figure = go.Figure()
    for name, p_B in curves.items():
        parts = np.array_split(np.argsort(p_B, kind="stable"), 20)
        x, y = [float(p_B[p].mean()) for p in parts], [float(label_B[p].mean()) for p in parts]
        figure.add_scatter(x=x, y=y, name=name, mode="lines+markers")
    figure.add_scatter(x=[0, 1], y=[0, 1], name="perfect", line={"dash": "dot", "color": "grey"})
    figure.update_layout(xaxis_title="predicted", yaxis_title="clicked", height=420)
    return figure


def run(stage: Stage) -> Result:
    """Measure each model; fit the calibrator of the newest one on validation.

    Where `recsys data baseline` was run on the data, its figures stand beside the models'.
    """
    valid, test = Shards(stage.data, "valid"), Shards(stage.data, "test")
    valid_B = test_B = np.empty(0)
    found: dict[str, dict[str, float]] = {}
    curves: dict[str, np.ndarray] = {}
    newest = newest_model(stage)
    for name in (n for n in MODEL_STAGES if n in stage.done):
        found[name], valid_B, test_B = measure(stage.done[name], stage)
        curves[name] = test_B
    rate = float(valid.label_B.mean())
    constant = evaluate(np.full(len(test), rate), test.label_B)
    if stage.config["calibrate"]:
        calibrator = fit_calibrator(valid_B, valid.label_B)
        curves["recalibrated"] = calibrator(test_B)
        unchanged = {k: found[newest.name][k] for k in ("fields", "bytes", "table_bytes", "us_per_row")}
        found["recalibrated"] = {**evaluate(curves["recalibrated"], test.label_B, test.group_B), **unchanged}
        write_json(stage.folder / "calibrator.json", calibrator.to_json())
    shown = {"constant": constant, **baseline.read(stage.data), **found}
    write_json(stage.folder / "metrics.json", shown)
    columns = ["auc", "logloss", "ne", "gauc", "calibration", "ece", "fields", "bytes", "us_per_row"]
    rows = [[n, *(m.get(c, "") for c in columns)] for n, m in shown.items()]
    best = found[list(found)[-1]]
    lead = f"Test AUC {best['auc']:.4f}, logloss {best['logloss']:.4f} over {len(test):,} rows."
    sections = [("Models", table(["model", *columns], rows)), ("Reliability", _reliability(curves, test.label_B))]
    write_text(stage.folder / "evaluation.html", page("Evaluation on the test split", lead, [], sections))
    metrics = {f"{name}.{k}": float(v) for name, m in shown.items() for k, v in m.items()}
    return Result(metrics, artifacts=[stage.folder / "metrics.json", stage.folder / "evaluation.html"])

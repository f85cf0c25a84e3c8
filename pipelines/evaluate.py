"""Stage evaluate: every model of the run on the test split, and a recalibration from validation if one helps."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

from pipelines.stage import MODEL_STAGES, Result, Stage, newest_model, recalibration, row_names, write_json
from recsys.baselines import fit as baseline
from recsys.data.shards import Shards
from recsys.evaluation.calibrate import fit_calibrator
from recsys.evaluation.metrics import equal_bins, evaluate, sigmoid
from recsys.files import write_text
from recsys.frame.ctr import CTR
from recsys.pages.html import Markup, page, table
from recsys.training import checkpoint
from recsys.training.device import Device
from recsys.training.fit import logits

__all__ = ["measure", "microseconds", "run"]

MENDED = ("logloss", "ne", "calibration", "ece")  # figures that recalibration is meant to change
BLANK = "A blank was not measured, or no curve helped that model on validation, out of fold."
COLUMNS = {
    "auc": "AUC",
    "logloss": "logloss",
    "recalibrated_logloss": "recalibrated logloss",
    "ne": "NE",
    "gauc": "GAUC",
    "calibration": "calibration",
    "ece": "ECE",
    "recalibrated_ece": "recalibrated ECE",
    "fields": "fields",
    "bytes": "bytes",
    "us_per_row": "µs a row",
}


def _nbytes(model: CTR) -> int:
    """Bytes of tables and dense parameters as held for scoring."""
    held = [*model.interaction.parameters(), *model.sequences.parameters(), *model.sequences.buffers()]
    held += model.head.parameters()
    dense = sum(p.numel() * p.element_size() for p in held)
    return model.embedding.plain().nbytes + dense


@torch.no_grad()
def microseconds(models: Mapping[str, CTR], shards: Mapping[str, Shards], rounds: int = 10) -> dict[str, float]:
    """Median µs a row of eager scoring at 512 rows, tables as plain tensors, for each model.

    In each round every model scores eight batches in a row, which are others in the next round: so no
    model profits from a batch that is in the cache still, nor from a quiet moment of the machine.
    """
    plain = {n: m.over(m.embedding.plain()) for n, m in models.items()}
    times: dict[str, list[float]] = {n: [] for n in models}
    for i in range(rounds):
        for name, model in plain.items():
            most = max(1, len(shards[name]) // 512)
            batches = [
                shards[name].batch(slice(512 * b, 512 * b + 512)) for b in (j % most for j in range(8 * i, 8 * i + 8))
            ]
            for batch in batches:
                started = time.perf_counter()
                model(batch)
                times[name].append((time.perf_counter() - started) / len(batch))
    return {n: 1e6 * statistics.median(t) for n, t in times.items()}


def measure(folder: Path, stage: Stage) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """A model's figures, and its logits on validation and on test."""
    device = Device.choose(stage.config["device"])
    model, _ = checkpoint.load(folder, device)
    valid, test = (Shards(stage.data, split, model.schema) for split in ("valid", "test"))
    valid_B, test_B = (logits(model, s, device=device) for s in (valid, test))
    found = evaluate(test_B, test.label_B, test.group_B, test.weight_B)
    seen = evaluate(valid_B, valid.label_B, weight_B=valid.weight_B)
    found |= {f"valid_{k}": seen[k] for k in ("auc", "logloss")}
    plain = model.embedding.plain()
    found |= {"fields": len(model.schema.fields), "bytes": _nbytes(model), "table_bytes": plain.nbytes}
    return found, valid_B, test_B


def _reliability(curves: dict[str, np.ndarray], test: Shards) -> go.Figure:
    """Share of clicks against mean prediction, in 20 bins of equal weight a model."""
    figure = go.Figure()
    for name, p_B in curves.items():
        bins = equal_bins(p_B, test.label_B, test.weight_B)
        figure.add_scatter(x=bins.probability, y=bins.label, name=name, mode="lines+markers")
    figure.add_scatter(x=[0, 1], y=[0, 1], name="perfect", line={"dash": "dot", "color": "grey"})
    figure.update_layout(xaxis_title="predicted", yaxis_title="clicked", height=420)
    return figure


def _page(shown: dict[str, dict[str, float]], curves: dict[str, np.ndarray], test: Shards) -> str:
    """evaluation.html; its first sentence is about the model that a bundle would hold."""
    names, best = row_names(shown), list(shown)[-1]
    lead = f"{names[best]}: test AUC {shown[best]['auc']:.4f}, logloss {shown[best]['logloss']:.4f}"
    lead += f" over {len(test):,} rows{', each counted by its weight' if test.weight_B is not None else ''}."
    rows = [[names[n], *(m.get(c, "") for c in COLUMNS)] for n, m in shown.items()]
    models = table(["model", *COLUMNS.values()], rows)
    models += Markup("<p>{} {}</p>").format(recalibration(shown), BLANK)
    plot = _reliability({names[n]: p_B for n, p_B in curves.items()}, test)
    return page("Evaluation on the test split", lead, [], [("Models", models), ("Reliability", plot)])


def _times(stage: Stage) -> dict[str, float]:
    """µs a row of each model of the run, see `microseconds`."""
    models = {name: checkpoint.load(stage.done[name])[0] for name in MODEL_STAGES if name in stage.done}
    return microseconds(models, {name: Shards(stage.data, "test", m.schema) for name, m in models.items()})


def _constant(valid: Shards, test: Shards) -> dict[str, float]:
    """Figures of saying validation's click rate for every row."""
    rate = np.average(valid.label_B, weights=valid.weight_B)
    return evaluate(np.full(len(test), np.log(rate / (1 - rate))), test.label_B, weight_B=test.weight_B)


def run(stage: Stage) -> Result:
    """Measure each model as it is and, if that helps on validation, recalibrated; keep the newest one's calibrator.

    calibrator.json says null if none helps. Without `calibrate` there is no such file.
    If `recsys data baseline` was run on the data, its figures stand beside the models'.
    """
    valid, test = Shards(stage.data, "valid"), Shards(stage.data, "test")
    shown = {"constant": _constant(valid, test), **baseline.read(stage.data)}
    curves: dict[str, np.ndarray] = {}
    newest, times = newest_model(stage).name, _times(stage)
    for name in (n for n in MODEL_STAGES if n in stage.done):
        shown[name], valid_B, test_B = measure(stage.done[name], stage)
        shown[name]["us_per_row"] = times[name]
        curves[name] = sigmoid(test_B)
        if not stage.config["calibrate"]:
            continue
        calibrator = fit_calibrator(sigmoid(valid_B), valid.label_B, valid.weight_B)
        if name == newest:
            write_json(stage.folder / "calibrator.json", calibrator and calibrator.to_json())
        if calibrator is None:
            continue
        mended = evaluate(test_B, test.label_B, test.group_B, test.weight_B, calibrator)
        shown[name] |= {f"recalibrated_{k}": mended[k] for k in MENDED}
        if name == newest:
            kept = {k: shown[name][k] for k in ("fields", "bytes", "table_bytes", "us_per_row")}
            shown["recalibrated"], curves["recalibrated"] = {**mended, **kept}, calibrator(curves[name])
    write_json(stage.folder / "metrics.json", shown)
    write_text(stage.folder / "evaluation.html", _page(shown, curves, test))
    metrics = {f"{name}.{k}": float(v) for name, m in shown.items() for k, v in m.items()}
    return Result(metrics, artifacts=[stage.folder / "metrics.json", stage.folder / "evaluation.html"])

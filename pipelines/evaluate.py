"""Stage evaluate: measures every model of the run on the test split, recalibrated on validation too if that helps."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch

from pipelines import slices
from pipelines.slices import Predicted, Slice
from pipelines.stage import Result, Stage, newest_model, recalibration, row_names, write_json
from pipelines.stages import MODEL_STAGES
from recsys.baselines import fit as baseline
from recsys.data.inspection.drift import drift, said
from recsys.data.shards import Shards
from recsys.evaluation.calibrate import Calibrator, fit_calibrator
from recsys.evaluation.metrics import equal_bins, evaluate, observed, sigmoid
from recsys.files import write_text
from recsys.frame.merged import Scorer
from recsys.pages.html import Markup, page, table
from recsys.training import merged
from recsys.training.device import Device
from recsys.training.fit import label_logits
from recsys.training.ids import check_ids

__all__ = ["measure", "microseconds", "run"]

MENDED = ("logloss", "ne", "calibration", "ece")  # figures that recalibration is meant to change
BLANK = "A blank was not measured, or no curve helped that model on validation, out of fold and on its last part."
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


class Rows(NamedTuple):
    """The rows in which a label was observed."""

    label_B: np.ndarray
    weight_B: np.ndarray | None
    group_B: np.ndarray | None
    time_B: np.ndarray | None


@torch.no_grad()
def microseconds(models: Mapping[str, Scorer], shards: Mapping[str, Shards], rounds: int = 10) -> dict[str, float]:
    """Median µs per row of eager scoring at 512 rows, tables as plain tensors, for each model.

    In each round every model scores eight batches, other ones than in the round before: thereby no model
    profits from a batch that is still in the processor's cache, or from a quiet moment of the machine.
    """
    plain = {n: m.scoring() for n, m in models.items()}
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


def _each_label(split: Shards, *columns_BT: np.ndarray) -> Iterator[tuple[str, list[np.ndarray], Rows]]:
    """For each label: its suffix ("" for the main one, else `.NAME`), its columns, and its observed rows."""
    for t, name in enumerate(split.schema.labels):
        columns = [x_BT[:, t] for x_BT in columns_BT]
        roles = {k: x_B for k in ("group_B", "time_B") if (x_B := getattr(split, k)) is not None}
        label_B, weight_B, kept = observed(split.label_BT[:, t], split.weight_B, *columns, *roles.values())
        kept_roles = dict(zip(roles, kept[len(columns) :], strict=True))
        rows = Rows(label_B, weight_B, kept_roles.get("group_B"), kept_roles.get("time_B"))
        yield f".{name}" if t else "", list(kept[: len(columns)]), rows


def _figures(
    logit_BT: np.ndarray, split: Shards, curves: Sequence[Calibrator | None] | None = None
) -> dict[str, float]:
    """`evaluate` of each label: `auc` of the main one, `auc.NAME` of another."""
    figures: dict[str, float] = {}
    curves = curves or [None] * len(split.schema.labels)
    for curve, (which, (logit_B,), rows) in zip(curves, _each_label(split, logit_BT), strict=True):
        of_label = evaluate(logit_B, rows.label_B, rows.group_B, rows.weight_B, curve)
        figures |= {f"{k}{which}": v for k, v in of_label.items()}
    return figures


def measure(folder: Path, stage: Stage) -> tuple[dict[str, float], np.ndarray | None, np.ndarray]:
    """A model's figures, its logit_BT on validation (None if it was trained on that), and its logit_BT on test."""
    device = Device.choose(stage.config.device)
    model, spec = merged.load(folder, device)
    valid, test = (Shards(stage.data, split, model.schema) for split in ("valid", "test"))
    check_ids(test, "test")
    test_BT = label_logits(model, test, device=device)
    figures, valid_BT = _figures(test_BT, test), None
    if not any(s.get("refit") for s in (spec, *spec.get("members", ()))):
        valid_BT = label_logits(model, valid, device=device)
        seen = _figures(valid_BT, valid)
        figures |= {f"valid_{k}": v for k, v in seen.items() if k.partition(".")[0] in ("auc", "logloss")}
    tables, whole = model.nbytes()
    figures |= {"fields": len(model.schema.fields), "bytes": whole, "table_bytes": tables}
    return figures, valid_BT, test_BT


def _reliability(predicted: Mapping[str, Predicted], names: Mapping[str, str], test: Shards) -> go.Figure:
    """Share of clicks against mean prediction, in 20 bins of equal weight for each model."""
    figure = go.Figure()
    for name, (_, p_B) in predicted.items():
        bins = equal_bins(p_B, test.label_B, test.weight_B)
        figure.add_scatter(x=bins.probability, y=bins.label, name=names[name], mode="lines+markers")
    figure.add_scatter(x=[0, 1], y=[0, 1], name="perfect", line={"dash": "dot", "color": "grey"})
    figure.update_layout(xaxis_title="predicted", yaxis_title="clicked", height=420)
    return figure


def _page(
    shown: Mapping[str, dict[str, float]], predicted: Mapping[str, Predicted], parts: Sequence[Slice], test: Shards
) -> str:
    """evaluation.html; its first sentence is about the model that a bundle would hold."""
    names, best = row_names(shown), list(shown)[-1]
    lead = f"{names[best]}: test AUC {shown[best]['auc']:.4f}, logloss {shown[best]['logloss']:.4f}"
    lead += f" over {len(test):,} rows{', each counted by its weight' if test.weight_B is not None else ''}."
    rows = [[names[n], *(m.get(c, "") for c in COLUMNS)] for n, m in shown.items()]
    models = table(["model", *COLUMNS.values()], rows)
    models += Markup("<p>{} {}</p>").format(recalibration(shown), BLANK)
    if others := test.schema.other_labels:
        kinds = ("auc", "logloss", "recalibrated_logloss", "ne", "calibration", "ece")
        rest = [[names[n], o, *(m.get(f"{k}.{o}", "") for k in kinds)] for n, m in shown.items() for o in others]
        models += Markup("<h3>Other labels</h3>")
        models += table(["model", "label", *(COLUMNS[k] for k in kinds)], [r for r in rest if r[2] != ""])
    sections: list[tuple[str, str | go.Figure]] = [("Models", models)]
    sections.append(("Reliability", _reliability(predicted, names, test)))
    for field in dict.fromkeys(s.field for s in parts):
        sections += slices.section(parts, field, names)
    notes = [sentence] if (sentence := said(drift(test.folder))) else []
    return page("Evaluation on the test split", lead, notes, sections)


def _folders(stage: Stage) -> dict[str, Path]:
    """Name → folder of each model of the run; before a merged one its members, named by the runs that trained them."""
    folders: dict[str, Path] = {}
    for name in (n for n in MODEL_STAGES if n in stage.done):
        place = stage.done[name]
        folders |= {f"run {m.run}": place / m.folder for m in merged.members(place)} | {name: place}
    return folders


def _times(folders: Mapping[str, Path], stage: Stage) -> dict[str, float]:
    """µs per row of each model, see `microseconds`."""
    models = {name: merged.load(place)[0] for name, place in folders.items()}
    return microseconds(models, {name: Shards(stage.data, "test", m.schema) for name, m in models.items()})


def _constant(valid: Shards, test: Shards) -> dict[str, float]:
    """Figures of predicting validation's rate of each label for every row; no GAUC, since a constant ranks nothing."""
    rates = [np.average(rows.label_B, weights=rows.weight_B) for _, _, rows in _each_label(valid)]
    logit_BT = np.tile([np.log(rate / (1 - rate)) for rate in rates], (len(test), 1))
    return {k: v for k, v in _figures(logit_BT, test).items() if k.partition(".")[0] != "gauc"}


def _calibrators(valid_BT: np.ndarray, valid: Shards) -> tuple[list[str], list[Calibrator | None]]:
    """Which labels a curve helps ("" is the main one), and each label's curve."""
    fitted = {
        which: fit_calibrator(sigmoid(logit_B), rows.label_B, rows.weight_B, rows.time_B)
        for which, (logit_B,), rows in _each_label(valid, valid_BT)
    }
    return [which for which, curve in fitted.items() if curve], list(fitted.values())


def _predicted(logit_BT: np.ndarray, curve: Calibrator | None = None) -> Predicted:
    """A model's predictions of the main label, recalibrated if there is a curve."""
    logit_B = logit_BT[:, 0]
    p_B = sigmoid(logit_B)
    if curve is None:
        return Predicted(logit_B, p_B)
    p_B = curve(p_B)
    return Predicted(np.log(p_B) - np.log1p(-p_B), p_B)


def _keep(folder: Path, calibrators: Sequence[Calibrator | None]) -> None:
    """Write calibrator.json: null if no curve helps; a list if there are several labels.

    There is no such file if `calibrate` is false or the newest model was trained on validation.
    """
    stored = [c and c.to_json() for c in calibrators]
    write_json(folder / "calibrator.json", stored if len(stored) > 1 else stored[0])


def run(stage: Stage) -> Result:
    """Measure each model as it is and, if that helps on validation, recalibrated; keep the newest one's calibrator.

    If `recsys data baseline` was run on the data, its figures stand beside the models', but not in slices: its
    predictions are not kept.
    """
    valid, test = Shards(stage.data, "valid"), Shards(stage.data, "test")
    shown = {"constant": _constant(valid, test), **baseline.read(stage.data)}
    predicted: dict[str, Predicted] = {}
    newest, folders = newest_model(stage).name, _folders(stage)
    times = _times(folders, stage)
    for name, place in folders.items():
        shown[name], valid_BT, test_BT = measure(place, stage)
        shown[name]["us_per_row"] = times[name]
        if name not in MODEL_STAGES:  # of another run, which has its own evaluation
            continue
        predicted[name] = _predicted(test_BT)
        if not stage.config.calibrate or valid_BT is None:
            continue
        helped, calibrators = _calibrators(valid_BT, valid)
        if name == newest:
            _keep(stage.folder, calibrators)
        if not helped:
            continue
        curved = _figures(test_BT, test, calibrators)
        shown[name] |= {f"recalibrated_{k}{which}": curved[f"{k}{which}"] for which in helped for k in MENDED}
        if name == newest:
            kept = {k: shown[name][k] for k in ("fields", "bytes", "table_bytes", "us_per_row")}
            shown["recalibrated"] = {**curved, **kept}
            predicted["recalibrated"] = _predicted(test_BT, calibrators[0])
    return _write(stage, shown, predicted, test)


def _write(stage: Stage, shown: dict[str, dict[str, float]], predicted: dict[str, Predicted], test: Shards) -> Result:
    """Write metrics.json, evaluation.html and, if slices are asked for, slices.json."""
    artifacts = [write_json(stage.folder / "metrics.json", shown), stage.folder / "evaluation.html"]
    metrics = {f"{name}.{k}": float(v) for name, m in shown.items() for k, v in m.items()}
    parts = slices.cut(stage.data, stage.config.evaluate.slices, predicted)
    if parts:
        artifacts.append(slices.write(stage.folder, parts))
        metrics |= slices.metrics(parts)
    write_text(stage.folder / "evaluation.html", _page(shown, predicted, parts, test))
    return Result(metrics, artifacts=artifacts)

"""Stage export: a serving bundle of the newest model, verified by replaying its golden batch."""

import shutil
from typing import Annotated, Literal

from pydantic import Field

from pipelines.stage import Result, Stage, newest_model, write_json
from recsys.export.bundle import export_bundle
from recsys.results import FIGURES, read_made
from recsys.serving.bundle import Bundle, latency
from recsys.terminal import console
from recsys.training import merged

__all__ = ["run"]

CURVE = Annotated[dict[Literal["x", "y"], list[float]], Field(min_length=2)] | None  # None: no curve helped
CURVES = CURVE | Annotated[list[CURVE], Field(min_length=1)]  # of several labels, a list


def run(stage: Stage) -> Result:
    """Export (which replays the golden batch in every runtime) and time the bundle."""
    source = newest_model(stage)
    model, spec = merged.load(source)
    evaluated = stage.done.get("evaluate")
    calibrator, calibration, measured = None, "not fitted", {}
    if evaluated:
        measured = read_made(evaluated, "metrics.json", "the figures of models", FIGURES)
        if (evaluated / "calibrator.json").exists():
            calibrator = read_made(evaluated, "calibrator.json", "a calibrator", CURVES)
            none = not any(calibrator) if isinstance(calibrator, list) else calibrator is None
            calibration = "none helped on validation" if none else "isotonic, on validation"
    if not evaluated:
        notice = "this run has no evaluation of the model: its card says so, and the bundle holds no calibrator: "
        console().print(notice + "add evaluate to stages to measure and recalibrate it", soft_wrap=True)
    card = {
        "name": stage.config.name,
        "task": stage.data.name.rpartition("-")[0],  # `recsys export RUN` is not told the data's configuration
        "data": stage.data.name,
        "stage": source.name,
        "model": spec,
        "calibration": calibration,
        "metrics": {k: v for k, v in measured.items() if k in (source.name, "recalibrated", "constant")},
    }
    bundle = stage.folder / "bundle"
    if bundle.exists():  # left by this stage, which was killed before its end
        shutil.rmtree(bundle)
    kept = stage.config.export
    exported = export_bundle(
        model, stage.data, bundle, calibrator=calibrator, card=card, golden=kept.golden, past=kept.past
    )
    times = latency(Bundle.load(bundle))
    write_json(stage.folder / "verified.json", {"verified": exported["verified"], "latency": times})
    metrics = {"bundle_bytes": float(sum(f.stat().st_size for f in bundle.iterdir()))}
    metrics |= {f"latency.{k}": float(v) for k, v in times.items() if isinstance(v, int | float)}
    return Result(metrics, artifacts=[stage.folder / "verified.json", bundle / "card.json"], bundle=bundle)

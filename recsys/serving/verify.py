"""Checks that a bundle is undamaged and scores as its model did at export. B golden rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from recsys.errors import BundleError, DataError
from recsys.features.row_encoder import Row
from recsys.serving.bundle import Bundle, probabilities, reading
from recsys.serving.manifest import check_manifest
from recsys.serving.runtimes import RUNTIMES, obstacle

__all__ = ["DRIFT", "Golden", "Verified", "verify"]

DRIFT = 1e-4  # largest |logit difference| that passes for rounding
_EXACT = 1e-9  # largest |probability difference| of the same formula on two machines


class Golden(TypedDict):
    """golden.json: raw rows and the model's own answers: for each row a number, or a list if labels are several."""

    rows: list[Row]
    logits: list[Any]
    probabilities: list[Any]


class Verified(TypedDict):
    """Numbers of files and rows checked; for each runtime its largest drift in logit, or why it did not run."""

    files: int
    rows: int
    max_drift: dict[str, float]
    not_run: dict[str, str]


class _Answers(NamedTuple):
    rows: list[Row]
    logits: np.ndarray
    probabilities: np.ndarray


def _parsed(golden: Mapping[str, Any]) -> _Answers:
    """Rows, and their logits and probabilities as arrays.

    Raises:
        ValueError: If their lengths differ.
    """
    logits, probability = (np.asarray(golden[k], np.float64) for k in ("logits", "probabilities"))
    lengths = {len(golden["rows"]), len(logits), len(probability)}
    if len(lengths) != 1 or not isinstance(golden["rows"], list):
        raise ValueError(f"expected as many rows as logits and probabilities, got {sorted(lengths)}")
    return _Answers(golden["rows"], logits, probability)


def _check_calibrator(bundle: Bundle, golden: _Answers) -> None:
    """Check that the calibrator turns the golden logits into the golden probabilities."""
    off = np.abs(probabilities(golden.logits.astype(np.float32), bundle.calibrator) - golden.probabilities)
    off_B = _by_row(off)
    if not off_B.max(initial=0.0) <= _EXACT:
        worst = int(np.nanargmax(np.where(np.isnan(off_B), np.inf, off_B)))
        raise BundleError(
            f"{bundle.folder}: calibrator.json makes another probability of row {worst} of golden.json: "
            f"off by {off_B[worst]:.3g}, expected at most {_EXACT:g}: export again"
        )


def _by_row(off: np.ndarray) -> np.ndarray:
    """The largest value over each row's labels."""
    return off if off.ndim == 1 else off.max(1, initial=0.0)


def _replay(bundle: Bundle, golden: _Answers) -> float:
    """Largest drift in logit of one runtime over the golden rows."""
    try:
        logit = bundle.logits(golden.rows)
    except Exception as error:  # a runtime's own types, and whatever a wrong encoder may raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        whose = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
        raise BundleError(
            f"{bundle.folder}: {bundle.runtime} cannot score golden.json: {whose}{reason}: export again"
        ) from error
    if logit.shape != golden.logits.shape or logit.shape != golden.probabilities.shape:
        raise BundleError(
            f"{bundle.folder}: golden.json holds answers of shape {golden.logits.shape}, expected {logit.shape}: "
            "export again"
        )
    off_B = _by_row(np.abs(logit.astype(np.float64) - golden.logits))
    worst = int(off_B.argmax()) if len(off_B) else 0
    drift = float(off_B[worst]) if len(off_B) else 0.0
    if not drift <= DRIFT:
        raise BundleError(
            f"{bundle.folder}: {bundle.runtime} drifts from the exported model: row {worst} of golden.json is off by "
            f"{drift:.3g} in logit, expected at most {DRIFT:g}: export again"
        )
    return drift


def verify(path: Path | str, runtimes: Sequence[str] = tuple(RUNTIMES), golden: Golden | None = None) -> Verified:
    """Check that a bundle is undamaged and scores as the model did when it was exported.

    Checks every file against the manifest, then compares logits and probabilities of the golden raw
    rows in each runtime that the bundle holds and this machine has. Some rows lack their past-only
    columns, to test past.npz too. All data files are checked before graph.pt2, which is machine code,
    is loaded.

    Args:
        path: The bundle.
        runtimes: Which to try, of `onnx` and `pt2`. Without `pt2` no code of the bundle runs.
        golden: Rows, logits and probabilities to replay too; their count is then the `rows` returned.

    Returns:
        Numbers of `files` and `rows` checked, `max_drift` of logits by runtime, and `not_run`: reasons by runtime.

    Raises:
        BundleError: If a file has changed, an answer is off, or no runtime can run here.
    """
    folder = Path(path)
    files = check_manifest(folder)
    if strange := [r for r in runtimes if r not in RUNTIMES]:
        raise BundleError(f"runtime: expected {' or '.join(RUNTIMES)}, got {strange[0]!r}: choose one of them")
    with reading(folder, "golden.json"):
        batches = [_parsed(json.loads((folder / "golden.json").read_bytes()))]
    if golden is not None:
        batches.append(_parsed(golden))
    with reading(folder, "card.json"):
        card = json.loads((folder / "card.json").read_bytes())
        obstacles = {r: obstacle(r, files, card) for r in runtimes}
    drift: dict[str, float] = {}
    for runtime in (r for r, why in obstacles.items() if why is None):
        bundle = Bundle.load(folder, runtime, check=False)
        drift[runtime] = 0.0
        for batch in batches:
            if not batch.rows:
                continue
            drift[runtime] = max(drift[runtime], _replay(bundle, batch))
            _check_calibrator(bundle, batch)
    not_run = {r: why for r, why in obstacles.items() if why is not None}
    if not drift:
        raise BundleError(f"{folder}: files are whole, but nothing can replay it: {'; '.join(not_run.values())}")
    return {"files": len(files) + 1, "rows": len(batches[-1].rows), "max_drift": drift, "not_run": not_run}

"""Load, verify and score an exported bundle. Needs numpy, xxhash, and onnxruntime or torch.

A bundle is a folder: graph.onnx, graph.pt2 (if it could be compiled), past.npz (if there are past-only
columns), weights.safetensors, schema.json, encoders.json, calibrator.json, golden.json, card.json, and
manifest.json with the sha256 of all others. The manifest detects damaged or mixed-up files. It is not a
signature, and graph.pt2 holds machine code: load bundles only from people you trust.

B rows, L id columns, N dense columns, T labels.
"""

import json
import time
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import BundleError, DataError
from recsys.features.row_encoder import Row, RowEncoder
from recsys.features.schema import Schema
from recsys.files import Json
from recsys.serving.manifest import check_manifest, read_manifest
from recsys.serving.openapi import example_row
from recsys.serving.runtimes import RUNTIMES, Graph, load_graph, obstacle

__all__ = ["Bundle", "Calibration", "latency", "probabilities", "reading", "sigmoid"]

Curve = Mapping[str, Any]
"""x and y of a recalibration: `np.interp(p, x, y)`."""
Calibration = Curve | list[Curve | None] | None
"""A curve or None; for several labels a list of these, the main label's first."""

_MAX_UNPACKED = 2**28  # bytes that past.npz may unpack to, whatever its compression ratio
_MAX_LENGTH = 2**20  # most values of a field in a row: more would exhaust the memory


def sigmoid(logit_B: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x) in float64, without overflow."""
    x_B = np.asarray(logit_B, np.float64)
    e_B = np.exp(-np.abs(x_B))
    return np.where(x_B >= 0, 1.0, e_B) / (1 + e_B)


def probabilities(logit: np.ndarray, calibrator: Calibration) -> np.ndarray:
    """p = σ(logit), passed through the label's piecewise-linear curve if there is one → float64.

    Args:
        logit: logit_B if there is one label, else logit_BT.
        calibrator: A curve, or a list of curves, one for each label.
    """
    if logit.ndim == 2:
        curves = calibrator if isinstance(calibrator, list) else [calibrator] * logit.shape[1]
        return np.stack([probabilities(z_B, c) for z_B, c in zip(logit.T, curves, strict=True)], 1)
    p_B = sigmoid(logit)
    if calibrator is None:
        return p_B
    assert not isinstance(calibrator, list)
    return np.interp(p_B, calibrator["x"], calibrator["y"])


@contextmanager
def reading(folder: Path, name: str) -> Generator[None]:
    """Turn any error about the content of a bundle's file into a BundleError of one line."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:  # a file with wrong content can fail in any way
        reason = f"{type(error).__name__} {error}".splitlines()[0][:200]
        raise BundleError(f"{folder}: {name} does not hold what a bundle's does: {reason}: export it again") from error


def _calibrator(folder: Path, labels: int) -> Calibration:
    """Read the curves as arrays, so that scoring does not convert lists in every call."""
    stored = json.loads((folder / "calibrator.json").read_bytes())
    if labels == 1:
        return _curve(stored)
    if not isinstance(stored, list) or len(stored) != labels:
        raise ValueError(f"expected a list of {labels} curves, one a label")
    return [_curve(c) for c in stored]


def _curve(curve: Any) -> dict[str, np.ndarray] | None:
    if curve is None:
        return None
    x, y = (np.asarray(curve[axis], np.float64) for axis in ("x", "y"))
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0 or not np.isfinite([x, y]).all() or (np.diff(x) < 0).any():
        raise ValueError("expected x and y of one length, finite, x ascending")
    if (np.diff(y) < 0).any() or y[0] < 0 or y[-1] > 1:
        raise ValueError("expected y ascending, from 0 to 1")
    return {"x": x, "y": y}


def _card(folder: Path, files: Mapping[str, Any]) -> Json:
    card = json.loads((folder / "card.json").read_bytes())
    needed = [card["versions"], card["pt2"]] if "graph.pt2" in files else [card["versions"]]
    if not all(isinstance(part, dict) for part in needed):
        raise ValueError("expected objects as versions and pt2")
    return card


def _check_bomb(path: Path) -> None:
    """Refuse a zip bomb in place of past.npz, before it is unpacked.

    Raises:
        ValueError: If it unpacks to far more than an export: half of its bytes are hashes, which do not compress.
    """
    with zipfile.ZipFile(path) as package:
        size = sum(entry.file_size for entry in package.infolist())
    if size > max(_MAX_UNPACKED, 100 * path.stat().st_size):
        raise ValueError(f"past.npz unpacks to {size:,} bytes")


def _encoder(folder: Path) -> RowEncoder:
    with reading(folder, "schema.json"):
        schema = Schema.load(folder / "schema.json")
        for f in schema.fields:
            if not 0 < f.max_length <= _MAX_LENGTH:
                raise ValueError(f"{f.name!r} has a max_length of {f.max_length}")
    with reading(folder, "encoders.json or past.npz"):
        if (folder / "past.npz").exists():
            _check_bomb(folder / "past.npz")
        encoder = RowEncoder.load(folder, schema)
        if encoder.past:
            encoder.past.check()
        for f in schema.fields:
            if (ids := encoder.encoders[f.name].cardinality) != f.cardinality:
                raise ValueError(f"{f.name!r} has {ids} ids, the schema says {f.cardinality}")
            if f.kind == "numeric" and (width := getattr(encoder.encoders[f.name], "width", 1)) != f.max_length:
                raise ValueError(f"{f.name!r} makes {width} numbers, the schema says {f.max_length}")
    return encoder


class Bundle:
    """A model that scores raw rows; it may be shared by threads.

    Example:
        >>> bundle = Bundle.load("runs/demo/bundle")  # doctest: +SKIP
        >>> bundle.score([{"household_id": 336, "brand": None}])  # doctest: +SKIP
        array([0.2173])

    Args:
        folder: The bundle's folder.
        runtime: `onnx` or `pt2`.
        card: Content of card.json.
        encoder: Raw rows → ids_BL, dense_BN.
        calibrator: Curves that recalibrate probabilities.
        graph: ids_BL, dense_BN → logit_BT.
    """

    def __init__(
        self,
        folder: Path,
        runtime: str,
        card: Json,
        encoder: RowEncoder,
        calibrator: Calibration,
        graph: Graph,
    ):
        self.folder, self.runtime, self.card, self.encoder = folder, runtime, card, encoder
        self.calibrator, self.graph = calibrator, graph
        self.schema: Schema = encoder.schema

    @classmethod
    def load(cls, path: Path | str, runtime: str = "auto", check: bool = True) -> "Bundle":
        """Read a bundle.

        Args:
            path: The folder that export wrote.
            runtime: `onnx`, `pt2`, or `auto`: the first of these that the bundle holds and that is
                installed.
            check: Compare every file's sha256 with the manifest first.

        Raises:
            BundleError: If it is damaged, or no runtime can score it here.
        """
        folder = Path(path)
        files = check_manifest(folder) if check else read_manifest(folder)
        if runtime not in ("auto", *RUNTIMES):
            raise BundleError(f"runtime: expected auto, {', '.join(RUNTIMES)}, got {runtime!r}: choose one of them")
        with reading(folder, "card.json"):
            card = _card(folder, files)
            wanted = list(RUNTIMES) if runtime == "auto" else [runtime]
            obstacles = {r: obstacle(r, files, card) for r in wanted}
        usable = [r for r, why in obstacles.items() if why is None]
        if not usable:
            raise BundleError(f"{folder}: no runtime to score with: {'; '.join(filter(None, obstacles.values()))}")
        encoder = _encoder(folder)
        with reading(folder, "calibrator.json"):
            calibrator = _calibrator(folder, len(encoder.schema.labels))
        bundle = cls(folder, usable[0], card, encoder, calibrator, load_graph(folder, usable[0], card))
        with reading(folder, "schema.json"):  # schema, encoders and graph fit together, even if golden.json is empty
            bundle.logits([example_row(bundle.schema)])
        return bundle

    def encode(self, rows: Sequence[Row], first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Raw rows → ids_BL int64 and dense_BN float32.

        Args:
            rows: Dicts with every column of `schema.raw_columns`; None is a missing value.
            first: Number of the first row, for messages.

        Raises:
            DataError: If a row is no dict, lacks a column or holds a wrong type; the message names the row.
        """
        try:
            return self.encoder(rows)
        except (DataError, TypeError, AttributeError) as error:
            if len(rows) > 1:  # look for the bad row only now: the usual path stays fast
                for i, row in enumerate(rows):
                    self.encode([row], first + i)
            row: Any = rows[0]  # a request may send anything
            if not isinstance(row, dict):
                raise DataError(
                    f"row {first}: expected an object of column: value, got {type(row).__name__}: send one a row"
                ) from error
            if not isinstance(error, DataError):
                raise  # a bug, not a bad row
            reason = str(error).removeprefix("row 0: ")
            raise DataError(f"row {first}: {reason}") from error

    def logits(self, rows: Sequence[Row], first: int = 0) -> np.ndarray:
        """Raw rows → logits before calibration, float32: logit_B if there is one label, else logit_BT.

        Raises:
            DataError: If `encode` raises it, or a number is so large that the logit is not finite.
        """
        labels = len(self.schema.labels)
        logit_BT = self.graph(*self.encode(rows, first)) if len(rows) else np.zeros((0, labels), np.float32)
        if logit_BT.shape != (len(rows), labels):
            raise BundleError(f"{self.folder}: the graph gives {logit_BT.shape}, expected {labels} a row: export again")
        if not np.isfinite(logit_BT).all():
            bad = first + int(np.flatnonzero(~np.isfinite(logit_BT).all(1))[0])
            raise DataError(f"row {bad}: expected numbers like training's, got a logit that is not finite: mend it")
        return logit_BT if labels > 1 else logit_BT[:, 0]

    def score(self, rows: Sequence[Row], first: int = 0) -> np.ndarray:
        """Raw rows → calibrated probabilities, float64: probability_B if there is one label, else probability_BT.

        Values may be missing, or unseen in training.

        Raises:
            DataError: If `logits` raises it.
        """
        return probabilities(self.logits(rows, first), self.calibrator)

    def answers(self, rows: Sequence[Row], first: int = 0) -> list[Any]:
        """`score` as JSON: for each row a number or, if there are several labels, `{"click": p, "buy": q}`."""
        scored = self.score(rows, first).tolist()
        labels = self.schema.labels
        return scored if len(labels) == 1 else [dict(zip(labels, p_T, strict=True)) for p_T in scored]


def _median_us(job: Callable[[int], Any], repeats: int) -> float:
    """Median µs of `job(i)`, i = 0, 1, …"""
    job(0)
    times = []
    for i in range(repeats):
        start = time.perf_counter_ns()
        job(i)
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1000


def latency(bundle: Bundle, repeats: int = 256, batches: Sequence[int] = (1, 512)) -> dict[str, str | float]:
    """Median time of scoring golden rows, in µs per row; each repeat takes other rows.

    Returns:
        `runtime` and, for each batch size B: `graph_us_b<B>` (ids to logits) and
        `end_to_end_us_b<B>` (raw rows to probabilities); `runtime` alone if the bundle keeps no rows.
    """
    rows = json.loads((bundle.folder / "golden.json").read_bytes())["rows"]
    times: dict[str, str | float] = {"runtime": bundle.runtime}
    for size in batches if rows else ():
        count = max(5, repeats if size == 1 else repeats // 10)
        chunks = [[rows[(start + i) % len(rows)] for i in range(size)] for start in range(min(count, len(rows)))]
        arrays = [bundle.encode(chunk) for chunk in chunks]
        graph = _median_us(lambda i, a=arrays: bundle.graph(*a[i % len(a)]), count)
        whole = _median_us(lambda i, c=chunks: bundle.score(c[i % len(c)]), count)
        times[f"graph_us_b{size}"], times[f"end_to_end_us_b{size}"] = round(graph / size, 3), round(whole / size, 3)
    return times

"""The slices of stage evaluate: each model's figures on parts of the test rows, by a field's ids.

B rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from recsys.data.shards import Shards
from recsys.evaluation.slices import BANDS, figures, seen_before
from recsys.features.encoders import MISSING, UNSEEN, AnyEncoder, Bucket, Part, Vocabulary, encoder_from_json
from recsys.features.row_encoder import read_encoders
from recsys.files import write_json
from recsys.pages.html import Markup, table

__all__ = ["VERSION", "Predicted", "Slice", "cut", "metrics", "section", "write"]

VERSION = 1  # of slices.json
_FEW = 25  # a field of at most so many ids, reserved ones included, is cut by value (an hour has 24)
_MISSING = "(missing)"  # unlike a value `missing` of the field
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FIGURES = {"auc": "AUC", "logloss": "logloss", "calibration": "calibration"}


class Predicted(NamedTuple):
    """A model's predictions of the main label, for each test row."""

    logit_B: np.ndarray
    probability_B: np.ndarray


@dataclass(frozen=True)
class Slice:
    """Test rows that have something in common.

    Args:
        field: The field that they are cut by.
        name: One of `BANDS`, a value of the field, `(missing)` or `(unseen)`.
        rows: Number of rows of weight above 0.
        weight: Sum of their weights.
        clicks: Sum of the weights of those whose main label is 1.
        models: Model → its figures, see `recsys.evaluation.slices.figures`.
    """

    field: str
    name: str
    rows: int
    weight: float
    clicks: float
    models: dict[str, dict[str, float]]


def cut(data: Path, names: Sequence[str], predicted: Mapping[str, Predicted]) -> list[Slice]:
    """The test rows cut by each field, and every model's figures on each part; a part without weight is left out."""
    train, test = Shards(data, "train"), Shards(data, "test")
    encoders = read_encoders(data)
    slices: list[Slice] = []
    for name in dict.fromkeys(names):
        encoder = encoder_from_json(encoders[name])
        id_B = test.ids(name)[:, 0]
        if test.schema[name].cardinality <= _FEW:
            part_B, parts = id_B, _values(encoder)
        else:
            seen = train.ids(name)[:, 0]
            counted = seen if train.weight_B is None else seen[np.asarray(train.weight_B) > 0]
            unseen = UNSEEN if isinstance(encoder, Vocabulary) else None
            part_B, parts = seen_before(counted, id_B, MISSING, unseen), list(BANDS)
        for number, part in sorted(enumerate(parts), key=_order(parts)):
            rows = np.flatnonzero(part_B == number)
            if measured := _measure(name, part, rows, test, predicted):
                slices.append(measured)
    return slices


def _order(parts: Sequence[str]) -> Callable[[tuple[int, str]], float]:
    """The order to show parts in: values that all are numbers ascend, others stay as they are."""
    try:
        numbers = {i: float(p) for i, p in enumerate(parts) if not p.startswith("(")}
    except ValueError:
        return lambda part: part[0]
    return lambda part: numbers.get(part[0], -math.inf)


def _measure(field: str, part: str, rows: np.ndarray, test: Shards, predicted: Mapping[str, Predicted]) -> Slice | None:
    """One slice; None if its rows weigh nothing."""
    weight_B = None if test.weight_B is None else test.weight_B[rows]
    counts_B = np.ones(len(rows)) if weight_B is None else weight_B.astype(np.float64)
    if not counts_B.any():
        return None
    label_B = test.label_B[rows]
    models = {n: figures(p.logit_B[rows], p.probability_B[rows], label_B, weight_B) for n, p in predicted.items()}
    clicks = float(counts_B @ label_B)
    return Slice(field, part, int(np.count_nonzero(counts_B)), float(counts_B.sum()), clicks, models)


def _values(encoder: AnyEncoder) -> list[str]:
    """What each id of a field stands for, in order of the ids."""
    if isinstance(encoder, Vocabulary):
        return [_MISSING, "(unseen)", *("(free)" if v is None else v for v in encoder.values)]
    if isinstance(encoder, Bucket):
        edges = [f"{b:.6g}" for b in encoder.boundaries]
        if not edges:
            return [_MISSING, "any number"]
        between = [f"{a} to {b}" for a, b in pairwise(edges)]
        return [_MISSING, f"below {edges[0]}", *between, f"from {edges[-1]}"]
    count = encoder.cardinality - 1
    if not isinstance(encoder, Part):
        return [_MISSING, *(f"bucket {i}" for i in range(count))]  # a hash keeps no values
    if encoder.part == "weekday":
        return [_MISSING, *_WEEKDAYS]
    return [_MISSING, *(f"{encoder.part} {i + (encoder.part != 'hour')}" for i in range(count))]


def write(folder: Path, slices: Sequence[Slice]) -> Path:
    """Write slices.json of stage evaluate → its path."""
    return write_json(folder / "slices.json", {"slices": [asdict(s) for s in slices]}, VERSION)


def metrics(slices: Sequence[Slice]) -> dict[str, float]:
    """Metrics for MLflow: `slices.FIELD.SLICE.MODEL.auc` and so on, and `slices.FIELD.SLICE.rows`."""
    values: dict[str, float] = {}
    for s in slices:
        place = f"slices.{s.field}.{s.name}"
        values[f"{place}.rows"] = float(s.rows)
        values |= {f"{place}.{model}.{k}": v for model, of_model in s.models.items() for k, v in of_model.items()}
    return values


def section(slices: Sequence[Slice], field: str, names: Mapping[str, str]) -> list[tuple[str, "str | go.Figure"]]:
    """The sections of evaluation.html on one field: a table, and a plot of AUC.

    Args:
        slices: Slices by all fields.
        field: Name of the field to show.
        names: Model → its name for people.
    """
    parts = [s for s in slices if s.field == field]
    rows = [
        [s.name, s.rows, s.clicks / s.weight, names[model], *(of_model.get(k, "") for k in _FIGURES)]
        for s in parts
        for model, of_model in s.models.items()
    ]
    by_count = all(s.name in BANDS for s in parts)
    criterion = "by how many training rows have the row's id" if by_count else "by its value"
    shown = Markup("<p>Test rows {}. A blank: no click, or clicks only.</p>").format(criterion)
    shown += table([field, "rows", "clicked", "model", *_FIGURES.values()], rows)
    figure = go.Figure()
    for model in parts[0].models:
        auc = [s.models[model].get("auc") for s in parts]
        figure.add_scatter(x=[s.name for s in parts], y=auc, name=names[model], mode="lines+markers")
    figure.update_layout(yaxis_title="AUC", xaxis={"type": "category"}, height=320)
    return [(f"By {field}", shown), (f"AUC by {field}", figure)]

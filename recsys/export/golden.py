"""The golden batch of a bundle: raw rows and the model's own answers. B rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recsys.data.batch import Batch
from recsys.errors import DataError
from recsys.features.encoders import Bucket, Part, Piecewise, Scale, Vocabulary, Words
from recsys.features.row_encoder import Row, RowEncoder
from recsys.features.schema import Field
from recsys.frame.merged import Scorer
from recsys.serving.bundle import Calibration, probabilities
from recsys.serving.verify import Golden

__all__ = ["GOLDEN", "golden_answers", "synthetic_rows"]

GOLDEN = ("synthetic", "rows", "none")  # what golden.json may hold: made-up rows, rows of the test split, or nothing
_MISSING = 0.05  # share of made-up values that are missing

_Draw = Callable[[np.random.Generator], Any]


def _plain(dtype: str) -> _Draw:
    """Draws values of a column whose values the bundle does not hold: hashed ones, and keys of past-only columns."""
    drawn: dict[str, _Draw] = {
        "string": lambda r: f"made up {r.integers(1000)}",
        "int": lambda r: int(r.integers(1000)),
        "float": lambda r: float(r.integers(1000)),
        "bool": lambda r: bool(r.integers(2)),
        "time": lambda r: int(r.integers(946_684_800, 1_893_456_000)),  # seconds, 2000 to 2030
    }
    return drawn[dtype]


def _one(encoder: Any, dtype: str) -> _Draw:
    """Draws one value of a field, by what its encoder holds."""
    if isinstance(encoder, Vocabulary) and (known := [v for v in encoder.values if v is not None]):
        cast = {"int": int, "bool": lambda v: v == "true"}.get(dtype, str)
        return lambda r: cast(known[r.integers(len(known))])
    if isinstance(encoder, Scale | Piecewise):
        scale = encoder.scale if isinstance(encoder, Piecewise) else encoder

        def number(r: np.random.Generator) -> float:
            g = r.normal(scale.mean, scale.std)
            return float(np.sign(g) * np.expm1(min(abs(g), 50.0)) if scale.log else g)

        return number
    if isinstance(encoder, Bucket) and len(encoder.boundaries):
        return lambda r: float(r.choice(encoder.boundaries) + r.normal())
    if isinstance(encoder, Part):
        return _plain("time")
    if isinstance(encoder, Words):
        return lambda r: " ".join(f"word{r.integers(100)}" for _ in range(r.integers(1, 6)))
    return _plain(dtype)


def _fill(field: Field, encoder: Any, row: Row, r: np.random.Generator) -> None:
    """Draw the columns of a field that the row lacks."""
    column = field.inputs[0]
    draw = _one(encoder, field.dtypes[0])
    whole = {"multi": "list", "sequence": "list", "vector": "vector"}.get(field.kind, "")
    whole = "" if isinstance(encoder, Words) else whole
    if column not in row:
        if r.random() < _MISSING:
            row[column] = None
        elif whole:
            values = [
                draw(r) for _ in range(field.max_length if whole == "vector" else r.integers(field.max_length + 1))
            ]
            row[column] = field.separator.join(map(str, values)) if field.separator else values
        else:
            row[column] = draw(r)
    if field.weighted:
        row[field.inputs[1]] = [float(w) for w in r.uniform(0.1, 2.0, len(row[column] or ()))]
    else:
        for other, dtype in zip(field.inputs[1:], field.dtypes[1:], strict=True):
            row.setdefault(other, _plain(dtype)(r))


def synthetic_rows(encoder: RowEncoder, count: int = 256, seed: int = 0) -> list[Row]:
    """Make up raw rows from what the bundle's encoders hold anyway: vocabularies, means, boundaries.

    Values are drawn independently: no row tells what a person did.

    Args:
        encoder: The bundle's encoder.
        count: Number of rows.
        seed: Seed of the draws.
    """
    r, schema = np.random.default_rng(seed), encoder.schema
    rows = []
    fields = sorted(schema.fields, key=lambda f: len(f.inputs) - f.weighted)  # crosses last: they reuse columns
    for _ in range(count):
        row: Row = {}
        for f in fields:
            _fill(f, encoder.encoders[f.name], row, r)
        for column, dtype in schema.lookup_columns.items():
            row.setdefault(column, _plain(dtype)(r))
        rows.append(row)
    return rows


def _bare(rows: list[Row], encoder: RowEncoder) -> list[Row]:
    """Drop the past-only columns that past.npz supplies from every second row, so that a replay tests it."""
    known = encoder.past.fields() if encoder.past else set()
    past = {f.inputs[0] for f in encoder.schema.fields if f.past and f.name in known}
    return [{c: v for c, v in row.items() if c not in past} if b % 2 else row for b, row in enumerate(rows)]


def golden_answers(model: Scorer, encoder: RowEncoder, rows: list[Row], calibrator: Calibration) -> Golden:
    """The model's own answers to raw rows, of which every second lacks the columns that past.npz supplies.

    Raises:
        DataError: If a logit is not finite.
    """
    schema = encoder.schema
    columns = {*schema.raw_columns, *schema.lookup_columns}
    if not rows:
        return {"rows": [], "logits": [], "probabilities": []}
    rows = _bare([{c: v for c, v in row.items() if c in columns} for row in rows], encoder)
    ids_BL, dense_BN = (torch.from_numpy(a) for a in encoder(rows))
    training = model.training
    model.eval()
    with torch.no_grad():
        logit = model(Batch.of(schema, ids_BL, dense_BN, torch.zeros(len(rows)))).float().numpy()
    model.train(training)
    if not np.isfinite(logit).all():
        raise DataError("export: expected finite logits of the golden rows, got NaN: the model diverged, retrain")
    logit = logit if logit.shape[1] > 1 else logit[:, 0]
    probability = probabilities(logit, calibrator)
    return {"rows": rows, "logits": logit.tolist(), "probabilities": probability.tolist()}

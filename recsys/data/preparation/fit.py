"""Fit encoders on the training rows of the first pass. B rows, C floats a row."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from recsys.data.preparation.fields import FieldConfig
from recsys.data.preparation.spool import ABSENT_CODE, Spool
from recsys.errors import DataError
from recsys.features.derived import PARTS, Past
from recsys.features.encoders import AnyEncoder, Bucket, Hash, Part, Piecewise, Scale, Vocabulary, Words
from recsys.features.schema import Field

__all__ = ["column_of", "field_of", "fit"]

BINS = 16  # bins of a piecewise number by default
_STEP = 1 << 20  # numbers in memory at once
_SAMPLE = 4_000_000  # most training rows, evenly spaced, from which quantiles and cuts are computed; most numbers kept


def column_of(c: FieldConfig, owner: FieldConfig) -> str:
    """The column of the spool that holds this field."""
    if c.past is not None:
        return f"past/{c.name}"
    if c.kind in ("multi", "sequence", "text"):
        return f"list/{c.name}"
    if c.kind == "vector":
        return f"vector/{c.name}"
    if c.kind == "numeric" or c.encoding in ("bucket", "learned_bucket"):
        return f"float/{c.inputs[0]}"
    if c.encoding in PARTS:
        return f"us/{c.inputs[0]}"
    if owner.encoding == "hash":
        return f"hash/{c.name}"
    return f"shared/{c.name}" if c.table else f"codes/{c.inputs[0]}"  # its column may have codes of its own, too


def _train(spool: Spool, column: str, code_B: np.ndarray) -> Iterator[np.ndarray]:
    """The training rows of a column, some at a time."""
    step = max(1, _STEP // spool.width(column))
    for start in range(0, spool.rows, step):
        stop = min(spool.rows, start + step)
        yield spool.read(column, start, stop).take(np.flatnonzero(code_B[start:stop] == 0), 0)


def _vocabulary(spool: Spool, column: str, code_B: np.ndarray, c: FieldConfig, known: Sequence[str]) -> Vocabulary:
    """Values seen often enough, the most frequent first; `known` ones keep their places before them."""
    dictionary = spool.dictionary(c.past.of if c.past else c.inputs[0])
    counts = np.zeros(dictionary.size - ABSENT_CODE, np.int64)
    step = max(1, _STEP // spool.width(column))
    for start in range(0, spool.rows, step):
        codes = spool.read(column, start, start + min(step, spool.rows - start))
        codes -= np.int32(ABSENT_CODE)
        train_B = (code_B[start : start + step] == 0).astype(np.int32)
        codes *= train_B if codes.ndim == 1 else train_B[:, None]  # other rows count as missing: faster than a filter
        counts += np.bincount(codes.ravel(), minlength=len(counts))
    counts = counts[-ABSENT_CODE:]
    often = np.flatnonzero(counts >= c.min_count)
    known_often = pl.DataFrame({"count": counts[often], "value": dictionary.values().gather(often)})
    ranked = known_often.sort("count", "value", descending=[True, False])["value"].to_list()
    if known:
        before = set(known)
        ranked = [*known, *(s for s in ranked if s not in before)]
    return Vocabulary(ranked[: max(c.max_size, len(known))] if c.max_size else ranked)


def _scaled(spool: Spool, column: str, code_B: np.ndarray, log: bool) -> Iterator[np.ndarray]:
    """g(x) of the numbers in the training rows, without missing ones, some at a time (`Scale` says what g is)."""
    step = max(1, _STEP // spool.width(column))
    for start in range(0, spool.rows, step):
        x = spool.read(column, start, min(spool.rows, start + step))
        known = ~np.isnan(x)
        known &= (code_B[start : start + step] == 0).reshape(-1, *[1] * (x.ndim - 1))
        x = x.take(np.flatnonzero(known))
        yield np.sign(x) * np.log1p(np.abs(x)) if log else x


def _scale(spool: Spool, column: str, code_B: np.ndarray, c: FieldConfig) -> Scale:
    log = c.encoding in ("log", "piecewise_log")
    parts = _scaled(spool, column, code_B, log)
    kept = list(parts) if spool.rows * spool.width(column) <= _SAMPLE else []  # few are read once
    count, total = 0, 0.0
    for g in kept or parts:
        count, total = count + len(g), total + float(g.sum())
    if count == 0:
        raise DataError(f"column {c.inputs[0]!r}: expected numbers, got none but missing: drop the field")
    mean = total / count
    with np.errstate(over="ignore"):
        square = sum(float(np.square(g - mean).sum()) for g in kept or _scaled(spool, column, code_B, log))
    std = float(np.sqrt(square / count))
    if not np.isfinite([mean, std]).all():
        largest = max(float(np.nanmax(np.abs(x), initial=0.0)) for x in _train(spool, column, code_B))
        raise DataError(
            f"column {c.inputs[0]!r}: expected numbers whose squares can be summed, got {largest:.3g}: "
            "make such cells empty, or mend them"
        )
    rounding = 1e-12 * max(1.0, abs(mean))  # a constant column's deviation need not be exactly 0
    return Scale(log, mean, std if std > rounding else 1.0)


def _sample(spool: Spool, column: str, code_B: np.ndarray) -> np.ndarray:
    """Training rows of a column, evenly spaced, `_SAMPLE` at most."""
    every = max(1, -(-int((code_B == 0).sum()) // _SAMPLE))
    return np.concatenate(list(_train(spool, column, code_B)))[::every]


def _edges(z_B: np.ndarray, bins: int) -> np.ndarray:
    """Ends of at most `bins` bins, which are values of z: all of them if they are few, else their quantiles.

    The count of a value is capped at one bin's share of all counts, so that a value that most rows have leaves bins
    for the others.
    """
    value, count = np.unique(z_B, return_counts=True)
    if len(value) <= bins + 1:
        return value
    most = float(len(z_B))
    for _ in range(30):  # to the fixed point of most = Σ min(count, most) / bins
        most = np.minimum(count, most).sum() / bins
    share = np.cumsum(np.minimum(count, most))
    places = np.searchsorted(share / share[-1], np.linspace(0, 1, bins + 1) + 1e-9)  # past a value that fills a bin
    return value[np.unique(np.minimum(places, len(value) - 1))]


def _piecewise(spool: Spool, column: str, code_B: np.ndarray, c: FieldConfig) -> Piecewise:
    scale = _scale(spool, column, code_B, c)
    x_B = _sample(spool, column, code_B)
    z_B = Scale.standardise(x_B[~np.isnan(x_B)], scale.log, scale.mean, scale.std)
    return Piecewise(scale.log, scale.mean, scale.std, _edges(z_B, c.buckets or BINS).tolist())


def _bucket(spool: Spool, column: str, code_B: np.ndarray, c: FieldConfig) -> Bucket:
    x_B = _sample(spool, column, code_B)
    there_B = ~np.isnan(x_B)
    if not there_B.any():
        raise DataError(f"column {c.inputs[0]!r}: expected numbers, got none but missing: drop the field")
    if c.encoding == "bucket":
        return Bucket(np.unique(np.quantile(x_B[there_B], np.linspace(0, 1, c.buckets + 1)[1:-1])).tolist())
    label_B = _sample(spool, "label", code_B)
    from sklearn.tree import DecisionTreeClassifier  # a second to import, and data that is prepared needs none

    tree = DecisionTreeClassifier(max_leaf_nodes=c.buckets, min_samples_leaf=max(1, len(x_B) // (50 * c.buckets)))
    tree.fit(x_B[there_B, None], label_B[there_B])
    cuts = np.unique(tree.tree_.threshold[tree.tree_.feature >= 0])
    return Bucket(np.nextafter(cuts, np.inf).tolist())  # a tree sends x ≤ cut to the left, a bucket x < boundary


def fit(
    spool: Spool, code_B: np.ndarray, c: FieldConfig, fitted: dict[str, AnyEncoder], known: Sequence[str] = ()
) -> AnyEncoder:
    """Fit one field's encoder on the training rows.

    Args:
        spool: The first pass.
        code_B: The split of every row.
        c: The field.
        fitted: Encoders of the earlier fields, from which a shared encoder is taken.
        known: Values of an earlier vocabulary, which keep their ids.

    Raises:
        DataError: If there is nothing to fit on.
    """
    if c.table:
        return fitted[c.table]
    if c.encoding == "hash":
        return Hash(c.buckets, c.seed)
    if c.encoding == "words":
        return Words(c.buckets, c.ngrams, c.seed)
    if c.encoding in PARTS:
        return Part(c.encoding)
    column = column_of(c, c)
    if c.encoding == "vocabulary":
        return _vocabulary(spool, column, code_B, c, known)
    fitters = {"bucket": _bucket, "learned_bucket": _bucket, "piecewise": _piecewise, "piecewise_log": _piecewise}
    return fitters.get(c.encoding, _scale)(spool, column, code_B, c)


def field_of(c: FieldConfig, spool: Spool, encoder: AnyEncoder, rate: float) -> Field:
    """The field in the schema; `rate` is the label rate of the training rows."""
    inputs: tuple[str, ...] = (c.name,) if c.past else c.inputs
    if c.past is not None:
        dtypes = (_text_dtype(spool, c.past.of),) if c.past.what == "last" else ("float",)
    elif c.encoding in PARTS:
        dtypes = ("time",)
    elif encoder.cardinality == 0 or isinstance(encoder, Bucket):
        dtypes = ("float",)
    else:
        dtypes = tuple(_text_dtype(spool, i) for i in inputs)
    if c.weights:
        inputs, dtypes = (*inputs, c.weights), (*dtypes, "float")
    length = c.max_length if c.kind in ("multi", "sequence", "text") else 1
    if c.kind == "vector":
        length = spool.width(f"vector/{c.name}")
    if isinstance(encoder, Piecewise):
        length = encoder.width
    kind: Any = "multi" if c.kind == "text" else c.kind
    return Field(
        c.name, kind, inputs, dtypes, encoder.cardinality, length, c.table, c.separator, c.reverse, bool(c.weights),
        c.past and _typed(c.past, spool, rate),
    )  # fmt: skip


def _typed(past: Past, spool: Spool, rate: float) -> Past:
    return replace(past, dtypes=tuple(_text_dtype(spool, b) for b in past.by), rate=rate)


def _text_dtype(spool: Spool, column: str) -> str:
    dtype = spool.dtypes[column]
    return "int" if dtype == "float" else dtype

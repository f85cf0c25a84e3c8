"""Fields as plain columns for models that are not CTR models. R rows, C columns."""

import numpy as np

from recsys.data.split import Split
from recsys.selection.columns import raw_blocks

__all__ = ["label_encoded"]

_PRIOR_ROWS = 20.0  # rows of the mean label that every id starts with


def label_encoded(train: Split, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Replace an id by the mean label of the rows that have it; numbers stay as they are.

    The mean comes from the other half of the rows (two folds), so that an id seen once does not
    reveal its own label; a list is the mean over its ids; 20 rows of the mean label smooth rare ids.
    Rows count by their sample weights; those of weight 0 are left out.

    Args:
        train: Training rows.
        rows: Most rows to use, drawn at random.
        seed: Fixes the rows and the halves.

    Returns:
        x_RC float64, label_R, weight_R (it sums to the effective number of rows, (Σw)² / Σw²), and the
        number of the field of each column [C].

    Source: Micci-Barreca, A preprocessing scheme for high-cardinality categorical attributes, 2001,
    equation 4 with a fixed smoothing; the folds are ours.
    """
    counted = np.arange(len(train)) if train.weight_B is None else np.flatnonzero(train.weight_B)
    order = np.random.default_rng(seed).permutation(counted)[:rows]
    half_R = np.arange(len(order)) % 2
    rows_R = np.sort(order)
    half_R = half_R[np.argsort(order)]
    blocks, label_R = raw_blocks(train, rows_R), np.asarray(train.label_B[rows_R], np.float64)
    weight_R = np.ones(len(rows_R)) if train.weight_B is None else np.asarray(train.weight_B[rows_R], np.float64)
    weight_R *= weight_R.sum() / np.square(weight_R).sum()
    columns: list[np.ndarray] = []
    field: list[int] = []
    for i, f in enumerate(train.schema.fields):
        block = blocks[f.name]
        if f.is_sparse:
            block = _label_means(block, label_R, weight_R, half_R, f.cardinality)
        columns.append(block.astype(np.float64))
        field += [i] * block.shape[1]
    return np.concatenate(columns, 1), label_R, weight_R, np.array(field)


def _label_means(
    ids_RC: np.ndarray, label_R: np.ndarray, weight_R: np.ndarray, half_R: np.ndarray, cardinality: int
) -> np.ndarray:
    mean = float(np.average(label_R, weights=weight_R))
    present_RC = ids_RC >= 0
    encoded_R = np.zeros(len(label_R))
    for half in (0, 1):
        other = half_R != half
        ids = ids_RC[other]
        labels, weights = (np.broadcast_to(x_R[other, None], ids.shape) for x_R in (label_R, weight_R))
        seen = ids >= 0
        count = np.bincount(ids[seen], weights[seen], minlength=cardinality)
        clicks = np.bincount(ids[seen], (weights * labels)[seen], minlength=cardinality)
        rate = (clicks + _PRIOR_ROWS * mean) / (count + _PRIOR_ROWS)
        this_half = half_R == half
        value_RC = np.where(present_RC[this_half], rate[np.maximum(ids_RC[this_half], 0)], 0.0)
        ids_in_row = present_RC[this_half].sum(1)
        encoded_R[this_half] = np.where(ids_in_row > 0, value_RC.sum(1) / np.maximum(ids_in_row, 1), mean)
    return encoded_R[:, None]

"""Turns prepared ids and numbers into the matrices of logistic regression and of trees.

B rows, L id columns, N numbers, W columns of the matrix. A list (multi or sequence) is a set of
ids in its field's columns; −1 pads. An id of a weighted list counts by its weight; of other lists, by 1.
"""

import numpy as np
import scipy.sparse as sp
from sklearn.model_selection import KFold

from recsys.features.schema import Schema

__all__ = ["MIN_COUNT", "NATIVE", "PRIOR", "OneHot", "TargetRates"]

MIN_COUNT = 10  # an id with fewer training rows shares its field's column of rare ids
NATIVE = 64  # a field with at most so many ids is categorical to the trees
PRIOR = 20.0  # pseudo-rows with the mean label in every id's label rate


def _number_columns(schema: Schema) -> list[int]:
    """Columns of dense_BN: all of a vector; the first of a number, which is the same if it is piecewise."""
    places = schema.float_columns
    return [c for f in schema.numeric for c in (places[f.name] if f.kind == "vector" else places[f.name][:1])]


def _pieces(schema: Schema) -> np.ndarray:
    """Which columns of dense_BN, without weights of lists, are pieces of a number."""
    first_last = [(f.kind == "vector", f.max_length) for f in schema.numeric]
    return np.array([i > 0 and not vector for vector, length in first_last for i in range(length)], dtype=bool)


def _listed(schema: Schema, name: str, ids_BL: np.ndarray, dense_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A field's ids and their weights: 1 unless the list is weighted, 0 for padding."""
    ids = ids_BL[:, schema.id_columns[name].start : schema.id_columns[name].stop]
    if not schema[name].weighted:
        return ids, (ids >= 0).astype(np.float64)
    columns = schema.weight_columns[name]
    return ids, np.where(ids >= 0, dense_BN[:, columns.start : columns.stop], 0).astype(np.float64)


class OneHot:
    """One-hot ids, then numbers standardised to mean 0 and deviation 1; pieces of a number to mean 0 alone.

    A piece lies between 0 and 1, as a one-hot column does. Were a rare one scaled up, rows that drift into it would
    get logits of any size.

    Each field has a column for every id with at least `min_count` training rows and one for all
    others. A list of n ids puts 1/√n in each one's column, so that every field has norm 1; a
    weighted list puts w / √Σw². With `as_pooled` it puts 1/n and w / Σw.

    Args:
        schema: The fields.
        ids_BL: Training ids.
        dense_BN: Training numbers.
        weight_B: Sample weights, for mean and deviation of numbers; None weighs all rows alike.
        min_count: Least rows, whatever their weight, of an id with a column of its own.
        as_pooled: Whether to read rows as a network does: the mean over a list's ids, all columns of a piecewise
            number.
    """

    def __init__(
        self,
        schema: Schema,
        ids_BL: np.ndarray,
        dense_BN: np.ndarray,
        weight_B: np.ndarray | None = None,
        min_count: int = MIN_COUNT,
        as_pooled: bool = False,
    ):
        self.schema, self._power = schema, 1 if as_pooled else 2
        every = list(range(sum(f.max_length for f in schema.numeric)))
        self._number_columns = every if as_pooled else _number_columns(schema)
        self.place: dict[str, np.ndarray] = {}
        self.width = 0
        for name, columns in schema.id_columns.items():
            ids = ids_BL[:, columns.start : columns.stop]
            counts = np.bincount(ids[ids >= 0], minlength=schema[name].cardinality)
            often = counts >= min_count
            self.place[name] = np.where(often, self.width + np.cumsum(often), self.width)
            self.width += 1 + int(often.sum())
        x_BN = dense_BN[:, self._number_columns].astype(np.float64)
        weight_B = np.ones(len(x_BN)) if weight_B is None else weight_B.astype(np.float64)
        share_B = weight_B / weight_B.sum()
        self.mean = share_B @ x_BN  # unlike np.average, works without numbers too
        deviation = np.sqrt(share_B @ (x_BN - self.mean) ** 2)
        deviation[_pieces(schema)[self._number_columns]] = 1.0
        self.deviation = np.where(deviation > 1e-12, deviation, 1.0)
        self.width += x_BN.shape[1]

    def __call__(self, ids_BL: np.ndarray, dense_BN: np.ndarray) -> sp.csr_matrix:
        """→ x_BW, float64: in float32 Newton's line search may end before the gradient is small."""
        x_BN = (dense_BN[:, self._number_columns] - self.mean) / self.deviation
        rows, columns, values = [], [], []
        for name in self.schema.id_columns:
            ids, counts = _listed(self.schema, name, ids_BL, dense_BN)
            row, slot = np.nonzero(counts)
            total_B = (counts**self._power).sum(1) ** (1 / self._power)
            rows.append(row)
            columns.append(self.place[name][ids[row, slot]])
            values.append(counts[row, slot] / total_B[row])
        start = self.width - x_BN.shape[1]
        row_BN, column_BN = np.indices(x_BN.shape)
        rows.append(row_BN.ravel())
        columns.append(column_BN.ravel() + start)
        values.append(x_BN.ravel())
        parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return sp.csr_matrix(parts, shape=(len(ids_BL), self.width))  # entries at equal places add up


class TargetRates:
    """Numbers and narrow ids (fields of few ids) as they are; a wide id as its label rate and log count of rows.

    rate(v) = (Σ label + PRIOR·mean) / (rows + PRIOR), a row counted by its sample weight. A list takes
    the mean over its ids, weighted if the list is. No training row sees its own label. If rows have times,
    a row's rates come from the rows before it, as when the model is used; rows are taken to be in order
    of time. Else they come from the other folds. With times, folds would leak the future: how often an id
    comes back, which may be the label itself.

    Args:
        schema: The fields.
        ids_BL: Training ids.
        label_B: Training labels.
        weight_B: Sample weights; None weighs all rows alike.
        seed: Fixes the folds.

    Source: Micci-Barreca, A preprocessing scheme for high-cardinality categorical attributes,
    2001, equation 4, with λ(n) = n / (n + PRIOR); rows before a row: CatBoost (Prokhorenkova et al.,
    2018, section 3.2), in the order of time, not a random one; folds are ours.
    """

    def __init__(
        self,
        schema: Schema,
        ids_BL: np.ndarray,
        label_B: np.ndarray,
        weight_B: np.ndarray | None = None,
        seed: int = 0,
    ):
        self.schema, self.label, self.seed = schema, label_B.astype(np.float64), seed
        self.weight = np.ones(len(label_B)) if weight_B is None else weight_B.astype(np.float64)
        self.mean = float(np.average(self.label, weights=self.weight))
        numbers = len(_number_columns(schema))
        plain = {f.name for f in schema.sparse if f.kind == "categorical" and f.cardinality <= NATIVE}
        self.wide = [f.name for f in schema.sparse if f.name not in plain]
        self.narrow = [f.name for f in schema.sparse if f.name in plain]
        self.native = list(range(numbers, numbers + len(self.narrow)))
        self.width = numbers + len(self.narrow) + 2 * len(self.wide)
        self.sums = {n: self._sums(n, ids_BL, np.arange(len(ids_BL))) for n in self.wide}

    def _sums(self, name: str, ids_BL: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted Σ label and weighted rows of every id, over some rows."""
        columns = self.schema.id_columns[name]
        ids, size = ids_BL[rows, columns.start : columns.stop], self.schema[name].cardinality
        row, slot = np.nonzero(ids >= 0)
        flat, weight = ids[row, slot], self.weight[rows][row]
        return np.bincount(flat, self.label[rows][row] * weight, size), np.bincount(flat, weight, size)

    def _encode(
        self, name: str, ids_BL: np.ndarray, dense_BN: np.ndarray, sums: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """→ B×2 from Σ label and rows of every id."""
        safe = np.maximum(ids_BL[:, self.schema.id_columns[name].start : self.schema.id_columns[name].stop], 0)
        return self._mean(name, ids_BL, dense_BN, sums[0][safe], sums[1][safe])

    def _mean(
        self, name: str, ids_BL: np.ndarray, dense_BN: np.ndarray, label_BL: np.ndarray, rows_BL: np.ndarray
    ) -> np.ndarray:
        """→ B×2: mean rate and mean log rows over the row's ids; the mean label if it has none."""
        rate_BL, often_BL = (label_BL + PRIOR * self.mean) / (rows_BL + PRIOR), np.log1p(rows_BL)
        _, counts = _listed(self.schema, name, ids_BL, dense_BN)
        total_B = counts.sum(1)
        filled_B = total_B > 0
        means = [(counts * v_BL).sum(1) / np.where(filled_B, total_B, 1) for v_BL in (rate_BL, often_BL)]
        return np.stack([np.where(filled_B, means[0], self.mean), means[1]], 1).astype(np.float32)

    def _before(self, name: str, ids_BL: np.ndarray, dense_BN: np.ndarray) -> np.ndarray:
        """→ B×2 of the training rows, each from the rows above it."""
        columns = self.schema.id_columns[name]
        ids = ids_BL[:, columns.start : columns.stop]
        row, slot = np.nonzero(ids >= 0)
        order = np.argsort(ids[row, slot], kind="stable")  # an id's rows stay in their order
        row, slot = row[order], slot[order]
        id_, weight = ids[row, slot], self.weight[row]
        first_id = np.r_[True, id_[1:] != id_[:-1]][: len(id_)]
        first_row = first_id | np.r_[True, row[1:] != row[:-1]][: len(row)]  # an id twice in one row counts once
        sums = []
        for value in (self.label[row] * weight, weight):
            below = np.r_[0.0, np.cumsum(value)[:-1]][: len(value)]
            below = below[np.maximum.accumulate(np.where(first_row, np.arange(len(below)), 0))]
            start = below[np.maximum.accumulate(np.where(first_id, np.arange(len(below)), 0))]
            sum_BL = np.zeros(ids.shape)
            sum_BL[row, slot] = below - start
            sums.append(sum_BL)
        return self._mean(name, ids_BL, dense_BN, *sums)

    def _beside(self, ids_BL: np.ndarray, dense_BN: np.ndarray, wide: list[np.ndarray]) -> np.ndarray:
        columns = self.schema.id_columns
        narrow = [ids_BL[:, [columns[n].start]].astype(np.float32) for n in self.narrow]
        numbers_BN = dense_BN[:, _number_columns(self.schema)].astype(np.float32)
        return np.concatenate([numbers_BN, *narrow, *wide], axis=1)

    def __call__(self, ids_BL: np.ndarray, dense_BN: np.ndarray) -> np.ndarray:
        """→ x_BW, rates from all training rows."""
        return self._beside(ids_BL, dense_BN, [self._encode(n, ids_BL, dense_BN, self.sums[n]) for n in self.wide])

    def crossed(self, ids_BL: np.ndarray, dense_BN: np.ndarray, folds: int = 5) -> np.ndarray:
        """→ x_BW of the training rows themselves, rates from the rows before or, without times, from other folds."""
        if self.schema.time:
            return self._beside(ids_BL, dense_BN, [self._before(n, ids_BL, dense_BN) for n in self.wide])
        wide = [np.empty((len(ids_BL), 2), np.float32) for _ in self.wide]
        if self.wide:
            for seen, held in KFold(folds, shuffle=True, random_state=self.seed).split(ids_BL):
                for name, crosses in zip(self.wide, wide, strict=True):
                    crosses[held] = self._encode(name, ids_BL[held], dense_BN[held], self._sums(name, ids_BL, seen))
        return self._beside(ids_BL, dense_BN, wide)

"""Encode all numeric fields of rows at once. B rows, F numeric fields, N columns of these. Needs numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.features.encoders import Piecewise, Scale
from recsys.features.values import number

__all__ = ["Numbers"]


class Numbers:
    """Raw values of all numeric fields → z_BN, the outputs of `Scale.numbers` and `Piecewise.numbers` for each field.

    Args:
        columns: The raw column of each field.
        encoders: One for each field.
    """

    def __init__(self, columns: Sequence[str], encoders: Sequence[Scale | Piecewise]):
        self.columns = list(columns)
        scales = [e.scale if isinstance(e, Piecewise) else e for e in encoders]
        logs = {s.log for s in scales}
        self._log = next(iter(logs)) if len(logs) == 1 else np.array([s.log for s in scales], bool)
        self._mean_F, self._std_F = np.array([s.mean for s in scales]), np.array([s.std for s in scales])
        bins = [(i, e) for i, e in enumerate(encoders) if isinstance(e, Piecewise)]
        self._field_of_bin = np.repeat([i for i, _ in bins], [e.width - 1 for _, e in bins])
        self._low, self._span = (np.concatenate([[], *(getattr(e, a) for _, e in bins)]) for a in ("low", "span"))
        self._order = np.argsort(np.r_[np.arange(len(scales)), self._field_of_bin], kind="stable")

    def __call__(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """→ z_BN float32, the columns of each field side by side; zeros (the mean) where missing."""
        columns = self.columns
        x_BF = np.array([_quick(row[c], c) for row in rows for c in columns]).reshape(len(rows), len(columns))
        z_BF = Scale.standardise(x_BF, self._log, self._mean_F, self._std_F)
        bins = self._through(x_BF, z_BF) if len(self._low) else None
        if np.abs(z_BF).max(initial=0.0) > Scale.LIMIT:  # rare; among them are infinite numbers
            for b, f in np.argwhere(np.isinf(x_BF)):
                number(rows[b][columns[f]], columns[f])  # raises with the reason
            z_BF = np.clip(z_BF, -Scale.LIMIT, Scale.LIMIT)
        z_BN = z_BF if bins is None else np.concatenate([z_BF, bins], 1)[:, self._order]
        return z_BN.astype(np.float32, order="C")  # the compiled graph.pt2 ignores strides and reads row by row

    def _through(self, x_BF: np.ndarray, z_BF: np.ndarray) -> np.ndarray:
        field = self._field_of_bin
        return Piecewise.through(z_BF[:, field], np.isnan(x_BF)[:, field], self._low, self._span)


def _quick(value: Any, column: str) -> float:
    """`number` without the check for infinity, which the caller makes for all numbers at once."""
    return (
        float(value)
        if type(value) is float or (type(value) is int and -(2**63) < value < 2**63)
        else number(value, column)
    )

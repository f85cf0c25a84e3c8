"""Columns that give the label away: they hold what is known only after the event. B rows.

A suspect is dropped by `recsys data guess` and named by `recsys data report`. The rules:

1. `SURE`: the column alone reaches AUC .97 on held-out rows. It is only named if the table is easy: if a
   column below .97 comes within .03 of it.
2. `FAR`: AUC above .9, if all such columns are at least .1 above the best of the other columns, and the others are
   no fewer. If only some are, they are only named, since others that are kept predict nearly as well.
3. Whether a value is missing predicts the label: its AUC is .9 or more, or at least 95 % of the rows with a
   value (or of those without) have the label that at most half of all rows have.
4. It is a time after the event in most rows of one label, and at most half as often in rows of the other.
5. Its name says that it comes later (`refund`, `returned`, `outcome` …) or repeats the label's, and AUC is above .8.

The AUC is that of the label rate of the column's value (of a number: of its quantile bin too), with rates
from the other half of the rows: Micci-Barreca's target encoding (2001), equation 4 with λ(n) = n / (n + 10).
"""

import re
from collections.abc import Mapping

import numpy as np
import polars as pl

from recsys.evaluation.metrics import auc

__all__ = ["FAR", "SURE", "binned", "coded", "held_out_auc", "single_auc", "suspects"]

SURE = 0.97
FAR, OVER = 0.9, 0.1
PRIOR = 10.0
_ROWS = 100_000
_LATER = re.compile(
    r"(^|_)(refund(ed)?|return(ed)?|chargeback|cancel(l?ed)?|outcome|result|final|resolved|paid|converted|conversion)(_|$)"
)


def coded(values: pl.Series) -> np.ndarray:
    """Codes from 0, one for each value; missing has a code too."""
    if isinstance(values.dtype, pl.List | pl.Array | pl.Struct):
        values = values.hash()
    return values.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def binned(values: pl.Series, bins: int = 50) -> np.ndarray:
    """Codes of quantile bins of a number; 0 is missing."""
    x_B = values.cast(pl.Float64).to_numpy()
    there_B = ~np.isnan(x_B)
    if not there_B.any():
        return np.zeros(len(x_B), np.int64)
    edges = np.unique(np.quantile(x_B[there_B], np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    return np.where(there_B, 1 + np.searchsorted(edges, x_B, side="left"), 0)


def held_out_auc(code_B: np.ndarray, label_B: np.ndarray, seed: int = 0) -> float:
    """AUC of each code's label rate, taken from the other half of the rows; the mean over both halves.

    .5 if a half has one label only.
    """
    half_B = np.random.default_rng(seed).permutation(len(code_B)) % 2
    aucs = []
    for held in (0, 1):
        fit, score = half_B != held, half_B == held
        if len(np.unique(label_B[score])) < 2:
            return 0.5
        rate = rates(code_B[fit], label_B[fit], int(code_B.max()) + 1)
        aucs.append(auc(rate[code_B[score]], label_B[score]))
    return float(np.mean(aucs))


def rates(code_B: np.ndarray, label_B: np.ndarray, size: int) -> np.ndarray:
    """(Σ label + 10·mean) / (rows + 10) of every code below `size`."""
    rows = np.bincount(code_B, minlength=size)
    return (np.bincount(code_B, label_B, size) + PRIOR * label_B.mean()) / (rows + PRIOR)


def codings(values: pl.Series) -> list[np.ndarray]:
    """The codings of a column; `single_auc` takes the best AUC of them."""
    if isinstance(values.dtype, pl.List):
        return [coded(values), coded(values.list.len())]
    numeric = values.dtype.is_numeric() or values.dtype.is_temporal()
    return [coded(values), *([binned(values.to_physical())] if numeric and values.dtype != pl.Decimal else [])]


def single_auc(values: pl.Series, label_B: np.ndarray) -> float:
    """The AUC of this column alone, on at most 100,000 rows drawn at random."""
    if len(values) > _ROWS:
        pick = np.sort(np.random.default_rng(0).permutation(len(values))[:_ROWS])
        values, label_B = values.gather(pick), label_B[pick]
    return max(held_out_auc(code_B, label_B) for code_B in codings(values))


def _presence(values: pl.Series, label_B: np.ndarray) -> str:
    """Rule 3: the reason, or "" if the rule does not hold."""
    there_B = values.is_not_null().to_numpy()
    if there_B.all() or not there_B.any():
        return ""
    alone = auc(there_B.astype(np.float32), label_B)
    if max(alone, 1 - alone) >= FAR:
        return f"whether it is missing gives the label away: AUC {max(alone, 1 - alone):.3f}"
    for rows_B, what in ((there_B, "a value"), (~there_B, "no value")):
        for label in (0, 1):
            share, base = float((label_B[rows_B] == label).mean()), float((label_B == label).mean())
            if rows_B.sum() >= 30 and base <= 0.5 and share >= 0.95:
                return f"{share:.0%} of the rows with {what} have label {label}, {base:.1%} of all rows do"
    return ""


def _after(values: pl.Series, event: pl.Series, label_B: np.ndarray) -> str:
    """Rule 4: the reason, or "" if the rule does not hold."""
    late_B = (values > event).fill_null(False).to_numpy()
    share = [float(late_B[label_B == y].mean()) for y in (0, 1)]
    for label in (1, 0):
        if share[label] > 0.5 and share[1 - label] <= share[label] / 2:
            reason = f"a time after the event in {share[label]:.0%} of the rows with label {label}"
            return f"{reason}, else {share[1 - label]:.0%}"
    return ""


def _named_later(name: str, label: str) -> bool:
    return bool(_LATER.search(name.lower())) or (len(label) >= 4 and label.lower() in name.lower())


def suspects(
    frame: pl.DataFrame,
    label_B: np.ndarray,
    label: str,
    aucs: Mapping[str, float],
    times: Mapping[str, pl.Series],
    event: pl.Series | None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Find the columns that give the label away.

    Args:
        frame: The candidates, missing as null.
        label_B: 0 and 1.
        label: The label's name.
        aucs: `single_auc` of each candidate.
        times: The candidates that are times.
        event: When each row happened.

    Returns:
        Column → reason: the suspects, and those that are only named.
    """
    sure: dict[str, str] = {}
    named: dict[str, str] = {}
    for name in frame.columns:
        why = _after(times[name], event, label_B) if event is not None and name in times else ""
        why = why or _presence(frame[name], label_B)
        if why:
            sure[name] = f"leakage suspect: {why}"
    left = {n: a for n, a in aucs.items() if n not in sure}
    best = max((a for a in left.values() if a < SURE), default=0.5)
    for name, value in left.items():
        if value >= SURE and value - best > 0.03:
            sure[name] = f"leakage suspect: AUC {value:.3f} alone"
    left = {n: a for n, a in left.items() if n not in sure}
    far, honest = [a for a in left.values() if a > FAR], [a for a in left.values() if a <= FAR]
    reach = max(honest, default=1.0)
    stand_out = len(far) <= len(honest) and min(far, default=0.0) - reach >= OVER  # else some kept columns reach as far
    for name, value in left.items():
        if value > FAR and stand_out:
            sure[name] = f"leakage suspect: AUC {value:.3f} alone, honest columns reach {reach:.3f}"
        elif value >= SURE or (value > FAR and value - reach >= OVER):
            named[name] = f"AUC {value:.3f} alone, as others nearly reach: is it known before the event?"
        elif _named_later(name, label):
            target = sure if value > 0.8 else named
            target[name] = f"leakage suspect: its name says that it comes after the event, AUC {value:.3f} alone"
    return sure, named

"""Choose which rows train, validate and test: by a column, else by time, else by group, else at random."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from recsys.data.inspection.times import days
from recsys.errors import DataError
from recsys.files import Json

__all__ = ["choose"]

_PLACES = ((0.8, 0.9), (0.75, 0.88), (0.7, 0.85), (0.6, 0.8), (0.5, 0.75), (0.4, 0.7))
"""Shares of the rows, in order of time, at which validation and test may begin."""

_LEAST = 10  # rows of each label in a split
_SPELLED = {
    "train": ("train", "training", "tr", "fit"),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test", "testing", "te", "holdout", "oot"),
}


def _by_column(values: pl.Series) -> tuple[Json, str]:
    distinct = values.drop_nulls().unique().sort().to_list()
    spelled = {s: [v for v in distinct if str(v).strip().lower() in words] for s, words in _SPELLED.items()}
    if not spelled["train"] or not spelled["test"]:
        raise DataError(
            f"split column {values.name!r}: expected values such as train, valid and test, got {distinct[:6]}: rename "
            "them, or leave --split out and edit the split in the file"
        )
    split: Json = {"column": values.name, **{s: v for s, v in spelled.items() if v}}
    if spelled["valid"]:
        return split, "As the column says."
    return {
        **split,
        "valid_share": 0.1,
    }, "As the column says; it has no validation, so a tenth of training is held out."


def _delay(event: pl.Series, later: Mapping[str, pl.Series], label_B: np.ndarray) -> tuple[float, str]:
    """Days within which 95 % of the labels are known, and the dropped column of times that says so."""
    for name, moments in later.items():
        waits = (moments - event).dt.total_seconds().filter(pl.Series(label_B == 1)).drop_nulls()
        top: Any = waits.quantile(0.95)
        if len(waits) >= 30 and top is not None and top > 0:
            return round(top / 86400, 2), name
    return 0.0, ""


def _dates(event: pl.Series, label_B: np.ndarray, gap_days: float) -> list[datetime] | None:
    """Where validation and test begin, and after the end, if shares of the rows would leave one without both labels.

    That happens if times are few, such as years, or if the newest labels are all alike. Of several places the latest
    are taken at which both have a few rows of each label. None: shares will do, or no place will.
    """
    there_B = event.is_not_null().to_numpy()
    time_B, label_B = event.filter(event.is_not_null()).to_numpy(), label_B[there_B]
    gap = np.timedelta64(round(gap_days * 86_400_000_000), "us")
    order_B = np.sort(time_B)
    tried = list[tuple[Any, Any]]()
    for valid, test in _PLACES:
        late = order_B[min(int(test * len(order_B)), len(order_B) - 1)]
        early = order_B[min(int(valid * len(order_B)), len(order_B) - 1)]
        if early == late and (before := order_B[order_B < late]).size:
            early = before[-1]
        tried.append((early, late))

    def both(part_B: np.ndarray, least: int = _LEAST) -> bool:
        ones = label_B[part_B].sum()
        return min(ones, part_B.sum() - ones) >= least

    first, second = (order_B[min(int(q * len(order_B)), len(order_B) - 1)] for q in _PLACES[0])
    if both((time_B >= first + gap) & (time_B < second), 1) and both(time_B >= second + gap, 1):
        return None
    for early, late in tried:
        if all(both(part_B) for part_B in (time_B < early, (time_B >= early) & (time_B < late), time_B >= late)):
            ends: list[Any] = [early, late, order_B[-1] + np.timedelta64(1, "s")]
            return [end.astype("datetime64[s]").item() for end in ends]
    return None


def _by_time(event: pl.Series, later: Mapping[str, pl.Series], label_B: np.ndarray) -> tuple[Json, str]:
    span = days(event)
    reason = f"By time, {event.min():%Y-%m-%d %H:%M} to {event.max():%Y-%m-%d %H:%M}: the latest tenth tests. "
    wait, name = _delay(event, later, label_B)
    if 0 < wait < span / 20:
        gap, why = wait, f"by {name}, 95 % of the positive labels are known after that time"
    elif span >= 30:
        gap, why = 1, "a day, so that no row beside another stands in two splits"
    else:
        gap, why = 0, "none, as the table spans few days"
    if places := _dates(event, label_B, gap):
        first: Any = event.min()
        starts = [f"{t:%Y-%m-%dT%H:%M:%S}".removesuffix("T00:00:00") for t in (first, *places)]
        reason = f"By time, {first:%Y-%m-%d %H:%M} to {event.max():%Y-%m-%d %H:%M}, in dates: the latest tenths of the "
        reason += "rows would not hold both labels, since times are few, or the newest labels are alike."
        if wait > 0:
            reason += (
                f" No gap is left: labels take up to {wait:.3g} days to be known, begin valid and test so much later."
            )
        return {name: starts[i : i + 2] for i, name in enumerate(_SPELLED)}, reason
    reason += f"gap_days: {why}. Set it to as many days as a label takes to be known (28 for `buys again in 28 days`)."
    return {"shares": [0.8, 0.1, 0.1], "gap_days": gap}, reason


def choose(
    frame: pl.DataFrame,
    times: Mapping[str, pl.Series],
    label_B: np.ndarray,
    roles: Mapping[str, str | None],
    dropped: Mapping[str, str],
) -> tuple[Json, str]:
    """Choose the split → its settings and the reason.

    Args:
        frame: The sample.
        times: The columns of the sample that are times.
        label_B: 0 and 1.
        roles: `time`, `group` and `split`: column names or None.
        dropped: Columns that are not read; a time among them may be when the label became known.

    Raises:
        DataError: If the split column does not name training and test rows.
    """
    time, group = roles["time"], roles["group"]
    if roles["split"]:
        return _by_column(frame[roles["split"]])
    if time:
        later = {n: t for n, t in times.items() if dropped.get(n, "").startswith("leakage")}
        return _by_time(times[time], later, label_B)
    if group:
        return {"shares": [0.8, 0.1, 0.1], "by": group, "seed": 0}, f"No time: each {group} goes whole to one split."
    return {"shares": [0.8, 0.1, 0.1], "seed": 0}, "No time and no group: rows at random."

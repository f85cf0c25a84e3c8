"""Checks of `data.split` that need no table."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from recsys.errors import ConfigError

__all__ = ["SPLITS", "check_split", "split_dates", "split_shares"]

SPLITS = ("train", "valid", "test")  # codes 0, 1, 2
_MOST_DAYS = 1e6


def split_shares(split: Mapping[str, Any]) -> list[float]:
    """`shares: [.8, .1, .1]` → the three shares.

    Raises:
        ConfigError: If they are not three positive numbers that sum to 1.
    """
    try:
        shares = [float(s) for s in split["shares"]]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data.split.shares: expected three positive shares, got {split['shares']!r}") from error
    if len(shares) != 3 or not min(shares) > 0 or not abs(sum(shares) - 1) <= 1e-6:
        raise ConfigError(f"data.split.shares: expected three positive shares that sum to 1, got {shares}")
    return shares


def split_dates(split: Mapping[str, Any], time: str | None) -> list[tuple[datetime, datetime]]:
    """`{train: [from, to), …}` as ISO dates → from and to of each split.

    Raises:
        ConfigError: If one is not a date, or `data.time` names no column.
    """
    if not time:
        raise ConfigError("data.split gives dates: set data.time to the column that they are about")
    pairs: list[tuple[datetime, datetime]] = []
    for name in SPLITS:
        try:
            start, end = (datetime.fromisoformat(str(t)) for t in split[name])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"data.split.{name}: expected [from, to) as two ISO dates, got {error}") from error
        pairs.append((start, end))
    return pairs


def check_split(split: Mapping[str, Any], time: str | None) -> None:
    """Check the settings of a split; the columns that it needs are checked when the table is read.

    Raises:
        ConfigError: If a setting is invalid; the first one is named.
    """
    gap = split.get("gap_days", 0)
    if isinstance(gap, bool) or not isinstance(gap, int | float) or not 0 <= gap <= _MOST_DAYS:
        raise ConfigError(f"data.split.gap_days: expected days from 0 to {_MOST_DAYS:,.0f}, got {gap!r}: give a number")
    if split.get("column"):
        return
    if "shares" in split or split.get("by"):
        split_shares({"shares": None, **split})
    else:
        split_dates(split, time)

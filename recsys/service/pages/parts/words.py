"""Numbers and times as people read them."""

import math
from datetime import UTC, datetime
from typing import Any

__all__ = ["ago", "clock", "duration", "megabytes", "shown", "size"]

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float | None) -> str:
    """Seconds in the largest two units that count: `2 h 5 min`; "" for None."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    left, parts = max(0, round(seconds)), list[str]()
    for length, unit in _UNITS:
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        if len(parts) == 2 or (parts and unit in ("min", "s")):
            break
    return " ".join(parts)


def ago(when: float | None, now: float) -> str:
    """How long ago: `5 min ago`; "" for None."""
    if when is None:
        return ""
    return "just now" if now - when < 2 else f"{duration(round(now - when)).split(' and ')[0]} ago"


def clock(when: float | None) -> str:
    """A time as UTC, `2026-01-31 12:00:00 UTC`; "" for None."""
    return "" if when is None else datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: float) -> str:
    """Bytes with a unit: `2.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def megabytes(count: float) -> str:
    """Bytes as megabytes, for axes: `2.5 MB`."""
    return f"{count / 1e6:,.4g} MB"


def shown(value: Any) -> str:
    """A value of a configuration or a figure: whole numbers in groups of three digits, others to five digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        whole = value.is_integer() or abs(value) >= 1e4
        return f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.5g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(part)}" for key, part in value.items()) + "}"
    return str(value)

"""Curves of a run while it trains: its figures by step, thinned to as many points as a screen shows."""

import json
import os
from array import array
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from recsys.errors import DataError
from recsys.events import CURVES
from recsys.files import Json
from recsys.service.inside import open_inside, read_inside

__all__ = ["Curves", "thinned"]

_REMEMBERED = 64  # runs whose curves stay in memory
_LEAST = 16  # points


@dataclass
class _Line:
    """One figure of a stage by step, in order of steps."""

    steps: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, step: float, value: float) -> None:
        """Add a point; those from its step on are of an attempt that was given up, and go."""
        if self.steps and step <= self.steps[-1]:
            keep = bisect_left(self.steps, step)
            del self.steps[keep:], self.values[keep:]
        self.steps.append(step)
        self.values.append(value)


@dataclass
class _Seen:
    """What has been read of a file so far."""

    identity: tuple[int, int] = (0, 0)
    offset: int = 0
    lines: dict[str, dict[str, _Line]] = field(default_factory=dict[str, dict[str, _Line]])

    def read(self, text: bytes) -> None:
        """Take in more of the file; the last line may be unfinished, and is read again with its rest."""
        end = text.rfind(b"\n") + 1
        rest = text[end:]
        if rest.endswith(b"}"):
            end = len(text)
        for row in text[:end].split(b"\n"):
            self._take(row)
        self.offset += end

    def _take(self, row: bytes) -> None:
        try:
            point: Any = json.loads(row)
            stage, step = str(point.pop("stage")), float(point.pop("step"))
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
            return  # a killed process left it unfinished
        by_name = self.lines.setdefault(stage, {})
        for name, value in point.items():
            if isinstance(value, int | float) and not abs(value) > 1e300:
                by_name.setdefault(str(name), _Line()).add(step, float(value))


class Curves:
    """Reads curves of runs, and of a file that has grown only what is new."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def of(self, runs: Path, run: str, points: int = 1000, names: frozenset[str] = frozenset()) -> Json:
        """The curves of a run → stage → figure → {"steps", "values", "means": see `thinned`, "points": all}.

        Args:
            runs: The folder of runs that it is in.
            run: Its id.
            points: Most points of a curve, at least 16.
            names: Only these figures; all if empty.
        """
        with self._lock:
            lines = self._lines(runs, run) or self._of_stages(runs, run)
            return {
                stage: {
                    name: {**thinned(line.steps, line.values, points), "points": len(line.steps)}
                    for name, line in by_name.items()
                    if not names or name in names
                }
                for stage, by_name in lines.items()
            }

    def _lines(self, runs: Path, run: str) -> dict[str, dict[str, _Line]]:
        try:
            opened = open_inside(runs, run, CURVES)
        except DataError:
            return {}
        with os.fdopen(opened.handle, "rb") as file:
            seen = self._seen.pop(run, _Seen())
            if seen.identity != opened.identity or seen.offset > opened.size:
                seen = _Seen(opened.identity)
            file.seek(seen.offset)
            seen.read(file.read(opened.size - seen.offset))
        self._seen[run] = seen
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return seen.lines

    def _of_stages(self, runs: Path, run: str) -> dict[str, dict[str, _Line]]:
        """Curves of a run of an earlier version, from the results of its stages."""
        lines = dict[str, dict[str, _Line]]()
        try:
            stages: Any = json.loads(read_inside(runs, run, "result.json"))["stages"]
            for stage in stages:
                history: Any = json.loads(read_inside(runs, run, f"{stage}/result.json"))["history"]
                for point in history:
                    for name in point.keys() - {"step"}:
                        lines.setdefault(stage, {}).setdefault(name, _Line()).add(point["step"], point[name])
        except (DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            pass  # it has no result yet
        return lines


def thinned(steps: "array[float]", values: "array[float]", points: int) -> Json:
    """At most so many points that draw the same picture: of each stretch of steps, its least and its largest value.

    Means over them are biased if noise is skewed: a smoothed line is one of `means`, the mean of each point's stretch.

    Args:
        steps: In order.
        values: One for each step.
        points: Most points, at least 16.
    """
    count, wanted = len(steps), max(points, _LEAST)
    if count <= wanted:
        return {"steps": list(steps), "values": list(values), "means": list(values)}
    stretches = (wanted - 2) // 2
    mean_at = dict[int, float]()  # place of a point that is kept → mean of its stretch
    for i in range(stretches):
        begin, end = i * count // stretches, (i + 1) * count // stretches
        part = values[begin:end]
        kept = {begin + part.index(min(part)), begin + part.index(max(part))} | ({0, count - 1} & {begin, end - 1})
        mean_at |= dict.fromkeys(sorted(kept), sum(part) / len(part))
    return {
        "steps": [steps[i] for i in mean_at],
        "values": [values[i] for i in mean_at],
        "means": list(mean_at.values()),
    }

"""What a run has come to: its figures, and the prepared data that it read, from its folder."""

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from threading import Lock
from typing import Any

from recsys.errors import DataError
from recsys.service.inside import read_inside
from recsys.service.queue.records import ENDED, QueuedRun

__all__ = ["Figures"]

_NOT_COMPARED = ("prepare",)  # its figures describe the data, and its time is paid by the first run that needs them
_REMEMBERED = 5000  # runs
_UNREADABLE = (DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError)


class Figures:
    """Reads the figures of runs; those of a run that has ended stay in memory.

    Args:
        home: Finds the folder of runs that a run's folder is in.
    """

    def __init__(self, home: Callable[[QueuedRun], Path]):
        self._home, self._lock = home, Lock()
        self._seen: OrderedDict[tuple[str, int, float | None], tuple[dict[str, float], str | None]] = OrderedDict()

    def of(self, run: QueuedRun) -> dict[str, float]:
        """Figures of a run, such as `evaluate/train.auc`; `seconds` of all stages but prepare, once it has a result.

        A stage that has ended has those of its result, since the last look is not that of the model which it keeps; of
        another one they are the newest that it has told.
        """
        return self._of(run)[0]

    def data_of(self, run: QueuedRun) -> str | None:
        """Name of the prepared data that a run read, which holds the digest of the table; None before it has any."""
        return self._of(run)[1]

    def _of(self, run: QueuedRun) -> tuple[dict[str, float], str | None]:
        mark = (run.id, run.attempt, run.ended_at)
        with self._lock:
            if mark in self._seen:
                return self._seen[mark]
        seen = self._read(run), self._read_data(run)
        if run.state in ENDED:
            with self._lock:
                self._seen[mark] = seen
                if len(self._seen) > _REMEMBERED:
                    self._seen.popitem(last=False)
        return seen

    def _read_data(self, run: QueuedRun) -> str | None:
        """From the note of its stage prepare or, if an earlier run prepared them, from what a later stage read."""
        home, typed = self._home(run), run.new.config.get("stages")
        stages = [*(typed if isinstance(typed, list) else []), *run.live.metrics, "train", "evaluate"]
        try:
            note: Any = json.loads(read_inside(home, run.id, "prepare/data.json"))
            return PurePath(note["folder"]).name or None
        except _UNREADABLE:
            pass
        for stage in dict.fromkeys(map(str, stages)):
            try:
                node: Any = json.loads(read_inside(home, run.id, f"{stage}/node.json"))
                return str(node["inputs"]["prepare"]["digest"]) or None
            except _UNREADABLE:
                continue
        return None

    def _read(self, run: QueuedRun) -> dict[str, float]:
        home = self._home(run)
        try:
            stages: Any = json.loads(read_inside(home, run.id, "result.json"))["stages"]
            parts = {stage: part for stage, part in stages.items() if stage not in _NOT_COMPARED}
            seen = _figures({stage: part["metrics"] or {} for stage, part in parts.items()})
            seen["seconds"] = math.fsum(p["seconds"] for p in parts.values() if p["seconds"] is not None)
        except _UNREADABLE:  # it has no result yet, or one that nobody can read
            live = {stage: figures for stage, figures in run.live.metrics.items() if stage not in _NOT_COMPARED}
            seen = _figures({stage: self._of_stage(home, run.id, stage, figures) for stage, figures in live.items()})
        return {name: value for name, value in seen.items() if math.isfinite(value)}

    def _of_stage(self, home: Path, run: str, stage: str, newest: Mapping[str, float]) -> Mapping[str, float]:
        """Figures of a stage: of its result if it has ended, else what it has told."""
        try:
            metrics: Any = json.loads(read_inside(home, run, f"{stage}/result.json"))["metrics"]
            return {str(name): float(value) for name, value in metrics.items()}
        except _UNREADABLE:
            return newest


def _figures(by_stage: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"{stage}/{name}": float(value)
        for stage, metrics in by_stage.items()
        for name, value in metrics.items()
        if name != "step"
    }

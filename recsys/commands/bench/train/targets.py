"""What the figures of `recsys bench train` are held against, and everything in one line of JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from recsys.commands.bench.train.cases import FLOOR, OURS
from recsys.commands.bench.train.results import CaseFigures, Middle, WholeRun, ratios

__all__ = ["MEMORY_CASE", "Target", "line", "memory_shares", "targets"]


@dataclass(frozen=True)
class Target:
    """A figure that is held against a number.

    Args:
        name: What it is.
        value: What was measured; None if it was not.
        wanted: The number.
        least: Whether the number is the least that is wanted; else it is the most.
    """

    name: str
    value: float | None
    wanted: float
    least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None if it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.wanted if self.least else self.value <= self.wanted

    @property
    def words(self) -> tuple[str, str, str, str]:
        """What it is, its value, the number, and whether it is as wanted: a row of a table."""
        value = "not measured" if self.value is None else f"{self.value:.2f}"
        sign = "≥" if self.least else "≤"
        return self.name, value, f"{sign} {self.wanted:g}", {True: "met", False: "not met", None: ""}[self.met]


_PEERS_WANTED = {
    "dcn-L-4096": {"FuxiCTR": 14, "torch-rechub": 15, "DeepCTR-Torch": 28, "TorchEasyRec": 2.1},
    "dcn-S-1024": {"FuxiCTR": 5},
    "dcn-S-4096": {"FuxiCTR": 3},
    "deepfm-S-4096": {"FuxiCTR": 3, "torch-rechub": 3, "DeepCTR-Torch": 3, "TorchEasyRec": 3},
}
_FLOORS_WANTED = {
    "dcn-S-4096": {"bf16": 0.75, "fp32": 0.90},
    "wukong-S-4096": {"bf16": 0.6, "fp32": 0.6},
    "din-S-4096": {"bf16": 0.6, "fp32": 0.6},
}
MEMORY_CASE, _MEMORY_WANTED = "dcn-L-4096", 1.3
_SHARE_WANTED, _FIRST_STEP_WANTED = 0.92, 5.0


def targets(cases: Mapping[str, CaseFigures], run: WholeRun | None, precision: str) -> list[Target]:
    """Everything that is held against a number.

    Args:
        cases: Name → figures.
        run: The whole run, if it was measured.
        precision: Of ours, where libraries are compared, and of memory.
    """
    listed: list[Target] = []

    def ratio(name: str, side: str, other: str) -> float | None:
        value = cases[name].over(side, other) if name in cases else None
        return value.median if value else None

    for name, peers in _PEERS_WANTED.items():
        for peer, wanted in peers.items():
            value = ratio(name, f"{OURS} {precision}", peer)
            listed.append(Target(f"{name}: times {peer}", value, wanted))
    for name, floors in _FLOORS_WANTED.items():
        for half, wanted in floors.items():
            value = ratio(name, f"{OURS} {half}", f"{FLOOR} {half}")
            listed.append(Target(f"{name}: share of its matrix products alone, {half}", value, wanted))
    if run:
        listed.append(Target("run: share of steps in memory", run.share.median, _SHARE_WANTED))
        listed.append(
            Target("run: seconds to the first step", median(run.first_step_seconds), _FIRST_STEP_WANTED, False)
        )
    if MEMORY_CASE in cases and f"{OURS} {precision}" in cases[MEMORY_CASE].sides:
        peak, added = memory_shares(cases[MEMORY_CASE], f"{OURS} {precision}")
        listed.append(Target(f"{MEMORY_CASE}: peak memory / tables and optimiser", peak, _MEMORY_WANTED, False))
        name = f"{MEMORY_CASE}: memory added / tables and optimiser"
        listed.append(Target(name, added, _MEMORY_WANTED, False))
    return listed


def memory_shares(figures: CaseFigures, side: str) -> tuple[float, float]:
    """Of one of our sides: peak memory, and memory after the last turn beyond that before the model was built.

    Both are divided by the bytes of all rows of tables and their optimiser. The peak counts imported libraries and
    pages of data files.
    """
    description = figures.about[side]
    rows = description["table_bytes"] + description["optimizer_bytes"]
    measured = list(figures.sides[side].values())
    peak = max(m.peak_bytes for m in measured)
    after = max(m.anonymous_bytes for m in measured)
    return peak / rows, (after - description["bytes_before"]) / rows


def line(
    record: Mapping[str, Any], cases: Mapping[str, CaseFigures], run: WholeRun | None, held: Sequence[Target]
) -> str:
    """Everything in one line of JSON, without single turns."""

    def short(m: Middle) -> list[float]:
        return [float(f"{x:.4g}") for x in (m.median, m.low, m.high)]

    shown: dict[str, Any] = {}
    for name, figures in cases.items():
        rates = {s: {m: short(figures.rate(s, m)) for m in modes} for s, modes in figures.sides.items()}
        peaks = {s: max(m.peak_bytes for m in modes.values()) for s, modes in figures.sides.items()}
        shown[name] = {
            "rows_per_second": rates,
            "peak_bytes": peaks,
            "ratios": {n: short(r) for n, r in ratios(figures).items()},
            "missing": figures.missing,
            "about": figures.about,
        }
    whole = run and {**asdict(run), "share": short(run.share)}
    wanted = {t.name: {"value": t.value, "wanted": t.wanted, "met": t.met} for t in held}
    return json.dumps({"bench": "train", **record, "cases": shown, "run": whole, "wanted": wanted}, ensure_ascii=False)

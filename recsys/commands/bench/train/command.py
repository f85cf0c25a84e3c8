"""`recsys bench train`: rows a second of training, beside other libraries and beside the matrix products alone.

Each side of a case is a process of its own. They take turns, A B C A B C, one at a time; medians of their turns and of
the ratios of turns that stood side by side are shown.
"""

import os
import platform
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

import recsys
from recsys.commands.bench.train import whole_run
from recsys.commands.bench.train.cases import CASES, FLOOR, OURS, PEERS, PRECISIONS, Case, chosen, job_of, sides_of
from recsys.commands.bench.train.data import prepared
from recsys.commands.bench.train.results import CaseFigures, Measured, Middle, WholeRun, keep, ratios
from recsys.commands.bench.train.sides import Side, interleaved, started
from recsys.commands.bench.train.targets import Target, line, targets
from recsys.errors import ConfigError
from recsys.terminal import console
from recsys.training.device import Device

__all__ = ["main"]

_console = console()
_ROOT = Path(recsys.__file__).parents[1]
_RUN_CASE = CASES["dcn-S-4096"]
_QUICK = {"rows": 40_000, "ids": 2_000, "turns": 1, "seconds": 0.05}


@dataclass(frozen=True)
class _Asked:
    """The settings of a benchmark, as `recsys bench train --help` tells them."""

    folder: Path
    peers: list[str]
    peers_python: Path
    precisions: list[str]
    threads: int
    turns: int
    seconds: float
    steps: int | None
    rows: int
    ids: int | None
    device: str
    runs: int

    @classmethod
    def of(cls, given: Namespace) -> "_Asked":
        """What the command line says.

        Raises:
            ConfigError: If a library or a number is none.
        """
        if unknown := [p for p in given.peers if p not in PEERS]:
            raise ConfigError(f"--peers: expected some of {', '.join(PEERS)}, got {', '.join(unknown)}: name such")
        values = {k: getattr(given, k) for k in ("threads", "turns", "seconds", "rows")}
        if wrong := next((k for k, v in values.items() if v <= 0), None):
            raise ConfigError(f"--{wrong}: expected a number above 0, got {values[wrong]}: raise it")
        values |= {"ids": None} | (_QUICK if given.quick else {})
        python = given.peers_python or _ROOT / ".venv-peers" / "bin" / "python"
        precisions = given.precisions or _precisions(given.device)
        return cls(
            given.folder.resolve(), given.peers, python, precisions, steps=given.steps, device=given.device,
            runs=given.runs, **values,
        )  # fmt: skip


def _precisions(device: str) -> list[str]:
    """Those that the hardware multiplies itself: emulated, bf16 takes many times as long and says nothing."""
    chosen = Device.choose(device)
    if chosen.autocast_dtype is None:
        _console.print(f"fp32 alone ({chosen.reason}); --precisions bf16 fp32 measures both", soft_wrap=True)
        return ["fp32"]
    return [*PRECISIONS]


def _commands(sides: Mapping[str, str], python: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Side → its command line; and why other sides have none."""
    commands, missing = dict[str, list[str]](), dict[str, str]()
    for side, part in sides.items():
        if part in (OURS, FLOOR):
            commands[side] = [sys.executable, "-m", "recsys.commands.bench.train.ours"]
        elif not (script := _ROOT / "benchmarks" / "peers" / PEERS[part]).exists():
            missing[side] = f"{script} is missing: run this in a checkout of the project"
        elif not python.exists():
            missing[side] = "not installed: make bench-peers"
        else:
            commands[side] = [str(python), str(script)]
    return commands, missing


def _measure(case: Case, asked: _Asked, run: bool) -> tuple[CaseFigures, WholeRun | None]:
    """A case, and the whole run that is measured beside it if asked for."""
    _console.print(f"{case.name}: writing and preparing set {case.data}, unless it is there", soft_wrap=True)
    data = prepared(case.data, asked.folder, asked.rows, asked.ids)
    sides = sides_of(case, asked.precisions, asked.peers)
    commands, absent = _commands(sides, asked.peers_python)
    jobs = {s: job_of(case, s, sides[s], data, asked.threads, asked.device) for s in commands}
    _console.print(f"{case.name}: starting {', '.join(commands)}; each reads the set and warms up", soft_wrap=True)
    with started(commands, jobs) as (ready, missing):
        said = ", ".join(s.name for s in ready)
        _console.print(f"{case.name}: {asked.turns} turns each, one at a time: {said}", soft_wrap=True)
        modes = ("memory", "padded", "loader") if case.loader else ("memory", "padded")
        pairs = [(s, mode) for s in ready for mode in modes if mode in s.modes]
        steps = {(s.name, mode): s.steps_in(mode, asked.seconds, asked.steps) for s, mode in pairs}
        turns = interleaved(ready, steps, asked.turns)
        whole = _whole(case, asked, ready, steps) if run else None
        described = {s.name: s.about for s in ready}
    figures: dict[str, dict[str, Measured]] = {}
    for (side, mode), taken in turns.items():
        figures.setdefault(side, {})[mode] = Measured.of(taken)
    return CaseFigures(_batch(described, case), figures, described, {**absent, **missing}), whole


def _batch(described: Mapping[str, Mapping[str, Any]], case: Case) -> int:
    """Rows a step: those of the case, or all rows if there are fewer."""
    return min([case.batch, *(a["rows"] for a in described.values() if "rows" in a)])


def _whole(case: Case, asked: _Asked, ready: Sequence[Side], steps: Mapping[tuple[str, str], int]) -> WholeRun:
    precision = asked.precisions[0]
    side = next(s for s in ready if s.name == f"{OURS} {precision}")
    _console.print(f"{case.name}: {asked.runs} runs with evaluation and MLflow")
    taken = steps[side.name, "memory"]
    return whole_run.measure(case, side, taken, asked.folder, asked.runs, asked.threads, precision)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _record(asked: _Asked, load: Sequence[float]) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    names = [line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "committed": _git("show", "-s", "--format=%cI", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "machine": {
            "processor": names[0] if names else platform.processor(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "threads": asked.threads,
        "precisions": asked.precisions,
        "rows": asked.rows,
        "turns": asked.turns,
        "load": {"before": list(load), "after": list(os.getloadavg())},
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _shown(m: Middle, digits: str) -> str:
    return f"{m.median:{digits}} ({m.low:{digits}} – {m.high:{digits}})"


def _show(cases: Mapping[str, CaseFigures], run: WholeRun | None, held: Sequence[Target]) -> None:
    """Tables on standard error: rates, ratios, and what is wanted."""
    rates = Table(
        "case", "side", "rows a second: memory", "loader", "padded", "peak GB", title="median (quartiles) of turns"
    )
    compared = Table("case", "ratio", "median (quartiles)", title="turns side by side")
    for name, figures in cases.items():
        for side, modes in figures.sides.items():
            each = [_shown(figures.rate(side, m), ",.0f") if m in modes else "" for m in ("memory", "loader", "padded")]
            rates.add_row(name, side, *each, f"{max(m.peak_bytes for m in modes.values()) / 1e9:.2f}")
        for side, why in figures.missing.items():
            rates.add_row(name, side, why)
        for ratio, value in ratios(figures).items():
            compared.add_row(name, ratio, _shown(value, ".2f"))
    if run:
        compared.add_row("run", "end to end / steps in memory", _shown(run.share, ".2f"))
    wanted = Table("what", "measured", "wanted", "")
    for t in held:
        wanted.add_row(*t.words)
    for table in (rates, compared, wanted):
        _console.print(table)


def main(given: Namespace) -> int:
    """Measure the cases, and print one JSON line last.

    Raises:
        ConfigError: If a case, a library or a number is none, or figures of changed files are to be kept.
        DataError: If our side or a run fails.
    """
    asked, cases = _Asked.of(given), chosen(given.cases)
    if given.keep and (given.quick or not _git("rev-parse", "HEAD") or _git("status", "--porcelain")):
        raise ConfigError("--keep: expected a checkout without changes and no --quick: commit first, or leave it out")
    asked.folder.mkdir(parents=True, exist_ok=True)
    if given.quick:
        _console.print("tiny sets and one short turn each: this shows that it works, and no speed", soft_wrap=True)
    load, figures, run = os.getloadavg(), dict[str, CaseFigures](), None
    for case in cases:
        with_run = case == _RUN_CASE and asked.runs > 0
        figures[case.name], whole = _measure(case, asked, with_run)
        run = whole or run
    record = _record(asked, load)
    held = targets(figures, run, asked.precisions[0])
    _show(figures, run, held)
    if given.keep:
        path = given.results / f"{record['date'][:10]}-{record['commit'][:8]}.json"
        keep(path, record, figures, run)
        _console.print(f"kept in {path}", soft_wrap=True)
    print(line(record, figures, run, held), flush=True)
    return 0

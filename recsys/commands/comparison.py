"""`recsys compare`: print how selection reports agree, and write a page."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.errors import ConfigError
from recsys.files import write_text
from recsys.selection.reports.compare import LABELS, compare, together
from recsys.selection.reports.compare_page import compare_page, signed, stable
from recsys.selection.reports.find import read
from recsys.terminal import console

__all__ = ["show"]


def show(paths: Sequence[Path], out: Path | None = None) -> None:
    """Print every pair's agreement, and write a page if asked.

    Raises:
        ConfigError: If there are fewer than two reports, more than 26, or two cannot be compared.
    """
    if not 2 <= len(paths) <= len(LABELS):
        raise ConfigError(f"compare needs 2 to {len(LABELS)} reports, got {len(paths)}: name other ones")
    reports = dict(zip(LABELS, (read(p) for p in paths), strict=False))
    found = {f"{x} → {y}": compare(reports[x], reports[y]) for x, y in combinations(reports, 2)}
    phi = together(list(reports.values()))
    page = compare_page(reports, dict(zip(reports, paths, strict=True)), found, phi) if out else ""
    screen = console(stderr=False)
    for (label, report), path in zip(reports.items(), paths, strict=True):
        count = sum(f["verdict"] != "drop" for f in report["fields"].values())
        line = f"{label}: {path} ({report['method']}, keeps {count} of {len(report['fields'])})"
        screen.print(line, soft_wrap=True)
    screen.print(_grid(found))
    if phi:
        screen.print(f"stability of the kept sets over {len(reports)} reports: {stable(phi)}")
    for pair, c in found.items():
        _details(screen, pair, c)
    if out:
        write_text(out, page)
        screen.print(f"page: {out}", soft_wrap=True)


def _grid(found: dict[str, Any]) -> Table:
    grid = Table("pair", "RBO", "Jaccard@k", "chance", "Kendall τ-b", "weighted τ", "flips")
    for pair, c in found.items():
        correlations = ["" if c[k] is None else f"{c[k]:.3f}" for k in ("kendall_tau", "weighted_tau")]
        top = f"{c['jaccard']:.3f} (k={c['k']})"
        grid.add_row(pair, f"{c['rbo']:.3f}", top, f"{c['jaccard_by_chance']:.3f}", *correlations, str(len(c["flips"])))
    return grid


def _details(screen: Console, pair: str, c: dict[str, Any]) -> None:
    def line(text: str, style: str = "") -> None:
        screen.print(f"{pair}: {text}", soft_wrap=True, style=style)

    for warning in c["warnings"]:
        line(f"warning: {warning}", "yellow")
    for what in ("added", "removed"):
        if c[what]:
            line(f"{what}: {', '.join(c[what])}")
    for name, was, now in c["flips"]:
        line(f"{name}: {was} → {now}")
    for name, was, now, overlap in c["movers"]:
        note = {None: "", True: ", intervals overlap", False: ", intervals apart"}[overlap]
        line(f"{name}: rank {was} → {now}{note}")
    if c["curves"]:
        metric, at_k, area = (c["curves"].get(k) for k in ("metric", "at_k", "area"))
        for k, change in at_k.items():
            line(f"Δ{metric}@{k} {signed(change)}")
        if area:
            line(f"Δ area under {metric} by k {signed(area)} over {len(c['curves']['seeds'])} paired seeds")

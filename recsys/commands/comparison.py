"""`recsys compare`: prints how selection reports agree, and writes a page."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recsys.errors import ConfigError
from recsys.files import followed, write_text
from recsys.selection.reports.compare import LABELS, Comparison, compare, together
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
    comparisons = {f"{x} → {y}": compare(reports[x], reports[y]) for x, y in combinations(reports, 2)}
    phi = together(list(reports.values()))
    page = compare_page(reports, dict(zip(reports, paths, strict=True)), comparisons, phi) if out else ""
    screen = console(stderr=False)
    for (label, report), path in zip(reports.items(), paths, strict=True):
        line = f"{label}: {path} ({report.method}, keeps {len(report.kept)} of {len(report.fields)})"
        screen.print(line, soft_wrap=True)
    screen.print(_grid(comparisons))
    if phi:
        screen.print(f"stability of the kept sets over {len(reports)} reports: {stable(phi)}")
    for pair, c in comparisons.items():
        _details(screen, pair, c)
    if out:
        write_text(followed(out), page)
        screen.print(f"page: {out}", soft_wrap=True)


def _grid(comparisons: Mapping[str, Comparison]) -> Table:
    grid = Table("pair", "RBO", "Jaccard@k", "chance", "Kendall τ-b", "weighted τ", "flips")
    for pair, c in comparisons.items():
        correlations = ["" if tau is None else f"{tau:.3f}" for tau in c.correlations[:2]]
        top = f"{c.jaccard:.3f} (k={c.k})"
        grid.add_row(pair, f"{c.rbo:.3f}", top, f"{c.jaccard_by_chance:.3f}", *correlations, str(len(c.flips)))
    return grid


def _details(screen: Console, pair: str, c: Comparison) -> None:
    def line(text: str, style: str = "") -> None:
        screen.print(f"{pair}: {text}", soft_wrap=True, style=style)

    for warning in c.warnings:
        line(f"warning: {warning}", "yellow")
    for change, names in (("added", c.added), ("removed", c.removed)):
        if names:
            line(f"{change}: {', '.join(names)}")
    for flip in c.flips:
        line(f"{flip.field}: {flip.before} → {flip.after}")
    for m in c.movers:
        note = {None: "", True: ", intervals overlap", False: ", intervals apart"}[m.overlap]
        line(f"{m.field}: rank {m.before} → {m.after}{note}")
    if c.curves:
        for k, change in c.curves.at_k.items():
            line(f"Δ{c.curves.metric}@{k} {signed(change)}")
        if c.curves.area:
            seeds = len(c.curves.seeds)
            line(f"Δ area under {c.curves.metric} by k {signed(c.curves.area)} over {seeds} paired seeds")

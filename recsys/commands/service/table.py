"""The table of runs for a terminal of any width: what matters most stays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from recsys.errors import printable
from recsys.service.figures import auc_of
from recsys.service.queue.records import QueuedRun
from recsys.service.typed import alike, settings

__all__ = ["duration", "runs_table", "when"]

_STYLES = {
    "running": "cyan", "stopping": "yellow", "unknown": "yellow", "finished": "green", "failed": "red", "killed": "red",
}  # fmt: skip
_BAR = 8  # cells
_GAP = 2  # cells between columns
_REASON = 24  # cells that a reason needs beside the columns; with less it stands on a line of its own
_INDENT = 4
_LEAST = 10  # cells of an id that is cut
_LONGEST = 500  # letters of a cell
_SETTINGS = 48  # letters of settings


def duration(seconds: float) -> str:
    """Seconds as people say them: 42s, 3m05, 2h07, 3d04h."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02}"
    return f"{s // 3600}h{s % 3600 // 60:02}" if s < 86_400 else f"{s // 86_400}d{s % 86_400 // 3600:02}h"


def when(seconds: float) -> str:
    """A time since 1970, as the clock of this machine shows it."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def _bar(row: QueuedRun) -> str:
    progress = row.live.progress
    if not progress or not progress.get("total") or row.state in ("finished", "queued"):
        return ""
    share = min(1.0, progress["done"] / progress["total"])
    full = int(share * _BAR)
    return f"{'━' * full}{'╌' * (_BAR - full)} {share:4.0%}"


def _per_second(row: QueuedRun) -> float:
    return (row.live.progress or {}).get("per_second") or 0.0 if row.state == "running" else 0.0


def _speed(row: QueuedRun) -> str:
    speed = _per_second(row)
    if not speed or (row.live.progress or {}).get("unit") != "rows":
        return ""
    return f"{speed / 1e6:.1f}M" if speed >= 1e6 else f"{speed / 1e3:.0f}k" if speed >= 1e4 else f"{speed:,.0f}"


def _left(row: QueuedRun) -> str:
    progress, speed = row.live.progress, _per_second(row)
    return duration((progress["total"] - progress["done"]) / speed) if progress and speed else ""


def _auc_text(row: QueuedRun) -> str:
    seen = auc_of(row.live.metrics)
    return f"{seen[0]:.4f}" if seen else ""


def _reason(row: QueuedRun) -> str:
    return row.reason or (row.live.note or "" if row.state == "running" else "")


@dataclass(frozen=True)
class _Column:
    """A column.

    Args:
        title: Its heading.
        cell: Its text in a row.
        rank: Columns with a larger one are left out first if the terminal is narrow; those with 0 stay.
        right: Whether it is set flush right.
    """

    title: str
    cell: Callable[[QueuedRun], str]
    rank: int
    right: bool = False


def _columns(rows: Sequence[QueuedRun]) -> tuple[_Column, ...]:
    same = alike(rows)

    def apart(row: QueuedRun) -> str:
        """The settings that tell a run of a sweep from the others."""
        parent = row.new.parent
        return printable(settings(row.new, same.get(parent, frozenset())), _SETTINGS) if parent else ""

    return (
        _Column("id", lambda r: r.id, 0),
        _Column("state", lambda r: r.word, 0),
        _Column("settings", apart, 1),
        _Column("stage", lambda r: r.live.stage or "", 5),
        _Column("progress", _bar, 2),
        _Column("rows/s", _speed, 6, right=True),
        _Column("left", _left, 4, right=True),
        _Column("valid AUC", _auc_text, 3, right=True),
    )


def _set(text: str, width: int, right: bool) -> str:
    """A cell of a fixed width; longer text loses its middle."""
    letters = min(width, len(text))
    while cell_len(text) > width:  # a letter may take two cells
        text, letters = printable(text, max(2, letters)), letters - 1
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def runs_table(rows: Sequence[QueuedRun], width: int) -> Text:
    """A table of runs, one line each; why a run stands as it does is at the end of its line, or below it.

    Args:
        rows: The runs.
        width: Cells of the terminal.
    """
    columns = _columns(rows)
    cells = {c: [printable(c.cell(row), _LONGEST) for row in rows] for c in columns}
    wide = {c: max(cell_len(text) for text in (c.title, *cells[c])) for c in columns}
    shown = [c for c in columns if c.rank == 0 or any(cells[c])]
    while sum(wide[c] + _GAP for c in shown) > width and len(shown) > 2:
        shown.remove(max(shown, key=lambda c: c.rank))
    id, *others = shown
    wide[id] = max(_LEAST, min(wide[id], width - sum(wide[c] + _GAP for c in others)))
    room = width - sum(wide[c] + _GAP for c in shown)
    head = (" " * _GAP).join(_set(c.title, wide[c], c.right) for c in shown)
    lines = [Text(head.rstrip(), "bold")]
    for number, row in enumerate(rows):
        line = Text()
        for c in shown:
            style = _STYLES.get(row.word, "dim") if c.title == "state" else ""
            line.append(_set(cells[c][number], wide[c], c.right), style).append(" " * _GAP)
        lines += _with_reason(line, " ".join(_reason(row).split()), room, width)
    return Text("\n").join(lines)


def _with_reason(line: Text, reason: str, room: int, width: int) -> list[Text]:
    """A line and its reason: behind it if there is room, else on the next line."""
    if not reason:
        line.rstrip()
        return [line]
    if room >= min(_REASON, cell_len(reason)):
        return [line.append(_start_of(reason, room), "dim")]
    line.rstrip()
    return [line, Text(" " * _INDENT + _start_of(reason, max(2, width - _INDENT)), "dim")]


def _start_of(text: str, width: int) -> str:
    text = printable(text, len(text))
    if cell_len(text) <= width:
        return text
    while cell_len(text) >= width:
        text = text[: width - 1] if len(text) >= width else text[:-1]
    return f"{text}…"

"""`recsys runs` in terminals of any width: what matters most stays, and no text breaks the table."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from recsys.commands.service.logs import exit_code
from recsys.commands.service.table import duration, runs_table
from recsys.service.figures import auc_of
from recsys.service.queue.records import PRUNED, Live, NewRun, QueuedRun


def row(id, state, **more):
    new = NewRun(id=id, overrides=[], config={}, digest="", runs="/r", cwd="/r", name="demo")
    return QueuedRun(new, 1, state, **more)


TRAINING = Live(
    "train",
    {"done": 430_000, "total": 1_000_000, "unit": "rows", "per_second": 12_345.6},
    {"train": {"valid_auc": 0.5}},
)
ROWS = [
    row("20261129-084213-demo-3", "queued", reason="waits for 20261129-084212-demo-2"),
    row("20261129-084212-demo-2", "running", live=TRAINING),
    row("20261129-084210-demo-sweep/11", "failed", reason="data.source.path: expected a table at absent.csv"),
]


def lines(rows, width):
    file = io.StringIO()
    Console(file=file, width=width, markup=False, emoji=False, highlight=False).print(runs_table(rows, width))
    return file.getvalue().rstrip("\n").split("\n")


def test_a_wide_terminal_shows_all_on_one_line_each():
    head, queued, running, failed = lines(ROWS, 200)
    assert head.split() == ["id", "state", "stage", "progress", "rows/s", "left", "valid", "AUC"]
    assert running.split() == ["20261129-084212-demo-2", "running", "train", "━━━╌╌╌╌╌", "43%", "12k", "46s", "0.5000"]
    assert queued.endswith("waits for 20261129-084212-demo-2")
    assert failed.endswith("data.source.path: expected a table at absent.csv")


@pytest.mark.parametrize("width", [10, 20, 34, 40, 60, 80, 100, 120])
def test_no_line_is_longer_than_the_terminal_and_id_state_and_reason_stay(width):
    shown = lines(ROWS, width)
    if width < 34:
        assert shown  # too narrow for an id: the terminal breaks lines
        return
    assert all(cell_len(line) <= width for line in shown), shown
    assert [w for line in shown for w in line.split() if w in ("queued", "running", "failed")] == [
        "queued", "running", "failed",
    ]  # fmt: skip
    assert any("data.source.path" in line for line in shown)
    assert ("43%" in "".join(shown)) == (width >= 60)


def test_wide_letters_and_control_characters_keep_the_columns():
    bad = [row("走走走/\x1b[31m", "failed", reason="a\nb\x07[b]c"), row("x", "finished")]
    head, first, second = lines(bad, 100)
    assert "\x1b" not in first and "\x07" not in first and "[b]c" in first
    assert cell_len(first[: first.index("failed")]) == second.index("finished") == head.index("state")


def test_a_run_that_is_being_cancelled_is_stopping_until_it_has_ended():
    assert row("x", "running", cancel_asked_at=1.0).word == "stopping"
    assert row("x", "cancelled", cancel_asked_at=1.0).word == "cancelled"
    assert row("x", "cancelled", cancel_asked_at=1.0, reason=PRUNED).word == "pruned"


def test_the_auc_is_that_of_the_last_stage_that_tells_one():
    train = {"valid_auc": 0.7, "valid_auc.buy": 0.9}
    assert auc_of({"train": train, "retrain": {"valid_auc": 0.8}, "export": {}}) == (0.8, "kept model")
    assert auc_of({"train": train, "daily": {"auc": 0.6, "step": 2.0}}) == (0.6, "newest day")
    assert auc_of({"train": {"valid_logloss": 0.1}}) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (185, "3m05"), (7620, "2h07"), (273_600, "3d04h"), (-3, "0s")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("state", "exit", "code"),
    [("finished", 0, 0), ("failed", 2, 2), ("failed", None, 1), ("cancelled", -15, 143), ("cancelled", 0, 1)],
)
def test_a_command_that_followed_a_run_ends_as_the_run_did(state, exit, code):
    assert exit_code(row("x", state, exit=exit)) == code

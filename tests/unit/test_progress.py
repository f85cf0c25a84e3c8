"""Standard output is for results: a script reads its last line."""

import re
from pathlib import Path

import recsys
from recsys.events import Terminal
from recsys.progress import progress


def test_a_bar_is_drawn_on_standard_error(capfd):
    with progress() as bar:
        bar.advance(bar.add_task("some job", total=1))
    out, err = capfd.readouterr()
    assert out == ""
    assert "some job" in err


def test_a_log_has_a_line_for_each_look_and_none_for_a_step(capfd, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("recsys.events.time.monotonic", lambda: clock[0])
    with Terminal() as terminal:
        for step in range(1, 9):
            terminal.progress(step * 500, 4000, "rows")
            clock[0] += 0.5
            if step % 4 == 0:
                terminal.metrics(
                    {"train_loss": 0.5, "valid_logloss": 0.25, "valid_auc": 0.75, "network_share": 1}, step
                )
        for field in range(1, 31):
            terminal.progress(field, 30, "fields permuted")
            clock[0] += 1
    figures = "train_loss 0.50000, valid_logloss 0.25000, valid_auc 0.75000, network_share 1.00000"
    assert capfd.readouterr() == (
        "",
        f"""500 of 4,000 rows
step 4: 2,000 of 4,000 rows, 1,000 a second, 0:00:02 left, {figures}
step 8: 4,000 of 4,000 rows, 1,000 a second, {figures}
1 of 30 fields permuted
30 of 30 fields permuted, 1 a second
""",
    )


def test_no_module_draws_elsewhere():
    """rich draws on standard output by default, and its `track` leaves a thread behind when an exception passes."""
    modules = Path(recsys.__file__).parent.rglob("*.py")
    drawn = [p.name for p in modules if re.search(r"\bProgress\((?!.*stderr=True)|import.*\btrack\b", p.read_text())]
    assert drawn == ["progress.py"]

"""Standard output is for results: a script reads its last line."""

import re
from pathlib import Path

import recsys
from recsys.progress import progress


def test_a_bar_is_drawn_on_standard_error(capfd):
    with progress() as bar:
        bar.advance(bar.add_task("some job", total=1))
    out, err = capfd.readouterr()
    assert out == ""
    assert "some job" in err


def test_no_module_draws_elsewhere():
    """rich draws on standard output by default, and its `track` leaves a thread behind when an exception passes."""
    modules = Path(recsys.__file__).parent.rglob("*.py")
    drawn = [p.name for p in modules if re.search(r"\bProgress\((?!.*stderr=True)|import.*\btrack\b", p.read_text())]
    assert drawn == ["progress.py"]

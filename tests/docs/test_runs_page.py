"""docs/runs.md names what run.json holds."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from recsys.results import Process, Run, write_run

PAGE = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()


def test_the_page_has_every_key_and_every_state(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", PAGE, re.M)
    named = [key for row, _ in rows for key in re.findall(r"`(\w+)`", row)]
    written = json.loads(write_run(tmp_path, Run("m", {}, "d", None, Process(1, 0.0), "a", "b")).read_text())
    assert set(named) == set(written) and named[1:] == [f.name for f in fields(Run)]
    states = dict(rows)["`state`"]
    assert set(re.findall(r"`(\w+)`", states)) == {*get_args(get_type_hints(Run)["state"])} - {"killed"}
    assert "`running` with a dead process means killed" in PAGE

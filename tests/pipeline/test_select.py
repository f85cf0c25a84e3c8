"""Stage select as a user runs it: every method by name, probes, and refusals before any work."""

import json
from pathlib import Path

import pytest

from tests.pipeline.small import SMALL, recsys

QUICK = [a for a in SMALL if not a.startswith("selection.")]


def report(place: Path, done) -> dict:
    assert done.returncode == 0, done.stderr
    result = json.loads((place / done.stdout.splitlines()[-1]).read_text())
    return json.loads((Path(result["stages"]["select"]["folder"]) / "report.json").read_text())


def test_a_ranking_with_probes_by_the_command(place, finished):
    """A method without a cut, the top three, and three probes that tell how many of them are luck."""
    done = recsys(
        place, "run", *QUICK, "selection=shark", "select.top_k=3", "select.probes=3", "stages=[select]",
        f"from_run={finished['id']}",
    )  # fmt: skip
    found = report(place, done)
    assert found["method"] == "shark" and len(found["fields"]) == 7
    assert sum(f["verdict"] == "keep" for f in found["fields"].values()) == 3
    assert found["probes"]["probes"] == 3 and found["probes"]["at_most"] > 0
    assert not any(n.startswith("probe:") for n in found["fields"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["selection=random"], "selection=random gives an order of fields and no cut: set select.top_k"),
        (["select.protect=[nobody]"], "select.protect: no field ['nobody']"),
        (["selection=shark", "select.top_k=3", "select.probes=90"], "select.probes: expected 0 to 7"),
    ],
)
def test_what_cannot_be_is_one_line(place, finished, arguments, message):
    done = recsys(place, "run", *QUICK, "stages=[select]", f"from_run={finished['id']}", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr

"""A disk that fills up in a run, at six points: one line that says so; with room again the run goes on.

The kernel refuses every write from that point on (`forks.fill_disk`), SQLite's and torch's too.
"""

from pathlib import Path

import pytest

from tests.pipeline.forks import Forks
from tests.pipeline.test_kills import RUN, begin, origin, whole  # noqa: F401  # fixtures

pytestmark = pytest.mark.slow  # a dozen runs

POINTS = {
    "at the start": ("os.mkdir", "/.hydra"),
    "prepare": ("open", "/train/ids.npy"),
    "the store of MLflow": ("open", "/mlflow.lock"),
    "a checkpoint of training": ("os.rename", "/train/recipe.json"),
    "compress": ("os.rename", "/compress/model"),
    "export": ("open", "/graph.onnx"),
}


def lines(said: str) -> list[str]:
    """What a person must read: errors and warnings, without bars and tables."""
    assert "Traceback" not in said, said
    return [line for line in said.splitlines() if line.startswith(("error: ", "warning: "))]


@pytest.mark.parametrize("point", POINTS)
def test_a_run_says_so_and_goes_on_when_there_is_room(point: str, forks: Forks, whole: Path, tmp_path: Path) -> None:  # noqa: F811
    place = begin(forks, whole, tmp_path / "here", RUN, store="store" not in point)
    ended = forks.run(place.folder, *place.arguments, at=(*POINTS[point], 1), how="full")
    found = lines(ended.said)
    assert ended.code == 2 and found[-1].startswith("error: "), ended.said
    assert len(found) <= 3 and all("cannot be told" in f or "run.json cannot be written" in f for f in found[:-1])
    assert "runs" in found[-1] and "space" in found[-1], found
    place.finish()


def test_predictions_leave_the_earlier_file(forks: Forks, whole: Path, tmp_path: Path) -> None:  # noqa: F811
    bundle, out = whole / "runs" / "shot" / "export" / "bundle", tmp_path / "runs" / "out.jsonl"
    out.parent.mkdir()
    out.write_text("earlier")
    (tmp_path / "rows.csv").write_text("user,item,city,tags,noise,price\n" + "u1,2,city 3,,4,1.5\n" * 3)
    command = ["predict", str(bundle), "rows.csv", "--out", "runs/out.jsonl"]
    ended = forks.run(tmp_path, *command, at=("open", ".unfinished", 1), how="full")
    assert ended.code == 2 and len(ended.said.splitlines()) == 1 and "No space left on device" in ended.said
    assert "out.jsonl" in ended.said
    assert out.read_text() == "earlier" and [p.name for p in out.parent.iterdir()] == ["out.jsonl"]
    assert forks.run(tmp_path, *command).code == 0
    assert len(out.read_text().splitlines()) == 3

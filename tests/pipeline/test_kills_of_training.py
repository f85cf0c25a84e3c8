"""Fifty kills of a training, while checkpoints are written too: it ends with the weights of one that nobody killed."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from recsys.results import read_result
from tests.pipeline.forks import Forks
from tests.pipeline.test_full_disk import lines
from tests.pipeline.test_kills import RUN, Place, begin, changes, digests, origin, untouched  # noqa: F401  # origin: a fixture

pytestmark = pytest.mark.slow  # sixty runs

TRAIN = [*RUN, "stages=[prepare,train]", "train.max_epochs=5", "train.patience=1000", "train.checkpoint_steps=3"]
KILLS, IN_A_ROW = 5, 3  # of a test, and of one run before it may end


@pytest.fixture(scope="module")
def whole(forks: Forks, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The training that nobody kills, and a trace of what it changed."""
    folder = tmp_path_factory.mktemp("whole")
    return untouched(forks, origin, folder / "here", TRAIN, folder / "trace")


def weights(folder: Path) -> dict[str, str]:
    """Digests of the files of the trained model."""
    return {k: v for k, v in digests(folder, "shot").items() if k.startswith("train/model/")}


def of_checkpoints(trace: Path) -> list[tuple[str, str]]:
    """What happened to checkpoints: audit event and end of path; a step's folder by its number."""
    found = dict[tuple[str, str], None]()
    for event, path in (line.split("\t") for line in trace.read_text().splitlines()):
        if "/checkpoints/" in path:
            inside = re.sub(r"/\.(step-\d+)\.[^/]*", r"", path.partition("/checkpoints")[2])
            found[event, re.sub(r"\.(manifest\.json)\..*", r".\1.", inside)] = None
    return [(event, end) for event, end in found if not end.endswith(".")]


@pytest.mark.parametrize("seed", range(10))
def test_at_any_moment_of_a_training(forks: Forks, whole: Path, tmp_path: Path, seed: int) -> None:
    """Every second kill strikes when a file of a checkpoint is opened, gets its name or is removed."""
    r = np.random.default_rng(seed)
    wanted, events = weights(whole), of_checkpoints(whole.parent / "trace")
    assert len(wanted) >= 3 and {e for e, _ in events} >= {"open", "os.rename", "os.mkdir"}
    seconds = read_result(whole / "runs" / "shot" / "result.json").stages["train"].seconds
    places, in_a_row = [begin(forks, whole, tmp_path / "0", TRAIN)], 0
    for number in range(4 * KILLS):
        place, struck = places[-1], False
        if sum(p.killed for p in places) >= KILLS:
            break
        if in_a_row < IN_A_ROW and number % 2:
            event, end = events[int(r.integers(len(events)))]
            at = (event, end, int(r.integers(1, 30)) if not end.startswith("/step") else 1)
            struck = place.count(forks.run(place.folder, *place.arguments, at=at, how=signal.SIGKILL))
        elif in_a_row < IN_A_ROW:
            stage, wait = place.folder / "runs" / "shot" / "train", float(r.uniform(0, seconds))
            struck = place.count(forks.shoot(place.folder, place.arguments, signal.SIGKILL, stage, wait))
        in_a_row += 1
        if not struck:
            _finish(place, wanted)
            places.append(begin(forks, whole, tmp_path / str(len(places)), TRAIN))
            in_a_row = 0
    _finish(places[-1], wanted)
    assert sum(p.killed for p in places) >= KILLS


def _finish(place: Place, wanted: dict[str, str]) -> None:
    """Take it up a last time; its weights, and all else that it wrote, are those of the run that nobody killed."""
    place.finish()
    assert weights(place.folder) == wanted


@pytest.mark.parametrize(("how", "said"), [("full", "No space left"), ("read-only", "Read-only file system")])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    forks: Forks, whole: Path, tmp_path: Path, how: str, said: str
) -> None:
    place = begin(forks, whole, tmp_path / "here", TRAIN)
    ended = forks.run(place.folder, *place.arguments, at=("os.rename", "/step-000000000030", 1), how=how)
    errors = lines(ended.said)
    assert ended.code == 2 and errors[-1].startswith("error: ") and said in errors[-1], ended.said
    left = sorted(p.name for p in (place.folder / "runs" / "shot" / "train" / "checkpoints").glob("step-*"))
    assert left and "step-000000000027" <= left[-1] <= "step-000000000033"
    _finish(place, weights(whole))

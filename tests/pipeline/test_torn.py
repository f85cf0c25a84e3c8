"""Whatever file of a run is torn, the command that reads it says so in one line, with the mend."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from recsys.commands.cli import main
from recsys.results import RunResult, prepared_folder, read_result

EXPORT, SELECT, RETRAIN, RESUME = "stages=[export]", "stages=[select]", "stages=[retrain]", "resume"
STAGE, DATA = "and resume its run, which makes it again", "and run stage prepare again"
TORN = [
    ("evaluate/metrics.json", EXPORT, STAGE),
    ("evaluate/calibrator.json", EXPORT, STAGE),
    ("evaluate/metrics.json", RESUME, STAGE),  # read for the table at the end
    ("train/history.json", SELECT, STAGE),
    ("train/model.json", SELECT, "run the stage that makes it"),
    ("train/model/manifest.json", SELECT, "run the stage that makes it"),
    ("train/model/dense.0.safetensors", SELECT, "run the stage that makes it"),
    ("train/model/tables/0.0.safetensors", SELECT, "run the stage that makes it"),
    ("select/selection.json", RETRAIN, STAGE),
    ("prepare/data.json", SELECT, "run it again"),
    ("data/schema.json", SELECT, "prepare the data"),
    ("data/train/ids.npy", SELECT, DATA),
    ("data/golden_rows.json", EXPORT, DATA),
    ("data/encoders.json", EXPORT, "prepare the data"),
    ("data/prepared.json", RESUME, "prepare it again"),
    ("run.json", RESUME, "begin a new run"),
    ("run.json", SELECT, ""),
    ("result.json", SELECT, "run it again"),
    ("train/result.json", RESUME, "resume the run"),
    ("train/node.json", RESUME, "it is made again"),
]


@pytest.fixture(scope="module")
def run(finished: RunResult, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run that a test may tear."""
    folder = tmp_path_factory.mktemp("torn") / "place"
    shutil.copytree(place, folder)
    return folder / "runs" / finished.id


def _wrong(value: Any) -> list[bytes]:
    """JSON of other shapes: a list or a number for an object; a list, an object or nothing for each value in it."""
    others = [[], 3, [3]] if isinstance(value, dict) else [{}, 3, [3]]
    for other in ([None], {"x": "y"}) if isinstance(value, dict) else ():
        others.append({k: v if k == "version" else other for k, v in value.items()})
    return [json.dumps(other).encode() for other in others]


def _torn(path: Path) -> list[bytes]:
    """Half of the file, nothing, and what is wrong JSON."""
    whole = path.read_bytes()
    return [whole[: len(whole) // 2], b"", *(_wrong(json.loads(whole)) if path.suffix == ".json" else ())]


CASES = [  # in the fast suite every fourth file, torn in one way
    pytest.param(*case, every, marks=pytest.mark.slow if every or i % 4 else (), id=f"{case[0]} {case[1]} {every}")
    for i, case in enumerate(TORN)
    for every in (False, True)
]


@pytest.mark.parametrize(("name", "how", "mend", "every"), CASES)
def test_a_torn_file_is_one_line_with_the_mend(
    run: Path, name: str, how: str, mend: str, every: bool, monkeypatch, capfd
) -> None:
    monkeypatch.chdir(run.parents[1])
    command = [f"resume={run.name}"] if how == RESUME else [f"from_run={run.name}", how]
    inside = name.removeprefix("data/")
    path = run / name if inside == name else prepared_folder(run / "prepare") / inside
    before = path.read_bytes()
    capfd.readouterr()
    try:
        ways = _torn(path)
        for torn in ways if every else ways[-1:]:
            path.write_bytes(torn)
            assert main(["run", *command]) == 2
            said = capfd.readouterr().err
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert "Traceback" not in said and len(errors) == 1, said
            assert path.name in errors[0] and ": expected" in errors[0] and mend in errors[0], (torn, said)
    finally:
        path.write_bytes(before)


def test_prepared_data_that_is_gone_is_prepared_again(run: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(run.parents[1])
    data = prepared_folder(run / "prepare")
    shutil.rmtree(data)
    assert main(["run", f"resume={run.name}"]) == 0
    assert data.is_dir()
    assert set(read_result(run / "result.json").stages) >= {"prepare", "train", "export"}
    assert "train is done already" in capfd.readouterr().err

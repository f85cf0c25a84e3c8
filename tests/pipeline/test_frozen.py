"""Frozen runs: composed now as `recsys run` composes them, executed later, exactly."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import pipelines.run
from pipelines.frozen import OWNER, Frozen, freeze, read_frozen, run_frozen, write_frozen, write_owner
from pipelines.launchers.contract import TOKEN
from recsys.commands.cli import main
from recsys.errors import Cancelled, ConfigError
from recsys.results import read_result, read_run
from tests.pipeline.small import SMALL, recsys


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_frozen_is_what_recsys_run_executes(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    seen = []
    monkeypatch.setattr(pipelines.run, "execute", lambda config, folder, *_: seen.append(config) or folder)
    typed = ["experiment=demo", "model=mlp", "train.lr=.003", "seed=7"]
    (frozen,) = freeze(typed)
    assert not list(here.iterdir()), "nothing is written"
    assert main(["run", *typed]) == 0
    write_frozen(frozen)
    assert run_frozen(Path(frozen.runs) / frozen.id) == 0
    assert seen[0] == seen[1] and frozen.config == json.loads(json.dumps(seen[0].to_json()))
    assert (frozen.name, frozen.seed, frozen.experiment, frozen.sweep) == ("demo", 7, "demo", None)
    assert frozen.id.endswith("-demo-7") and frozen.overrides == typed and frozen.cwd == str(here)
    assert read_frozen(Path(frozen.runs) / frozen.id) == frozen


def test_a_sweep_is_the_product_of_its_values() -> None:
    runs = freeze(["data=planted", "seed=3,4", "model=fm,mlp"], multirun=True)
    assert [r.overrides[1:] for r in runs] == [[f"seed={s}", f"model={m}"] for s in (3, 4) for m in ("fm", "mlp")]
    assert [r.id for r in runs] == [f"{runs[0].sweep}/{i}" for i in range(4)] and runs[0].sweep.endswith("-sweep")
    assert len({r.digest for r in runs}) == 4


def test_a_folder_that_is_there_is_not_taken(here: Path) -> None:
    (here / "runs" / "mine").mkdir(parents=True)
    assert [f.id for f in freeze(["hydra.run.dir=runs/mine"])] == ["mine-2"]


def test_it_takes_the_cores_that_its_processes_take() -> None:
    (frozen,) = freeze(["data=planted", "launcher=torchrun", "launcher.processes=3"])
    assert (frozen.cores, frozen.gpus) == (3, 0)
    (frozen,) = freeze(["data=planted", "launcher=ray", "launcher.processes=3"])
    assert (frozen.cores, frozen.gpus) == (1, 0)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("model.absent=3", "model.absent: no such key: expected some of dropout, hidden, layers"),
        ("experiment=absent", "experiment: no option 'absent': expected one of daily, daily_own, demo"),
        ("seed=1,2", "seed=1,2: add -m"),
        ("hydra/launcher=basic", "obeys hydra.run.dir and hydra.searchpath alone: leave it out"),
        ("resume=x", "recsys resume ID goes on with a run"),
        ("--cfg=job", "expected overrides KEY=VALUE, got '--cfg=job': leave it out"),
        ("from_run=x", "x"),
    ],
)
def test_a_mistake_is_told_before_anything_is_frozen(typed: str, why: str) -> None:
    with pytest.raises(ConfigError) as told:
        freeze([typed])
    assert why in str(told.value)


def test_it_is_frozen_without_what_trains_or_tracks(here: Path) -> None:
    slow = ["torch", "torchrec", "fbgemm_gpu", "pandas", "polars", "sklearn", "scipy", "mlflow", "pyarrow", "plotly"]
    code = f"import sys; sys.modules.update(dict.fromkeys({slow!r})); from pipelines.frozen import freeze; "
    ran = subprocess.run([sys.executable, "-c", f"{code}print(freeze(['experiment=demo'])[0].id)"], cwd=here)
    assert ran.returncode == 0


def test_a_run_that_was_handed_to_another_publishes_nothing(
    monkeypatch: pytest.MonkeyPatch, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (frozen,) = freeze(["data=planted"])
    folder = write_frozen(frozen)

    def work(config: object, folder: Path, reporter: object, before_publishing: object, call: object) -> Path:
        write_owner(folder, "b" * 32, 2)
        before_publishing()  # type: ignore[operator]
        raise AssertionError("it went on")

    monkeypatch.setattr(pipelines.run, "execute", work)
    monkeypatch.setenv(TOKEN, "a" * 32)
    write_owner(folder, "a" * 32, 1)
    assert run_frozen(folder) == 2
    assert "belongs to another worker now" in capsys.readouterr().err
    assert json.loads((folder / OWNER).read_text())["attempt"] == 2


def test_a_run_of_another_version_says_how_to_submit_it_anew(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frozen,) = freeze(["experiment=demo", "seed=3"])
    config = {k: v for k, v in frozen.config.items() if k != "device"}
    assert run_frozen(write_frozen(replace(frozen, config=config))) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: it was composed by another version of recsys (no value for device")
    assert said.endswith(f"in {here}, recsys submit experiment=demo seed=3 composes it anew\n")


def test_a_run_that_is_stopped_names_the_command_that_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of the queue if a worker started it, else that of recsys run."""

    def stop(*_: object) -> None:
        raise Cancelled("the run was asked to stop")

    monkeypatch.setattr(pipelines.run, "_run_stages", stop)
    (frozen,) = freeze(["data=planted"])
    folder = write_frozen(frozen)
    assert run_frozen(folder) == 2
    assert f"recsys run resume={frozen.id} goes on from its last checkpoint" in capsys.readouterr().err
    monkeypatch.setenv(TOKEN, "a" * 32)
    write_owner(folder, "a" * 32, 1)
    assert run_frozen(folder) == 2
    assert f"recsys resume {frozen.id} goes on from its last checkpoint" in capsys.readouterr().err


def test_the_folder_of_another_run_stays(here: Path) -> None:
    (frozen,) = freeze(["data=planted"])
    (here / "runs" / frozen.id).mkdir(parents=True)
    (here / "runs" / frozen.id / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected a new folder, got that of another run"):
        write_frozen(frozen)


def _executed(frozen: Frozen) -> Path:
    folder = write_frozen(frozen)
    command = [sys.executable, "-m", "recsys.commands.frozen", str(folder)]
    done = subprocess.run(command, cwd=frozen.cwd, capture_output=True, text=True, env={**os.environ, "CXX": "none"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(folder / "result.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["launcher=torchrun", "launcher.processes=2"]])
def test_it_runs_as_recsys_run_does_and_is_resumed_and_exported(
    place: Path, launcher: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (frozen,) = freeze([*SMALL, "stages=[train]", "seed=5", *launcher])
    folder = _executed(frozen)
    assert read_run(folder).state == "finished" and read_run(folder).digest == frozen.digest
    assert recsys(place, "run", f"resume={frozen.id}").returncode == 0
    done = recsys(place, "export", frozen.id)
    assert done.returncode == 0, done.stderr
    if not launcher:
        there = recsys(place, "run", *SMALL, "stages=[train]", "seed=5")
        other = read_result(place / there.stdout.splitlines()[-1]).stages["train"].folder
        dense = [load_file(next((f / "model").glob("dense.*"))) for f in (folder / "train", other)]
        assert all(np.array_equal(dense[0][k], dense[1][k]) for k in dense[0])

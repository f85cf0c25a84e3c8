"""Runs on several processes: the result of one, and how they end if one of them fails, is killed or told to stop."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import evaluate, train
from pipelines.config import RunConfig
from pipelines.stage import Result, Stage
from pipelines.together import Together
from recsys.data.ranks import Ranks, Sharding
from recsys.errors import Cancelled, ConfigError, DataError, RecsysError
from recsys.events import SILENT, Reporters
from recsys.results import read_result
from recsys.training import checkpoint
from recsys.training.loop import Training
from recsys.training.state import dense_state
from recsys.training.tensors.compare import differences
from recsys.training.tensors.read import TensorFolder
from tests.configs import composed
from tests.pipeline.forks import fill_disk_for_new_files, forbid_files
from tests.pipeline.small import PARTS, SMALL, recsys, small_stage, whole_recsys
from tests.ranks import in_ranks

STAGES = {"train": train.run, "evaluate": evaluate.run}
SAME = {"embedding_dropout": 0.0, "linear": True, "fresh_tables": True}
# With an eps near 0 both divide noise by noise: a gradient that is nearly 0 moves a row at its first read by the rate.
ADAMW = {"_target_": "recsys.training.optimizers.adamw.adamw", "eps": 1e-4}
ADAGRAD = {"_target_": "recsys.embeddings.optimizers.rowwise_adagrad.rowwise_adagrad", "eps": 1e-4}


def new_stage(prepared: Path, folder: Path) -> Stage:
    """Stage train, without dropout, which differs by rank."""
    model = {**PARTS["model"], "dropout": 0.0}
    folder.mkdir()
    stage = small_stage(prepared, folder, model=model, optimizer=ADAMW, table_optimizer=ADAGRAD)
    stage = replace(stage, config=replace(stage.config, train={**stage.config.train, **SAME}), folder=folder / "train")
    stage.folder.mkdir()
    return stage


class Stopping:
    """A reporter that stops a run after some reports."""

    def __init__(self, after: int):
        self.left, self.silent = after, SILENT

    def __getattr__(self, name: str) -> Any:
        return getattr(self.silent, name)

    def cancelled(self) -> bool:
        self.left -= 1
        return self.left < 0


def together(
    ranks: Ranks,
    stages: list[Stage],
    stop_after: int = 10**9,
    failing: Callable[[], None] | None = None,
    fails: int = 1,
):
    """Metrics of stages on these ranks, or the error; `failing` is called at step 20 of the rank `fails`."""
    if failing and ranks.rank == fails:
        learn = Training.learn

        def learn_or_fail(self: Training, *given: Any) -> float:
            if self.step == 20:
                failing()
            return learn(self, *given)

        Training.learn = learn_or_fail  # in this fork alone
    group, results = Together(ranks), list[Result]()
    if not ranks.first:
        return group.follow(STAGES.__getitem__)
    reporter = Reporters(Stopping(stop_after))

    def work() -> int:
        for stage in stages:
            name = stage.folder.name
            results.append(group.call(name, STAGES[name], replace(stage, reporter=reporter)))
        return 0

    try:
        group.lead(work)
    except (RecsysError, OSError) as error:
        return type(error).__name__, str(error), getattr(error, "code", 2)
    return [r.metrics for r in results]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model, _ = checkpoint.load(folder)
    return {**dense_state(model), **{n: t.dense() for n, t in model.scoring().embedding.scoring().tables.items()}}


def check_same(folder: Path, wanted: Path) -> None:
    got = weights(folder)
    for name, value in weights(wanted).items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def check_equal(one: Path, other: Path) -> None:
    """Tables, dense weights and the states of all optimisers of two checkpoints are equal to 1e-6."""
    folders = [TensorFolder(folder, "look at it") for folder in (one, other)]
    for difference in differences(*folders):
        if difference.count is not None:
            assert difference.largest <= 1e-6, difference
        else:  # a number that is no tensor, such as the best loss: all names and sizes are equal
            assert difference.name.startswith(("best", "history/")), difference


@pytest.fixture(scope="module")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, dict[str, float]]:
    """The stage, computed by one process."""
    stage = new_stage(prepared, tmp_path_factory.mktemp("alone") / "run")
    return stage, train.run(stage).metrics


def test_two_processes_train_and_measure_what_one_does(alone, prepared: Path, tmp_path: Path) -> None:
    one, metrics = alone
    stage = new_stage(prepared, tmp_path / "run")
    later = replace(stage, folder=stage.folder.parent / "evaluate", done={**stage.done, "train": stage.folder})
    later.folder.mkdir()
    (got, measured), code = in_ranks(2, together, [stage, later])
    assert code == 0 and got.keys() == metrics.keys()
    same = {k for k in metrics if not k.endswith("seconds")}
    np.testing.assert_allclose([got[k] for k in same], [metrics[k] for k in same], rtol=0, atol=1e-5)
    check_same(stage.folder, one.folder)
    figures, _, _ = evaluate.measure(one.folder, one)
    assert measured["train.auc"] == pytest.approx(figures["auc"], abs=1e-5)
    assert sorted(p.name for p in stage.folder.iterdir()) == sorted(p.name for p in one.folder.iterdir())


def broken() -> None:
    raise DataError("this rank cannot go on")


def buggy() -> None:
    """An error that names the transport, and says nothing of a lost process."""
    raise RuntimeError("gloo: unsupported dtype Half in the NCCL socket")


@pytest.mark.parametrize(
    ("failing", "wanted"),
    [
        (broken, ("RecsysError", "rank 1: this rank cannot go on", 2)),
        (buggy, ("RecsysError", "rank 1: gloo: unsupported dtype Half in the NCCL socket", 2)),
    ],
)
def test_a_rank_that_fails_ends_all_with_its_message(prepared: Path, tmp_path: Path, capfd, failing, wanted) -> None:
    assert in_ranks(2, together, [new_stage(prepared, tmp_path / "run")], 10**9, failing) == [wanted, 0]
    said = capfd.readouterr().err
    assert said.count("Traceback") == said.count("RuntimeError: gloo: unsupported") == int(failing is buggy)


def told_to_end() -> None:
    raise SystemExit(128 + signal.SIGTERM)  # as the command's handler of SIGTERM does


def test_a_rank_that_is_told_to_end_cancels_the_run(prepared: Path, tmp_path: Path) -> None:
    stage = new_stage(prepared, tmp_path / "run")
    first, _ = in_ranks(2, together, [stage], 10**9, told_to_end, killed=[1])
    assert first == ("Cancelled", "rank 1: stopped by SIGTERM", 2)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_the_run_of_a_killed_rank_is_taken_up_by_any_number_of_processes(alone, prepared, tmp_path: Path) -> None:
    stage = new_stage(prepared, tmp_path / "run")
    (kind, said, code), _ = in_ranks(2, together, [stage], 10**9, kill, killed=[1])
    assert (kind, code) == ("ProcessLost", 75) and "resume the run" in said
    in_ranks(3, together, [stage], sharding="row_wise")
    check_same(stage.folder, alone[0].folder)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("failing", "why"),
    [(fill_disk_for_new_files, "No space left on device"), (forbid_files, "Read-only file system")],
)
def test_a_disk_that_one_rank_cannot_write_to(alone, prepared, tmp_path: Path, rank: int, failing, why: str) -> None:
    """The run says which rank and file, the last checkpoint is whole, and a resumed run ends as one undisturbed."""
    stage = new_stage(prepared, tmp_path / "run")
    stage = replace(stage, config=replace(stage.config, train={**stage.config.train, "checkpoint_steps": 6}))
    (_, said, code), _ = in_ranks(2, together, [stage], 10**9, failing, rank)
    assert code == 2 and why in said and "checkpoints" in said, said
    assert said.startswith("rank 1: ") or rank == 0
    left = sorted((stage.folder / "checkpoints").glob("step-*"))
    assert 12 <= int(left[-1].name.removeprefix("step-")) <= 20
    for folder in left:
        TensorFolder(folder, "look at it").verify()
    (_, follower) = in_ranks(2, together, [stage])
    assert follower == 0
    check_equal(alone[0].folder / "model", stage.folder / "model")


def test_a_run_that_is_told_to_stop_stops_on_all_ranks_and_is_taken_up(alone, prepared, tmp_path: Path) -> None:
    stage = new_stage(prepared, tmp_path / "run")
    (kind, _, code), follower = in_ranks(2, together, [stage], 17)
    assert (kind, code, follower) == ("Cancelled", 2, 0)
    train.run(stage)
    check_same(stage.folder, alone[0].folder)


@pytest.mark.slow
def test_the_command_under_torchrun_gives_what_it_gives_alone(place: Path) -> None:
    run = ["run", *SMALL, "model.dropout=0", "train.embedding_dropout=0", "train.precision=fp32", "device=cpu"]
    run += ["stages=[train,select,retrain,compress,evaluate]"]
    here = recsys(place, *run)
    there = whole_recsys(place, *run, "launcher=torchrun", "launcher.processes=2")
    assert there.returncode == 0, there.stderr + there.stdout
    one, two = (read_result(place / done.stdout.splitlines()[-1]) for done in (here, there))
    assert one.stages.keys() == two.stages.keys()
    for name in ("train", "retrain", "compress"):
        key = f"{name}.auc"
        assert two.stages["evaluate"].metrics[key] == pytest.approx(one.stages["evaluate"].metrics[key], abs=1e-4)


def test_column_wise_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="its own state of row-wise Adagrad"):
        RunConfig.from_json(composed("distributed.sharding=column_wise"))


def go_on(ranks: Ranks, stage: Stage, steps: int) -> None:
    """Take up the training and stop it after some steps."""
    (place := stage.folder).mkdir(exist_ok=True)
    with pytest.raises(Cancelled):
        train.run(replace(stage, folder=place, reporter=Reporters(Stopping(steps - 1))))


LEGS: list[tuple[int, Sharding]] = [(2, "table_wise"), (1, "auto"), (2, "row_wise"), (3, "data_parallel")]


@pytest.mark.slow
def test_a_training_goes_on_with_other_processes_and_shardings_as_if_nothing_had_changed(prepared, tmp_path):
    """2 table-wise → 1 → 2 row-wise → 3 with copies: the next 20 steps of each are those of one process."""
    stage = new_stage(prepared, tmp_path / "run")
    changed = {"checkpoint_steps": 20, "max_epochs": 6, "patience": 100}
    stage = replace(stage, config=replace(stage.config, train={**stage.config.train, **changed}))
    for leg, (world, sharding) in enumerate(LEGS):
        one = replace(stage, folder=tmp_path / f"one-{leg}")
        shutil.copytree(stage.folder, one.folder)
        in_ranks(world, go_on, stage, 20, sharding=sharding)
        go_on(Ranks(), one, 20)
        name = f"checkpoints/step-{20 * (leg + 1):012d}"
        check_equal(one.folder / name, stage.folder / name)
    train.run(one), train.run(stage)
    looks = [json.loads((s.folder / "history.json").read_text()) for s in (one, stage)]
    assert [look["step"] for look in looks[0]] == [look["step"] for look in looks[1]]
    for a, b in zip(*looks, strict=True):
        assert b["valid_logloss"] == pytest.approx(a["valid_logloss"], abs=1e-6)
        assert b["train_loss"] == pytest.approx(a["train_loss"], abs=1e-6)

"""Stage refit: a model trained anew on training and validation rows, for as many passes as validation found best."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import compress, distill, evaluate, refit, train
from pipelines.stage import Stage
from recsys.baselines.linear import linear_weights
from recsys.data.batch import Batch
from recsys.data.joined import Joined
from recsys.data.shards import Shards
from recsys.errors import Cancelled, ConfigError
from recsys.evaluation.metrics import logloss, sigmoid
from recsys.events import Reporters
from recsys.results import read_stage, write_stage
from recsys.training import checkpoint, merged
from recsys.training.config import TrainConfig
from recsys.training.fit import logits
from recsys.training.loop import Training, one_seed, seed_everything
from tests.pipeline.small import small_stage


@pytest.fixture(scope="module")
def refitted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A run whose stages train, refit, compress and evaluate are done."""
    stage = small_stage(prepared, tmp_path_factory.mktemp("refit"), quantization=None)
    for work in (train, refit, compress, evaluate):
        name = work.__name__.rpartition(".")[2]
        stage = replace(stage, folder=stage.folder.parent / name)
        stage.folder.mkdir()
        work.run(stage)
        stage = replace(stage, done={**stage.done, name: stage.folder})
    return stage


def as_one(data: Path) -> tuple[torch.Tensor, ...]:
    """ids, dense and labels of training, then of validation."""
    whole = [Shards(data, split).batch(slice(None)) for split in ("train", "valid")]
    return tuple(torch.cat([getattr(b, name) for b in whole]) for name in ("ids_BL", "dense_BN", "label_BT"))


def test_rows_of_both_splits_come_in_any_order(prepared: Path) -> None:
    train_rows, valid = (Shards(prepared, split) for split in ("train", "valid"))
    rows, (ids, dense, label) = Joined(train_rows, valid), as_one(prepared)
    assert len(rows) == len(ids) and np.array_equal(rows.label_BT, label.numpy())
    for some in (slice(3, 9), np.random.default_rng(0).permutation(len(rows))[:200], np.array([len(rows) - 1])):
        batch = rows.batch(some)
        assert torch.equal(batch.ids_BL, ids[some]) and torch.equal(batch.label_BT, label[some])
        assert torch.equal(batch.dense_BN, dense[some])


def test_the_weights_are_those_of_a_loop_over_all_rows(refitted: Stage, prepared: Path) -> None:
    done = refitted.done
    history = json.loads((done["train"] / "history.json").read_text())
    config = TrainConfig(**json.loads((done["train"] / "recipe.json").read_text())["train"])
    ids, dense, label = as_one(prepared)
    trained, spec = checkpoint.load(done["train"])
    best = min(history, key=lambda look: look["valid_logloss"])["step"]
    short, long = len(Shards(prepared, "train")) // 128, len(ids) // 128
    steps = (best - 1) // short * long + round(((best - 1) % short + 1) * long / short)
    seed_everything(3)
    model = checkpoint.build(trained.schema, spec)
    training = Training(model, config, len(ids) // 128)
    seed_everything(3)
    for step in range(steps):
        epoch, number = divmod(step, len(ids) // 128)
        chosen = np.random.default_rng([3, epoch]).permutation(len(ids))[128 * number : 128 * number + 128]
        if epoch and not number and config.fresh_tables:
            training.embedding.reset_tables(one_seed(3, epoch))
        model.train()
        training.learn(Batch.of(trained.schema, ids[chosen], dense[chosen], label[chosen]))
    got, _ = checkpoint.load(done["refit"])
    for name, value in model.state_dict().items():
        assert torch.allclose(got.state_dict()[name], value, atol=1e-6), name


class Stops(Reporters):
    """Stops a training after some steps."""

    def __init__(self, steps: float):
        super().__init__()
        self.rows, self._steps = list[int](), steps

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        self.rows.append(done)

    def cancelled(self) -> bool:
        return len(self.rows) >= self._steps


def test_a_stopped_one_goes_on_from_its_last_step(refitted: Stage, tmp_path: Path) -> None:
    done = {name: folder for name, folder in refitted.done.items() if name in ("prepare", "train")}
    stage = replace(refitted, folder=tmp_path, done=done)
    with pytest.raises(Cancelled):
        refit.run(replace(stage, reporter=Stops(9)))
    refit.run(replace(stage, reporter=(later := Stops(math.inf))))
    assert later.rows[0] == 10 * 128, "it goes on where it was stopped"
    (one, _), (other, _) = (checkpoint.load(folder) for folder in (tmp_path, refitted.done["refit"]))
    assert all(torch.equal(x, other.state_dict()[n]) for n, x in one.state_dict().items())


def test_a_longer_epoch_is_left_as_far_in_it_as_the_shorter_one() -> None:
    assert [refit.steps_of(best, 30, 33) for best in (1, 30, 31, 44, 60)] == [1, 33, 34, 48, 66]
    for short in (1, 2, 7, 30):
        for long in range(short, 2 * short + 2):
            made = [refit.steps_of(best, short, long) for best in range(1, 4 * short + 1)]
            assert made == sorted(made)
            assert [(m - 1) // long for m in made] == [b // short for b in range(4 * short)], "the same epoch"
            assert made[short - 1 :: short] == [long * i for i in (1, 2, 3, 4)], "an end stays an end"


def test_nothing_is_measured_or_fitted_on_validation_then(refitted: Stage, tmp_path: Path) -> None:
    done = refitted.done
    shown = json.loads((done["evaluate"] / "metrics.json").read_text())
    assert "valid_auc" in shown["train"] and not (done["evaluate"] / "calibrator.json").exists()
    for name in ("refit", "compress"):
        assert shown[name]["auc"] > 0.55 and not [k for k in shown[name] if k.startswith(("valid", "recalibrated"))]
    assert "recalibrated" not in shown
    merged.save(tmp_path, {"a": done["train"], "b": done["compress"]})
    assert evaluate.measure(tmp_path, refitted)[1] is None, "one of its members has seen validation"


def test_a_student_that_validation_chooses_has_no_teacher_that_learned_from_it(refitted: Stage, tmp_path: Path) -> None:
    done = {name: folder for name, folder in refitted.done.items() if name != "compress"}
    with pytest.raises(ConfigError, match="distill: the newest model was trained on validation rows"):
        distill.run(replace(refitted, folder=tmp_path, done=done))


def test_what_learned_from_validation_is_not_healed_by_it(refitted: Stage, tmp_path: Path) -> None:
    done = {name: folder for name, folder in refitted.done.items() if name != "compress"}
    config = replace(refitted.config, heal={"_target_": "recsys.compression.heal.heal", "_partial_": True})
    with pytest.raises(ConfigError, match="heal: the model was trained on validation rows"):
        compress.run(replace(refitted, config=config, folder=tmp_path, done=done))


def test_the_regression_beside_the_network_is_fitted_anew_and_keeps_its_share(prepared: Path, tmp_path: Path) -> None:
    first = small_stage(prepared, tmp_path)
    stage = replace(first, config=replace(first.config, train={**first.config.train, "linear": True}))
    models, valid = {}, Shards(prepared, "valid")
    for name, work in (("train", train), ("refit", refit)):
        stage = replace(stage, folder=tmp_path / name)
        stage.folder.mkdir()
        write_stage(stage.folder, work.run(stage).to_json(stage.folder, 1.0))
        stage = replace(stage, done={**stage.done, name: stage.folder})
        models[name], _ = checkpoint.load(stage.folder)
    shares = {name: float(model.linear.share) for name, model in models.items()}
    assert 0 < shares["train"] == shares["refit"] < 1
    losses = {}
    for name, model in models.items():
        model.linear.share.fill_(0)  # the regression alone
        losses[name] = logloss(sigmoid(logits(model, valid)), valid.label_B)
    assert losses["refit"] < losses["train"], "validation is among its rows now"
    strength = read_stage(tmp_path / "train").metrics["linear_C"]
    joined = linear_weights(Joined(Shards(prepared, "train"), valid), strength, 10**6, 3)
    assert float(models["refit"].linear.bias) == pytest.approx(joined.bias, rel=1e-5)


def test_it_ends_if_a_step_has_more_rows_than_training(prepared: Path, tmp_path: Path) -> None:
    """Validation is as large as training here, so that a batch holds all rows of one and not of both."""
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    shutil.rmtree(data / "train")
    shutil.copytree(data / "valid", data / "train")
    rows = len(Shards(data, "valid"))
    first = small_stage(data, tmp_path)
    settings = {**first.config.train, "batch_size": rows + rows // 2, "max_epochs": 2}
    stage = replace(first, config=replace(first.config, train=settings))
    for name, work in (("train", train), ("refit", refit)):
        stage = replace(stage, folder=tmp_path / name)
        stage.folder.mkdir()
        figures = work.run(stage).metrics
        stage = replace(stage, done={**stage.done, name: stage.folder})
    assert figures["rows"] == 2 * rows and 1 <= figures["steps"] <= 2

"""Every option of conf/optimizer and conf/table_optimizer, found by itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from recsys.data.shards import Shards
from recsys.evaluation.metrics import logloss
from recsys.frame.ctr import CTR
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.fit import fit
from recsys.training.loop import Training, seed_everything

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = [p for group in ("optimizer", "table_optimizer") for p in sorted((CONF / group).glob("*.yaml"))]
RATES = (0.05, 5.0)  # of tables: optimisers differ in what is a usual one
HOW = TrainConfig(batch_size=128, max_epochs=2, lr=1e-2, warmup_steps=5, evals_per_epoch=2, precision="fp32")


@pytest.fixture(params=OPTIONS, ids=lambda p: f"{p.parent.name}={p.stem}")
def option(request: pytest.FixtureRequest) -> dict[str, Any]:
    """An option, by its group; the other group has its default."""
    chosen = {g: CONF / g / f"{n}.yaml" for g, n in (("optimizer", "adamw"), ("table_optimizer", "rowwise_adagrad"))}
    chosen[request.param.parent.name] = request.param
    return {group: OmegaConf.to_container(OmegaConf.load(path)) for group, path in chosen.items()}


def spec(option: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": {"_target_": "recsys.models.dcn.DCN", "layers": 1, "hidden": [16], "dropout": 0.1},
        "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 8},
        "embedding_dropout": 0.1,
        "table_optimizer": option["table_optimizer"],
    }


def build(train: Shards, option: dict[str, Any], seed: int = 0) -> tuple[CTR, TrainConfig]:
    seed_everything(seed)
    return checkpoint.build(train.schema, spec(option)), replace(HOW, optimizer=option["optimizer"])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns(option, train: Shards, valid: Shards) -> None:
    constant = logloss(np.full(len(valid), valid.label_B.mean()), valid.label_B)
    losses = []
    for rate in RATES:
        model, how = build(train, option)
        losses += [h["valid_logloss"] for h in fit(model, train, valid, replace(how, table_lr=rate), seed=0)]
    assert min(losses) < 0.97 * constant


def test_a_training_that_was_killed_goes_on_exactly(option, train: Shards, valid: Shards, tmp_path: Path) -> None:
    model, how = build(train, option)
    history = fit(model, train, valid, how, seed=1)

    resumed = tmp_path / "checkpoints"
    seen: list[dict[str, float]] = []

    def stop_at_the_second(look: dict[str, float]) -> None:
        seen.append(look)
        if len(seen) == 2:
            raise KeyboardInterrupt

    begun, _ = build(train, option)
    with pytest.raises(KeyboardInterrupt):
        fit(begun, train, valid, how, seed=1, checkpoint=resumed, on_look=stop_at_the_second)
    again, _ = build(train, option, seed=9)
    assert fit(again, train, valid, how, seed=1, checkpoint=resumed) == history
    assert same(again.state_dict(), model.state_dict())
    assert same(again.trainable().optimizer_state(), model.trainable().optimizer_state())


def test_a_saved_model_takes_the_identical_next_step(option, train: Shards, tmp_path: Path) -> None:
    model, how = build(train, option)
    how = replace(how, warmup_steps=0)
    for step in Training(model, how, 10).steps(train, 0):
        if step.number == 3:
            break
    checkpoint.save(tmp_path, model, spec(option))
    again, _ = checkpoint.load(tmp_path)
    for one in (model, again):
        torch.manual_seed(0)
        Training(one.train(), how, 10).learn(train.batch(slice(0, 128)))
    assert same(again.state_dict(), model.state_dict())
    assert same(again.trainable().optimizer_state(), model.trainable().optimizer_state())


def test_its_rate_is_that_of_the_schedule(option, train: Shards) -> None:
    """A first step under ten steps of warm-up moves everything a tenth as far as one without."""
    moves: list[dict[str, torch.Tensor]] = []
    for warmup in (1, 10):
        model, how = build(train, option)
        before = {n: p.clone() for n, p in model.state_dict().items()}
        how = replace(how, warmup_steps=warmup, table_lr=max(RATES))
        Training(model.eval(), how, 10).learn(train.batch(slice(0, 128)))
        moves.append({n: p - before[n] for n, p in model.state_dict().items()})
    for name, moved in moves[0].items():
        assert moved.abs().max() > 0, name
        torch.testing.assert_close(10 * moves[1][name], moved, rtol=1e-2, atol=1e-3 * float(moved.abs().max()))

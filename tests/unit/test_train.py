import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recsys.data.joined import Joined
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.embeddings.unified import unified
from recsys.errors import Cancelled, ConfigError, DataError
from recsys.evaluation.metrics import auc, logloss, sigmoid
from recsys.events import Reporters
from recsys.frame.ctr import CTR
from recsys.heads.loss import cross_entropy
from recsys.models.dcn import DCN
from recsys.training.config import TrainConfig
from recsys.training.fit import Fit, best_look, fit, logits
from recsys.training.loop import Training, seed_everything

QUICK = TrainConfig(
    batch_size=128, max_epochs=2, lr=3e-3, table_lr=0.05, warmup_steps=5, evals_per_epoch=2, precision="fp32",
    embedding_dropout=0.1,
)  # fmt: skip

ADAMW = "recsys.training.optimizers.adamw.adamw"


def changed(**values) -> TrainConfig:
    return TrainConfig(**{**vars(QUICK), **values})


def build(shards: Shards, seed: int = 0, scheme=per_field, dropout: float = 0.2) -> CTR:
    """A small DCN whose dropout draws random numbers at every step."""
    seed_everything(seed)
    embedding = scheme(shards.schema, 8)
    return CTR(shards.schema, embedding, partial(DCN, layers=1, hidden=[16], dropout=dropout), 0.1)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_learns_something(train: Shards, valid: Shards) -> None:
    model = build(train)
    history = fit(model, train, valid, QUICK, seed=0)
    rate = valid.label_B.mean()
    assert min(h["valid_logloss"] for h in history) < 0.97 * logloss(np.full(len(valid), rate), valid.label_B)


def test_same_seed_repeats_bit_for_bit_and_another_does_not(train: Shards, valid: Shards) -> None:
    runs = []
    for seed in (3, 3, 4):
        model = build(train)
        runs.append((fit(model, train, valid, QUICK, seed=seed), model.state_dict()))
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0] and not same(runs[0][1], runs[2][1])


class Killed(Exception):
    pass


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("scheme", "after"), [(per_field, 1), (per_field, 2), (unified, 3)])
def test_killed_and_resumed_is_the_same_as_never_stopped(train, valid, tmp_path, scheme, after, fresh) -> None:
    config = changed(fresh_tables=fresh, decay="linear")
    whole = build(train, scheme=scheme)
    history = fit(whole, train, valid, config, seed=1)
    assert len(history) == 4

    def die(_: dict[str, float]) -> None:
        calls.append(1)
        if len(calls) > after:  # this look is told before its checkpoint is written
            raise Killed

    calls: list[int] = []
    file = tmp_path / "checkpoints"
    with pytest.raises(Killed):
        fit(build(train, scheme=scheme), train, valid, config, seed=1, checkpoint=file, on_look=die)
    steps = [int(h["step"]) for h in history[:after]]
    kept = {steps[-1], int(best_look(history[:after])["step"])}
    assert sorted(p.name for p in file.iterdir()) == [f"step-{s:012d}" for s in sorted(kept)], "no half-written one"
    resumed = build(train, seed=99, scheme=scheme)
    assert fit(resumed, train, valid, config, seed=1, checkpoint=file) == history
    assert same(resumed.state_dict(), whole.state_dict())
    done = build(train, seed=98, scheme=scheme)
    assert fit(done, train, valid, config, seed=1, checkpoint=file) == history, "a finished training is only read"
    assert same(done.state_dict(), whole.state_dict())


def test_a_cancelled_training_stops_at_its_last_look_and_goes_on(train, valid, tmp_path) -> None:
    config, file = changed(max_epochs=3, evals_per_epoch=2, patience=9), tmp_path / "checkpoints"
    whole = build(train)
    history = fit(whole, train, valid, config, seed=1)
    told: dict[int, dict[str, float]] = {}
    steps: list[tuple[int, int, str]] = []

    class Stops(Reporters):
        def progress(self, done: int, total: int, unit: str = "steps") -> None:
            steps.append((done, total, unit))

        def metrics(self, values, step: int) -> None:
            assert step not in told
            told[step] = dict(values)

        def cancelled(self) -> bool:
            return len(told) == 2

    with pytest.raises(Cancelled, match="asked to stop"):
        fit(build(train), train, valid, config, seed=1, checkpoint=file, reporter=Stops())
    size = steps[0][0]
    total = len(train) // size * 3 * size
    assert [s[0] for s in steps] == [size * (i + 1) for i in range(len(steps))] and {s[1:] for s in steps} == {
        (total, "rows")
    }
    assert list(told) == [int(h["step"]) for h in history[:2]]
    assert sorted(file.iterdir())[-1].name == f"step-{list(told)[-1]:012d}"
    assert [v["valid_logloss"] for v in told.values()] == [h["valid_logloss"] for h in history[:2]]
    resumed = build(train, seed=9)
    assert fit(resumed, train, valid, config, seed=1, checkpoint=file) == history
    assert same(resumed.state_dict(), whole.state_dict())


def test_a_cancelled_training_loses_no_step(train, valid, tmp_path) -> None:
    config, file, steps = changed(max_epochs=1, evals_per_epoch=1), tmp_path / "checkpoints", []
    whole = build(train)
    history = fit(whole, train, valid, config, seed=1)

    class Stops(Reporters):
        def progress(self, done: int, total: int, unit: str = "steps") -> None:
            steps.append(done)

        def cancelled(self) -> bool:
            return len(steps) in (3, 9)

    for last, start in ((3, 0), (9, 5)):  # the weights that it goes on from are those of the checkpoint
        with pytest.raises(Cancelled, match="asked to stop"):
            fit(build(train, seed=start), train, valid, config, seed=1, checkpoint=file, reporter=Stops())
        assert [p.name for p in file.iterdir()] == [f"step-{last:012d}"]
    resumed = build(train, seed=9)
    assert fit(resumed, train, valid, config, seed=1, checkpoint=file) == history
    assert same(resumed.state_dict(), whole.state_dict())


def test_a_checkpoint_of_another_training_is_refused_by_name(train: Shards, valid: Shards, tmp_path) -> None:
    """Another seed, other rows or another setting would give other steps: the model stays as it is."""
    config, file = changed(max_epochs=1, evals_per_epoch=1), tmp_path / "checkpoints"
    history = fit(build(train), train, valid, config, seed=1, checkpoint=file)
    both = Joined(train, valid)
    for key, before, now, rows, how, seed in (
        ("seed", 1, 2, train, config, 2),
        ("training rows", len(train), len(both), both, config, 1),
        ("train.lr", 3e-3, 0.1, train, replace(config, lr=0.1), 1),
        ("train.batch_size", 128, 64, train, replace(config, batch_size=64), 1),
        ("train.optimizer", {"_target_": ADAMW}, {"_target_": ADAMW, "eps": 0.1}, train,
         replace(config, optimizer={"_target_": ADAMW, "eps": 0.1}), 1),
    ):  # fmt: skip
        model = build(train, seed=5)
        weights = {n: x.clone() for n, x in model.state_dict().items()}
        said = f"{key} was {before!r} there and is {now!r} now: give it the value that it had, or remove {file}"
        with pytest.raises(DataError, match=re.escape(said)):
            fit(model, rows, valid, how, seed, checkpoint=file)
        assert same(model.state_dict(), weights), key
    kept = replace(config, keep_checkpoints=3, checkpoint_steps=7, stall_seconds=9.0)  # of these no step depends
    assert fit(build(train, seed=5), train, valid, kept, seed=1, checkpoint=file) == history


def test_best_weights_are_restored(train: Shards, valid: Shards) -> None:
    model = build(train)
    history = fit(model, train, valid, changed(max_epochs=6, table_lr=0.5, lr=0.02, patience=4), seed=0)
    best = min(history, key=lambda h: h["valid_logloss"])
    assert best is not history[-1], "this training must overfit for the test to mean anything"
    p_B = sigmoid(logits(model, valid))
    assert logloss(p_B, valid.label_B) == pytest.approx(best["valid_logloss"], rel=1e-9)
    assert auc(p_B, valid.label_B) == pytest.approx(best["valid_auc"], rel=1e-9)
    assert not model.training


@pytest.mark.parametrize("resumed", [False, True])
def test_the_optimiser_state_is_that_of_the_best_weights(
    train: Shards, valid: Shards, tmp_path, monkeypatch, resumed
) -> None:
    model, states = build(train), []
    monkeypatch.setattr("recsys.training.fit.logloss", lambda *_: abs(len(states) - 1.5))  # the second look is the best
    checkpoint = tmp_path / "checkpoints" if resumed else None

    def remember(seen: dict[str, float]) -> None:
        states.append(model.embedding.optimizer_state())

    def remember_and_stop(seen: dict[str, float]) -> None:
        remember(seen)
        if len(states) == 4:  # the file of the look before is there, and its best look lies behind
            raise Killed

    config = changed(table_lr=0.5, fresh_tables=True, max_epochs=3, patience=9)
    if resumed:
        with pytest.raises(Killed):
            fit(model, train, valid, config, 0, checkpoint=checkpoint, on_look=remember_and_stop)
        states.pop()  # that look comes again
        model = build(train)
    history = fit(model, train, valid, config, seed=0, checkpoint=checkpoint, on_look=remember)
    assert len(states) == len(history) == 6
    assert same(model.embedding.optimizer_state(), states[1])
    assert not same(states[1], states[-1])


def test_fresh_tables_start_every_later_epoch_within_init_and_forget_the_moments(train, valid, monkeypatch) -> None:
    seen = []
    learn = Training.learn

    def watch(self, batch) -> float:
        if self.step in (0, len(train) // 128):
            table = self.model.embedding.scoring().tables["item"].codes.clone()
            seen.append((table, float(self.model.embedding.optimizer_state()["item"].sum())))
        return learn(self, batch)

    monkeypatch.setattr(Training, "learn", watch)
    fit(build(train), train, valid, changed(fresh_tables=True), seed=0)
    (first, moment), (second, later) = seen
    assert moment == later == 0
    assert second.abs().max() <= 0.05 and not torch.equal(first, second)


def test_stops_when_patience_runs_out(train: Shards, valid: Shards) -> None:
    history = fit(build(train), train, valid, changed(max_epochs=20, table_lr=0.5, lr=0.02, patience=2), seed=0)
    losses = [h["valid_logloss"] for h in history]
    assert len(losses) < 40
    best = losses.index(min(losses))
    assert len(losses) == best + 3, "exactly two looks after the best one"


def test_looks_are_equally_spaced(train: Shards, valid: Shards) -> None:
    steps = len(train) // 128
    history = fit(build(train), train, valid, changed(evals_per_epoch=3, patience=99), seed=0)
    assert [h["step"] for h in history] == [e * steps + round(steps * i / 3) for e in range(2) for i in (1, 2, 3)]


def test_batch_larger_than_the_split_is_one_step_an_epoch(train: Shards, valid: Shards) -> None:
    history = fit(build(train), train, valid, changed(batch_size=10**6), seed=0)
    assert [h["step"] for h in history] == [1, 2]


def test_tables_never_hold_a_dense_gradient_and_adam_never_holds_a_table(train: Shards) -> None:
    model = build(train)
    state = Training(model, QUICK, 10)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    state.learn(train.batch(slice(0, 128)))
    bags = {n: p for n, p in model.named_parameters() if n.startswith("embedding.bags.")}
    held = {id(p) for g in state.optimizers[0].param_groups for p in g["params"]}
    assert len(bags) == len(train.schema.sparse)
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name in bags) == (id(p) not in held), name
        assert not torch.equal(p, before[name]), f"{name} did not move"


def test_loss_is_the_weighted_mean_and_its_gradient_too(train: Shards) -> None:
    """Σ w·l / Σ w: a row of weight 2 is two rows, a row of weight 0 none."""
    logit_B = torch.randn(6, dtype=torch.float64, requires_grad=True)
    label_B = torch.tensor([0, 1, 1, 0, 0, 1.0], dtype=torch.float64)
    weight_B = torch.tensor([1, 2, 0, 1, 0, 3.0], dtype=torch.float64)
    found = torch.autograd.grad(cross_entropy(logit_B, label_B, weight_B), [logit_B])[0]
    times = weight_B.long()
    repeated = cross_entropy(logit_B.repeat_interleave(times), label_B.repeat_interleave(times), None)
    torch.testing.assert_close(found, torch.autograd.grad(repeated, [logit_B])[0], rtol=1e-5, atol=1e-7)
    assert cross_entropy(logit_B, label_B, torch.zeros(6)).item() == 0


@pytest.mark.parametrize("how", ["ones", "none"])
def test_equal_weights_train_as_none_do(train: Shards, valid: Shards, how: str) -> None:
    runs = []
    for weight in (None, 1.0 if how == "ones" else None):
        part = Shards(train.folder, "train")
        part.weight_B = None if weight is None else np.full(len(part), weight, np.float32)
        runs.append([h["valid_logloss"] for h in fit(build(train), part, valid, QUICK, seed=0)])
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-5)


def test_rows_without_weight_teach_nothing(train: Shards, valid: Shards) -> None:
    """Labels of the rows of weight 0 may be anything; validation counts by weight as well."""
    runs, keep = [], np.random.default_rng(0).random(len(train)) < 0.5
    for flip in (False, True):
        part, held = Shards(train.folder, "train"), Shards(valid.folder, "valid")
        part.weight_B = keep.astype(np.float32)
        part.label_BT = np.where(keep | (not flip), part.label_B, 1 - part.label_B).astype(np.float32)[:, None]
        held.weight_B = np.linspace(0, 1, len(held), dtype=np.float32)
        model = build(train)
        history = fit(model, part, held, QUICK, seed=0)
        p_B = np.clip(sigmoid(logits(model, held)), 1e-7, 1)
        loss_B = -np.where(held.label_B == 1, np.log(p_B), np.log1p(-p_B))
        assert min(h["valid_logloss"] for h in history) == pytest.approx(np.average(loss_B, weights=held.weight_B))
        runs.append(history)
    assert [h["valid_logloss"] for h in runs[0]] == [h["valid_logloss"] for h in runs[1]]


def test_table_l2_counts_a_row_of_weight_n_as_n_rows(train: Shards) -> None:
    """One step on rows of weight 0 to 2 leaves the tables that one on the repeated rows does: weight 0 decays none."""
    rows, weight = np.arange(128), np.random.default_rng(0).integers(0, 3, 128)
    tables = []
    for picked, weight_B in ((rows, torch.from_numpy(weight.astype(np.float32))), (rows.repeat(weight), None)):
        model, batch = build(train, dropout=0.0), train.batch(picked)
        model.dropout.p, batch.weight_B = 0.0, weight_B
        Training(model, changed(table_l2=0.5, warmup_steps=0), 10).learn(batch)
        tables.append(model.embedding.state_dict())
    for name, value in tables[0].items():
        torch.testing.assert_close(value, tables[1][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("decay", ["none", "linear"])
def test_rates_warm_up_then_stay_or_fall(train: Shards, decay: str) -> None:
    state = Training(build(train), changed(warmup_steps=4, decay=decay, max_epochs=2), steps_per_epoch=5)
    seen = []
    state.model.embedding.set_learning_rate = seen.append  # type: ignore[assignment]
    for step in range(10):
        state.step = step
        state.set_rates()
        want = min(1, (step + 1) / 4) * ((1 - step / 10) if decay == "linear" else 1)
        assert [g["lr"] for g in state.optimizers[0].param_groups] == pytest.approx([3e-3 * want] * 2)
        assert seen[-1] == pytest.approx(0.05 * want)


def test_first_dense_step_is_adam_at_the_warm_rate(train: Shards) -> None:
    """Adam's first step is lr·sign(gradient), whatever the gradient's size."""
    model = build(train)
    state = Training(model, changed(warmup_steps=10), 100)
    before = model.interaction.logit.weight.detach().clone()
    state.learn(train.batch(slice(0, 128)))
    weight = model.interaction.logit.weight
    step = (weight.detach() - before)[weight.grad != 0]  # a piece that no row reaches has no gradient
    assert len(step) > 0.9 * weight.numel()
    torch.testing.assert_close(step.abs(), torch.full_like(step, 3e-4), rtol=1e-2, atol=1e-7)


def test_weight_decay_touches_matrices_not_biases(train: Shards) -> None:
    decays = {}
    state = Training(build(train), changed(weight_decay=0.1), 10)
    for group in state.optimizers[0].param_groups:
        decays.update({p.ndim: group["weight_decay"] for p in group["params"]})
    assert decays == {1: 0.0, 2: 0.1}


def test_table_l2_pulls_the_looked_up_rows_towards_zero(train: Shards) -> None:
    """Its gradient in x_BW is the click's plus l2·x / B, on looked-up columns only."""
    batch = train.batch(slice(0, 128))
    found = {}
    for l2 in (0.0, 0.7):
        model = build(train, dropout=0.0)
        state = Training(model, changed(table_l2=l2), 10)
        kept = {}

        def keep(_module, _inputs, x_BW, kept=kept) -> None:
            x_BW.retain_grad()
            kept["x"] = x_BW

        model.embedding.register_forward_hook(keep)
        state.learn(batch)
        found[l2] = kept["x"]
    width = model.looked_up(found[0.0]).shape[1]
    difference = found[0.7].grad - found[0.0].grad
    torch.testing.assert_close(difference[:, :width], 0.7 / 128 * found[0.0].detach()[:, :width], rtol=1e-3, atol=1e-7)
    assert difference[:, width:].abs().max() == 0


def test_embedding_dropout_spares_the_numbers(train: Shards) -> None:
    model = CTR(train.schema, per_field(train.schema, 8), lambda widths: nn.Identity(), 0.5)
    x_BW = torch.ones(400, sum(model.widths))
    dropped = model.train().logits_of(x_BW)
    width = model.looked_up(x_BW).shape[1]
    assert (dropped[:, width:] == 1).all()
    share = float((dropped[:, :width] == 0).float().mean())
    assert abs(share - 0.5) < 0.02 and dropped.max() == 2
    assert torch.equal(model.eval().logits_of(x_BW), x_BW)


def test_logits_are_the_models_in_order_whatever_the_batch(train: Shards, valid: Shards) -> None:
    model = build(train)
    one = logits(model, valid, batch_size=10**6)
    np.testing.assert_allclose(logits(model, valid, batch_size=37), one, rtol=1e-4, atol=1e-6)
    assert one.shape == (len(valid),) and one.dtype == np.float32


def test_bf16_learns_as_fp32_does(train: Shards, valid: Shards) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        history = fit(build(train), train, valid, changed(precision=precision, max_epochs=1), seed=0)
        losses.append([h["valid_logloss"] for h in history])
    assert losses[0] != losses[1], "bf16 must really have run"
    np.testing.assert_allclose(losses[1], losses[0], atol=5e-3)


@pytest.mark.parametrize(("lr", "table_lr"), [(1e30, 0.05), (3e-3, 1e30)])
def test_divergence_is_a_clear_error(train: Shards, valid: Shards, lr: float, table_lr: float) -> None:
    how = changed(warmup_steps=1)
    for name, rate in (("lr", lr), ("table_lr", table_lr)):  # rates that no configuration may have, to be sure
        object.__setattr__(how, name, rate)
    with pytest.raises(DataError, match="diverged at step .* lower train.lr and train.table_lr"):
        fit(build(train), train, valid, how, seed=0)


def test_validation_of_one_label_is_a_clear_error(train: Shards, prepared: Path) -> None:
    clicks = Shards(prepared, "valid")
    clicks.label_BT = np.ones((len(clicks), 1), np.float32)
    with pytest.raises(DataError, match="expected both labels"):
        fit(build(train), train, clicks, QUICK, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("batch_size", "max_epochs", "evals_per_epoch", "patience")),
        {"precision": "fp16"},
        {"decay": "cosine"},
        {"embedding_dropout": 1.0},
        {"embedding_dropout": -0.1},
        {"lr": 0.0},
        {"table_lr": -1.0},
        {"lr": math.nan},
        {"weight_decay": -0.1},
        {"warmup_steps": -1},
        {"batch_size": "many"},
        {"embedding_dropout": "half"},
        {"lr": "fast"},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"train.{next(iter(wrong))}"):
        changed(**wrong)


def test_a_look_counts_weights_as_repeated_rows_and_compares_logits(train: Shards, valid: Shards) -> None:
    weighted = Shards(valid.folder, "valid")
    weighted.weight_B = np.random.default_rng(0).integers(0, 4, len(valid)).astype(np.float32)
    times = weighted.weight_B.astype(int)
    model = build(train)
    history = fit(model, train, weighted, changed(max_epochs=1, evals_per_epoch=1), seed=0)
    with torch.no_grad():
        logit_B = logits(model, valid)
    want = (auc(logit_B.repeat(times), valid.label_B.repeat(times)),
            logloss(sigmoid(logit_B).repeat(times), valid.label_B.repeat(times)))  # fmt: skip
    assert (history[0]["valid_auc"], history[0]["valid_logloss"]) == pytest.approx(want, rel=1e-9)
    model = build(train)
    model.logits_of = lambda x_BW, head=model.logits_of: head(x_BW) + 40  # probabilities of 1, all of them
    assert Fit(Training(model, QUICK, 1)).look(valid, 0.0) is False
    far = Fit(Training(model, QUICK, 1))
    far.look(valid, 0.0)
    assert far.history[0]["valid_auc"] == pytest.approx(auc(logits(model, valid), valid.label_B), abs=1e-12)
    assert far.history[0]["valid_auc"] != 0.5, "saturated probabilities tie, logits do not"

"""Several labels: from a table with two label columns to losses and figures of each."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score

from pipelines import evaluate as evaluate_stage
from pipelines import retrains
from pipelines.stage import Stage
from recsys.compression.contract import TrainingRows, compressor
from recsys.compression.heal import heal
from recsys.compression.svd import svd
from recsys.data.preparation.prepare import prepare
from recsys.data.ranks import Ranks
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.errors import ConfigError, DataError
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.heads.click import Click
from recsys.heads.several import Several
from recsys.models.dcn import DCN
from recsys.models.mlp import MLP
from recsys.selection.methods.permutation import permutation
from recsys.selection.methods.shark import shark
from recsys.selection.search import Search, gate_loss, train_gated
from recsys.training.config import TrainConfig
from recsys.training.device import CPU
from recsys.training.fit import fit, label_logits
from tests.configs import run_config
from tests.ranks import in_ranks

QUICK = TrainConfig(batch_size=128, max_epochs=2, table_lr=0.05, warmup_steps=0, evals_per_epoch=1, precision="fp32")


def with_buy(table: pa.Table, gaps: bool = True) -> pa.Table:
    """The small table with a second label that follows the price; a tenth of it was not observed."""
    r = np.random.default_rng(5)
    price = np.nan_to_num(np.asarray(table["price"].to_pylist(), np.float64), nan=1.0)
    buy = (r.random(len(price)) < 1 / (1 + price**0.5)).astype(float)
    if gaps:
        buy[r.random(len(buy)) < 0.1] = np.nan
    return table.append_column("buy", pa.array(buy, from_pandas=True))


@pytest.fixture(scope="module")
def folder(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import CONFIG

    config = {**CONFIG, "label": None, "labels": ["click", "buy"]}
    return prepare(config, lambda: with_buy(table), tmp_path_factory.mktemp("several"))


def test_labels_stand_side_by_side_and_may_be_missing_but_for_the_main_one(folder: Path, table: pa.Table) -> None:
    train = Shards(folder, "train")
    rows, want = len(train), with_buy(table)
    assert train.schema.labels == ["click", "buy"]
    np.testing.assert_array_equal(train.label_B, want["click"].to_numpy()[:rows])
    np.testing.assert_array_equal(train.label_BT[:, 1], want["buy"].to_numpy()[:rows])
    batch = train.batch(np.array([3, 1, 2]))
    np.testing.assert_array_equal(batch.label_BT.numpy(), train.label_BT[[3, 1, 2]])
    assert torch.equal(batch.label_B, batch.label_BT[:, 0])


def test_loss_is_the_weighted_mean_over_labels_of_their_means_over_observed_rows() -> None:
    r, nan = np.random.default_rng(0), float("nan")
    logit_BT = torch.from_numpy(r.normal(0, 3, (5, 3)).astype(np.float32))
    label_BT = torch.tensor([[1, nan, 0], [0, 1, nan], [1, 0, nan], [0, nan, nan], [1, 1, 1.0]])
    weight_B = torch.tensor([0.5, 2, 0, 1, 3])
    head = Several(["a", "b", "c"], weights=[1.0, 0.5, 2.0])
    for w_B in (None, weight_B):
        total = 0.0
        for t, a in enumerate((1.0, 0.5, 2.0)):
            above = below = 0.0
            for b in range(5):
                y, w = float(label_BT[b, t]), 1.0 if w_B is None else float(w_B[b])
                if y == y:
                    p = 1 / (1 + np.exp(-float(logit_BT[b, t])))
                    above, below = above - w * np.log(p if y else 1 - p), below + w
            total += a * above / below / 3.5
        assert float(head.loss(logit_BT, label_BT, w_B)) == pytest.approx(total, rel=1e-6)
    nobody = head.loss(logit_BT.requires_grad_(), torch.full((5, 3), nan), None)
    assert float(nobody.detach()) == 0 and not torch.autograd.grad(nobody, [logit_BT])[0].any()


def share_of_loss(ranks: Ranks, rows: list[slice]) -> tuple[float, torch.Tensor]:
    """This rank's part of the loss, and the gradient of it."""
    nan, mine = float("nan"), rows[ranks.rank]
    logit_BT = torch.linspace(-2, 2, 10).view(5, 2).requires_grad_()
    label_BT = torch.tensor([[1, nan], [0, nan], [1, 0], [0, 1], [1, 1]])
    head, weight_B = Several(["a", "b"], weights=[1.0, 0.5]), torch.tensor([0.5, 2, 1, 1, 3])
    loss = head.loss(logit_BT[mine], label_BT[mine], weight_B[mine])
    loss.backward()
    return float(loss.detach()), logit_BT.grad


def test_parts_of_the_loss_are_of_the_rows_of_all_processes() -> None:
    """The first process observes no second label: the mean over its own rows would not be that of all."""
    whole, grad_BT = share_of_loss(Ranks(), [slice(0, 5)])
    parts = in_ranks(2, share_of_loss, [slice(0, 2), slice(2, 5)])
    assert sum(loss for loss, _ in parts) / 2 == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(sum(grad for _, grad in parts) / 2, grad_BT)


def test_a_tower_is_a_small_network_over_what_all_labels_share() -> None:
    head = Several(["a", "b"], bottom=6, tower=(4,))
    y_BO = torch.randn(3, head.outputs)
    for t, tower in enumerate(head.towers):
        hidden = torch.relu(torch.relu(y_BO) @ tower[0].weight.T + tower[0].bias)
        torch.testing.assert_close(head(y_BO)[:, t], (hidden @ tower[2].weight.T + tower[2].bias)[:, 0])


def test_each_look_has_the_figures_of_each_label_and_the_main_one_decides(folder: Path) -> None:
    train, valid = Shards(folder, "train"), Shards(folder, "valid")
    torch.manual_seed(0)
    model = CTR(train.schema, per_field(train.schema, 8), partial(DCN, hidden=(16,)), head=Several)
    history = fit(model, train, valid, QUICK, 0)
    best = min(history, key=lambda h: h["valid_logloss"])
    logit_BT = label_logits(model, valid).astype(np.float64)
    for t, which in enumerate(("", ".buy")):
        label_B = valid.label_BT[:, t]
        seen_B = ~np.isnan(label_B)
        p_B = 1 / (1 + np.exp(-logit_BT[seen_B, t]))
        assert best[f"valid_auc{which}"] == pytest.approx(roc_auc_score(label_B[seen_B], p_B), abs=1e-6)
        assert best[f"valid_logloss{which}"] == pytest.approx(log_loss(label_B[seen_B], p_B), abs=1e-6)
    assert best["valid_auc.buy"] > 0.6, "the second label is learned too"


def test_selection_looks_at_the_main_label_alone(folder: Path) -> None:
    """The other label's tower gives 0 to every row: a method that read it would see no field matter."""
    train, valid = Shards(folder, "train"), Shards(folder, "valid")

    def build(schema: Schema) -> CTR:
        model = CTR(schema, per_field(schema, 4, init=0.3), partial(MLP, hidden=(8,), dropout=0.0), head=Several)
        for p in cast(Several, model.head).towers[1].parameters():
            p.data.zero_()
        return model

    torch.manual_seed(0)
    model, batch = build(train.schema), valid.batch(slice(0, 300))
    search = Search(model, train, valid, build, QUICK, 0, steps=3)
    want = log_loss(valid.label_B[:300], 1 / (1 + np.exp(-model(batch)[:, 0].double().numpy(force=True))))
    assert float(gate_loss(model, lambda x_BW: x_BW, batch, CPU).detach()) == pytest.approx(want, rel=1e-5)
    for scores in (shark(search), permutation(search)):
        assert all(scores.score[name] != 0 for name in train.schema.names)
    fresh = build(train.schema)
    list(train_gated(fresh, lambda x_BW, batch: (x_BW, torch.zeros(())), search))
    assert not any(p.any() for p in cast(Several, fresh.head).towers[1].parameters())


def test_healing_learns_from_training_rows_and_tells_each_labels_logloss(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid = Shards(folder, "train"), Shards(folder, "valid")
    torch.manual_seed(0)
    model = CTR(train.schema, per_field(train.schema, 4, init=0.3), partial(MLP, hidden=(8,)), head=Several)
    rows = TrainingRows(model, train, valid, 0)
    small, _ = compressor(partial(svd, rank=1))(model, rows)
    monkeypatch.setattr(valid, "shuffled", lambda *_, **__: pytest.fail("it learns from validation rows"))
    healed, reports = heal(small, rows, lr=1e-2, batch_size=128, looks=1)
    figures = []
    for t, name in enumerate(("", "of buy ")):
        seen_B = ~np.isnan(valid.label_BT[:, t])
        of = [1 / (1 + np.exp(-label_logits(m, valid)[seen_B, t].astype(np.float64))) for m in (small, healed)]
        before, after = (log_loss(valid.label_BT[seen_B, t], p_B) for p_B in of)
        figures.append(f"{name}{before:.5f} before, {after:.5f} after")
    assert {r.note for r in reports} == {f"healed: validation logloss {'; '.join(figures)}"}


def test_each_label_has_the_calibrator_of_its_own_predictions(folder: Path) -> None:
    valid, r = Shards(folder, "valid"), np.random.default_rng(0)
    logit_BT = 2 * np.nan_to_num(valid.label_BT) + r.normal([-3, 1], 1, valid.label_BT.shape)
    helped, curves = evaluate_stage._calibrators(logit_BT, valid)
    assert helped == ["", ".buy"]
    for t, curve in enumerate(curves):
        seen_B = ~np.isnan(valid.label_BT[:, t])
        p_B, y_B = 1 / (1 + np.exp(-logit_BT[seen_B, t])), valid.label_BT[seen_B, t]
        slow_B = IsotonicRegression().fit(p_B, y_B).predict(p_B)
        assert curve and np.abs(curve(p_B) - slow_B).mean() < 0.08


def test_a_retrain_keeps_the_main_labels_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logit_BT = np.random.default_rng(0).normal(0, 1, (5, 2))
    monkeypatch.setattr(retrains.train, "run", lambda stage: None)
    monkeypatch.setattr(retrains, "measure", lambda folder, stage: ({}, logit_BT + 9, logit_BT))
    retrains._train_and_measure(Stage(run_config(), tmp_path, {}), keep=True)
    np.testing.assert_allclose(np.load(tmp_path / "test_logits.npy"), logit_BT[:, 0], rtol=1e-6)


class OneLogit(torch.nn.Module):
    """A user's model that knows nothing of heads."""

    def __init__(self, widths):
        super().__init__()
        self.out = torch.nn.Linear(sum(widths), 1)

    def forward(self, x_BW):
        return self.out(x_BW).squeeze(1)


def test_a_model_of_one_logit_a_row_works_with_the_click_head_alone(folder: Path, train: Shards) -> None:
    model = CTR(train.schema, per_field(train.schema, 8), OneLogit)
    batch = train.batch(slice(0, 9))
    assert model(batch).shape == (9, 1) and model.loss(model(batch), batch).isfinite()
    schema = Shards(folder, "train").schema
    with pytest.raises(ConfigError, match="no parameter `outputs`"):
        CTR(schema, per_field(schema, 8), OneLogit, head=Several)
    assert CTR(schema, per_field(schema, 8), MLP, head=Several)(Shards(folder, "valid").batch(slice(0, 9))).shape == (
        9,
        2,
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Click(["click", "buy"]), "head=click takes one label, got click, buy"),
        (lambda: Several(["click"]), "head=several takes two or more labels, got click"),
        (lambda: Several(["click", "buy"], weights=[1.0]), r"one a label \(click, buy\), got \[1.0\]"),
    ],
)
def test_a_head_of_another_count_of_labels_is_refused(build, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["click", "absent"]}, "expected a column 'absent'"),
        ({"labels": ["buy", "click"], "label": "click"}, r"expected data.label \(click\) first"),
        ({"labels": ["click", "click"]}, "expected different columns"),
        ({"labels": []}, "expected different columns"),
        ({"labels": "buy", "label": None}, "expected different columns"),
        ({"labels": ["click", "age"]}, "data.fields.age: reads 'age', which is data.labels"),
        ({"labels": ["click", "far"]}, "label 'far': expected only 0 and 1"),
        ({"labels": ["buy", "click"], "label": None}, "label 'buy': expected 0 or 1 in every row"),
        ({"labels": ["click", "late"]}, r"label 'late': expected 0 and 1 in each split, train has \[0.0\]"),
    ],
)
def test_impossible_labels_are_one_line(config, table, tmp_path, change: dict[str, Any], message: str) -> None:
    rows = table.num_rows
    more = with_buy(table).append_column("far", pa.array([0, 5] * (rows // 2)))
    more = more.append_column("late", pa.array([int(i > 0.9 * rows) for i in range(rows)]))
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        prepare({**config, **change}, lambda: more, tmp_path)
    assert "\n" not in str(caught.value)

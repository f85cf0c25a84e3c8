"""A training that goes wrong says what did it: cells, rows of tables, weights, layers, ids, waits."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.batch import Batch
from recsys.data.ranks import Ranks
from recsys.data.shards import Shards
from recsys.embeddings.hashed import hashed
from recsys.embeddings.per_field import per_field
from recsys.embeddings.unified import unified
from recsys.errors import DataError
from recsys.events import Reporters
from recsys.frame.ctr import CTR
from recsys.models.fm import FM
from recsys.models.mlp import MLP
from recsys.training.fit import Fit, fit
from recsys.training.guards import DIVERGED, NotFinite
from recsys.training.ids import check_ids
from recsys.training.loop import Loss, Training
from recsys.training.stalls import watch_stalls
from recsys.training.state import dense_state
from tests.ranks import in_ranks
from tests.unit.test_train import QUICK, build, changed, same


def with_cell(prepared: Path, array: str, row: int, column: int, value: float) -> Shards:
    """The training rows with one cell changed, in memory."""
    shards = Shards(prepared, "train")
    cells = getattr(shards, array)
    cells[row, column] = value
    return shards


def stopped(model: CTR, train: Shards, valid: Shards, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """What a user is told, and the batch that is saved."""
    with pytest.raises(DataError) as told:
        fit(model, train, valid, QUICK, seed=0, checkpoint=folder / "resume.pt")
    return str(told.value), dict(np.load(folder / DIVERGED))


def test_a_cell_of_infinity_is_named_with_its_row_and_the_batch_is_saved(prepared, valid, tmp_path) -> None:
    column = Shards(prepared, "train").schema.float_columns["price"].start
    train = with_cell(prepared, "_dense", 1234, column, math.inf)
    text, saved = stopped(build(train), train, valid, tmp_path)
    assert "the loss is" in text and "field 'price' holds inf" in text and "row 1,234 of the training rows" in text
    row = int(saved["row"])
    assert f"row {row} of the batch" in text and str(tmp_path / DIVERGED) in text
    assert saved["dense"][row, list(saved["dense_columns"]).index("price")] == math.inf
    assert int(saved["training_row"]) == 1234 and f"diverged at step {saved['step']}:" in text
    np.testing.assert_array_equal(saved["ids"][row], train.batch(slice(1234, 1235)).ids_BL[0])
    assert len(saved["ids_columns"]) == saved["ids"].shape[1] and saved["label"].shape == (len(saved["ids"]), 1)


def test_a_huge_cell_names_the_layer_and_the_field(prepared, valid, tmp_path) -> None:
    train = with_cell(prepared, "_dense", 77, 0, 3e38)
    name = train.schema.numeric[0].name
    model = build(train)
    with torch.no_grad():
        for p in model.interaction.parameters():
            p.mul_(100)
    text, _ = stopped(model, train, valid, tmp_path)
    assert "layer interaction" in text and f"3e+38, of field {name!r}" in text and "row 77 of the training" in text


@pytest.mark.parametrize("scheme", [per_field, unified, hashed])
def test_a_row_of_a_table_is_named_by_field_and_id(train, valid, tmp_path, scheme) -> None:
    model = build(train, scheme=scheme)
    id = int(train.ids("item")[5, 0])
    lookup = next(k for k in model.routed().lookups if k.field == "item")
    table = next(h for h in model.routed().held() if h.table == lookup.table)
    read = model.routed().route(train.batch(slice(5, 6)))
    row = int(read[model.routed().keys[model.routed().lookups.index(lookup)][0]].values()[0])
    table.weight_RD[row] = math.nan
    text, saved = stopped(model, train, valid, tmp_path)
    assert f"row {row:,} of table {table.table!r}, which id " in text and "is not finite" in text
    if scheme is per_field:
        assert f"field 'item': row {id} of table 'item', which id {id} reads" in text
    assert math.isnan(saved["loss"])


def test_weights_that_are_not_finite_are_named(train, valid, tmp_path) -> None:
    model = build(train)
    name, weight = next((n, p) for n, p in model.interaction.named_parameters() if p.ndim == 2)
    with torch.no_grad():
        weight[0, 0] = math.nan
    text, _ = stopped(model, train, valid, tmp_path)
    assert f"the weights interaction.{name} are not finite" in text and "lower train.lr" in text


def test_the_step_that_is_refused_changes_no_weight(prepared, train) -> None:
    model = build(train)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    bad = with_cell(prepared, "_dense", 0, 0, math.nan).batch(slice(0, 64))
    with pytest.raises(NotFinite):
        Training(model.train(), QUICK, 10).learn(bad)
    assert same(before, model.state_dict())


def flat(logit_BT: torch.Tensor, batch: Batch) -> torch.Tensor:
    """A finite loss: its root of 0 has the slope ∞, and ∞·0 is NaN."""
    return batch.label_B.mean() + (logit_BT - logit_BT.detach()).square().sum().sqrt()


@pytest.mark.parametrize("kind", [MLP, FM], ids=["biases", "none"])
def test_a_gradient_that_is_not_finite_stops_the_same_step(train, valid, tmp_path, kind) -> None:
    torch.manual_seed(0)
    model = CTR(train.schema, per_field(train.schema, 8), kind)
    before = {n: t.clone() for n, t in dense_state(model).items()}
    with pytest.raises(DataError, match="diverged at step 1: the loss is 0.*, its gradient is not finite: all layers"):
        fit(model, train, valid, QUICK, 0, tmp_path / "checkpoints", loss=flat)
    assert same(before, dense_state(model)) and len(before) > 0
    assert np.load(tmp_path / DIVERGED)["step"] == 1 and not list((tmp_path / "checkpoints").glob("step*"))


def _told(ranks: Ranks, train: Shards, folder: Path, loss: Loss | None = None) -> str:
    """What a rank raises."""
    training = Training(build(train), QUICK, 10, loss=loss)
    training.folder = folder
    try:
        return f"no error after {len(list(training.steps(train, 0)))} steps"
    except DataError as error:
        return str(error)


def test_all_ranks_stop_with_the_reason_of_the_rank_that_diverged(prepared, tmp_path) -> None:
    train = with_cell(prepared, "_dense", 1234, 0, math.inf)
    one, other = in_ranks(2, _told, train, tmp_path)
    assert one == other and one.startswith("rank ") and "row 1,234 of the training rows" in one
    rank = int(one[5])
    (file,) = tmp_path.glob("*.npz")
    assert file.name == ("diverged-1.npz" if rank else DIVERGED) and str(file) in one


def test_all_ranks_stop_at_a_gradient_that_is_not_finite(train, tmp_path) -> None:
    one, other = in_ranks(2, _told, train, tmp_path, flat)
    assert one == other and one.startswith("rank 0: training diverged at step 1: ") and "its gradient is not" in one


def test_a_validation_row_that_is_not_finite_is_named(train, prepared) -> None:
    valid = Shards(prepared, "valid")
    valid._dense[9, 0] = math.inf
    with pytest.raises(DataError, match=r"validation row 9 is .*field '\w+' holds inf"):
        Fit(Training(build(train), QUICK, 1)).look(valid, 0.0)


def test_ids_out_of_range_are_counted_and_named_before_training(prepared, valid) -> None:
    train = Shards(prepared, "train")
    columns, most = train.schema.id_columns["item"], train.schema["item"].cardinality
    train._ids[[40, 900], columns.start] = [most, most + 7]
    train._ids[3, train.schema.id_columns["tags"].start] = -2
    with pytest.raises(DataError) as told:
        fit(build(train), train, valid, QUICK, seed=0)
    text = str(told.value)
    assert "field 'item' has 2 of them (ids" in text and f"to {most + 7}, expected −1 to {most - 1}" in text
    assert "first in row 40)" in text and "field 'tags' has 1 of them (ids -2 to" in text and text.startswith("train:")
    with pytest.raises(DataError, match="valid: ids out of range"):
        fit(build(valid), valid, train, QUICK, seed=0)


class Wrapped:
    """A `Split` of a user's own: shards that say nothing of their files."""

    def __init__(self, shards: Shards, sleep: float = 0.0):
        self._shards, self._sleep = shards, sleep

    def __getattr__(self, name: str) -> object:
        return getattr(self._shards, name)

    def __len__(self) -> int:
        return len(self._shards)

    def shuffled(self, size: int, seed: int | list[int], *which: Any) -> Iterator[Batch]:
        for i, batch in enumerate(self._shards.shuffled(size, seed, *which)):
            if i == 2:
                time.sleep(self._sleep)
            yield batch


def test_ids_of_a_users_own_split_are_checked_too(prepared) -> None:
    train = Shards(prepared, "train")
    check_ids(Wrapped(train), "train")
    train._ids[11, 0] = 10**6
    with pytest.raises(DataError, match=r"1 of them \(ids .* to 1,000,000, .*first in row 11\)"):
        check_ids(Wrapped(train), "train")


def test_a_loader_that_stalls_is_named_and_training_goes_on(train, valid) -> None:
    class Notes(Reporters):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    how = changed(stall_seconds=0.2, max_epochs=1, evals_per_epoch=1)
    slow = build(train)
    history = fit(slow, Wrapped(train, sleep=0.5), valid, how, seed=0, reporter=Notes())
    (told, *_) = [n for n in notes if "step 3 waits" in n]  # on a busy machine other steps are slow as well
    assert told.startswith("no step since ") and "waits in reading a batch (test_guards.py:" in told
    assert told.endswith(" shuffled)") and any(n.startswith("training goes on after") for n in notes)
    model = build(train)
    assert fit(model, train, valid, how, seed=0) == history and same(model.state_dict(), slow.state_dict())


class AtWork:
    """A training that has not come far."""

    step, part = 0, "forward"


def stalled(_: Ranks) -> list[str]:
    """What the reporter of a training that stalls gets."""
    notes = list[str]()
    list(watch_stalls((time.sleep(0.5) for _ in range(1)), AtWork(), 0.1, notes.append))
    return notes


def test_each_rank_says_where_it_is_stalled_and_only_the_first_reports_it(capfd) -> None:
    first, other = in_ranks(2, stalled)
    assert first[0].startswith("rank 0 of 2: no step since ") and "step 1 waits in forward" in first[0]
    said = capfd.readouterr().err
    assert not other and "rank 1 of 2: no step since " in said and "rank 0 of 2" not in said


def test_the_measure_of_a_step_is_the_formulas_and_changes_nothing(train) -> None:
    batches = [train.batch(slice(64 * i, 64 * i + 64)) for i in range(3)]
    states, figures = [], {}
    for looks in (frozenset[int](), frozenset({3})):
        model = build(train)
        training = Training(model.train(), QUICK, 3)
        training.looks = looks
        for batch in batches:
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            tables = {h.table: h.weight_RD.clone() for h in model.routed().held()}
            training.learn(batch)
        states.append(model.state_dict())
        figures = training.figures
    assert same(*states)
    dense = {n: p for n, p in model.named_parameters() if not n.startswith("embedding.")}
    flat = torch.cat([p.grad.flatten() for p in dense.values()]).double()
    was = torch.cat([before[n].flatten() for n in dense]).double()
    now = torch.cat([p.detach().flatten() for p in dense.values()]).double()
    assert figures["grad_norm"] == pytest.approx(float(flat.norm()), rel=1e-6)
    assert figures["update_ratio"] == pytest.approx(float((now - was).norm() / was.norm()), rel=1e-6)
    touched = [_touched(train, batches[-1], h.table, tables[h.table], h.weight_RD) for h in model.routed().held()]
    old, new = (torch.cat([t[i].flatten() for t in touched]).double() for i in (0, 1))
    assert figures["table_update_ratio"] == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-6)
    assert torch.equal(torch.cat([t[2] for t in touched]), torch.zeros(0))


def _touched(train, batch, table, before_RD, now_RD):
    """Rows that a batch reads before and after a step; then the others that have changed, none."""
    columns = train.schema.id_columns[table]
    ids = batch.ids_BL[:, columns.start : columns.stop].unique()
    ids = ids[ids >= 0]
    others = torch.ones(len(now_RD), dtype=torch.bool)
    others[ids] = False
    changed_R = (before_RD != now_RD).any(1) & others
    return before_RD[ids], now_RD[ids], torch.zeros(int(changed_R.sum()))


def test_history_holds_the_measure_of_each_look(train, valid) -> None:
    history = fit(build(train), train, valid, QUICK, seed=0)
    for seen in history:
        assert seen["grad_norm"] > 0 and 1e-6 < seen["update_ratio"] < 1 and 1e-6 < seen["table_update_ratio"] < 10
    assert len({seen["grad_norm"] for seen in history}) == len(history)

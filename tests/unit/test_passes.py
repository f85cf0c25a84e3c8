"""A training without looks at validation has the guards and the checkpoints of one with looks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.shards import Shards
from recsys.errors import Cancelled, DataError
from recsys.events import Reporters
from recsys.selection.search import Search, train_gated
from recsys.training.guards import DIVERGED
from recsys.training.loop import Training, seed_everything
from recsys.training.passes import train_for
from tests.unit.test_guards import Wrapped, with_cell
from tests.unit.test_train import build, changed, same

HOW = changed(max_epochs=1, evals_per_epoch=2)


class Watch(Reporters):
    """Notes what it is told, and stops a training after some steps."""

    def __init__(self, stop: float = math.inf):
        super().__init__()
        self.notes, self.done, self._stop = list[str](), list[tuple[int, int, str]](), stop

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        self.done.append((done, total, unit))

    def cancelled(self) -> bool:
        return len(self.done) >= self._stop


def search(train: Any, valid: Shards, watch: Watch, **settings: Any) -> Search:
    return Search(build(train), train, valid, lambda schema: build(train), changed(**settings), 0, 4, reporter=watch)


def as_they_are(x_BW: torch.Tensor, batch: object) -> tuple[torch.Tensor, torch.Tensor]:
    return x_BW, torch.zeros(())


def test_it_is_the_loop_and_a_stopped_one_goes_on_from_its_last_step(train: Shards, tmp_path: Path) -> None:
    steps, per_epoch, watch = 17, len(train) // 128, Watch()
    loop = build(train)
    seed_everything(4)
    for _ in Training(loop, HOW, per_epoch).steps(train, 4, steps):
        pass
    whole, file = build(train), tmp_path / "checkpoints"
    train_for(whole, train, HOW, 4, tmp_path, steps, reporter=watch)
    assert same(whole.state_dict(), loop.state_dict()) and not whole.training and not file.exists()
    assert watch.done == [(128 * (i + 1), 128 * steps, "rows") for i in range(steps)]
    half = round(per_epoch / 2)
    with pytest.raises(Cancelled):
        train_for(build(train), train, HOW, 4, tmp_path, steps, file, reporter=Watch(half + 2))
    assert [p.name for p in file.iterdir()] == [f"step-{half + 2:012d}"]
    resumed, watch = build(train, seed=9), Watch()
    train_for(resumed, train, HOW, 4, tmp_path, steps, file, reporter=watch)
    assert same(resumed.state_dict(), whole.state_dict()) and watch.done[0][0] == 128 * (half + 3)
    with pytest.raises(DataError, match="seed was 4 there and is 5 now"):
        train_for(build(train), train, HOW, 5, tmp_path, steps, file)


def test_a_batch_that_diverges_is_saved(prepared: Path, tmp_path: Path) -> None:
    rows = with_cell(prepared, "_dense", 1234, Shards(prepared, "train").schema.float_columns["price"].start, math.inf)
    with pytest.raises(DataError, match=r"field 'price' holds inf.*row 1,234 of the training rows"):
        train_for(build(rows), rows, HOW, 0, tmp_path)
    assert int(np.load(tmp_path / DIVERGED)["training_row"]) == 1234


def test_ids_out_of_range_are_named_before_a_step(prepared: Path, valid: Shards, tmp_path: Path) -> None:
    """FBGEMM would write outside of its tables."""
    rows = Shards(prepared, "train")
    model, wanted = build(rows), search(rows, valid, Watch())
    rows._ids[40, rows.schema.id_columns["item"].start] = 10**6
    with pytest.raises(DataError, match="training rows: ids out of range: field 'item' has 1 of them"):
        train_for(model, rows, HOW, 0, tmp_path)
    with pytest.raises(DataError, match="train: ids out of range: field 'item' has 1 of them"):
        list(train_gated(model, as_they_are, wanted))


def test_what_stalls_is_named(train: Shards, valid: Shards, tmp_path: Path) -> None:
    slow = Wrapped(train, sleep=0.5)
    of_passes, of_search = Watch(), Watch()
    train_for(build(train), slow, changed(stall_seconds=0.2), 0, tmp_path, 4, reporter=of_passes)
    list(train_gated(build(train), as_they_are, search(slow, valid, of_search, stall_seconds=0.2)))
    for watch in (of_passes, of_search):
        assert any("step 3 waits in reading a batch (test_guards.py:" in n for n in watch.notes), watch.notes

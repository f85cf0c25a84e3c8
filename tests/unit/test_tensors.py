"""Folders of plain tensors: any ranges of rows in, any ranges out, whole or a clear error."""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from recsys.data.ranks import Ranks
from recsys.embeddings.per_field import per_field
from recsys.errors import ConfigError, DataError
from recsys.frame.contracts import TableRows
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.training.config import TrainConfig
from recsys.training.fit import fit
from recsys.training.saving import Checkpoints, Snapshot
from recsys.training.tensors import write
from recsys.training.tensors.read import TensorFolder
from tests.ranks import in_ranks

ALONE = Ranks()


def rows(table: str = "item", total: int = 100, dim: int = 4, state: str = "row", start: int = 0, stop: int = 100):
    """Rows of a table whose every number is another one."""
    weight_RD = torch.arange(total * dim, dtype=torch.float32).view(total, dim) / 7
    states = {"row": weight_RD.sum(1), "element": weight_RD * 3, "": None}
    held = states[state]
    return TableRows(table, start, total, weight_RD[start:stop], None if held is None else held[start:stop])


def empty(like: TableRows) -> TableRows:
    state = None if like.state is None else torch.full_like(like.state, -1)
    return replace(like, weight_RD=torch.full_like(like.weight_RD, -1), state=state)


def equal(a: TableRows, b: TableRows) -> bool:
    assert (a.state is None) == (b.state is None)
    return torch.equal(a.weight_RD, b.weight_RD) and (a.state is None or torch.equal(a.state, b.state))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part has 7 rows of 4 numbers with row state, a file two parts."""
    monkeypatch.setattr(write, "_PART_BYTES", 7 * 20)
    monkeypatch.setattr(write.write_contents, "__defaults__", (2 * 7 * 20,))


def saved(folder: Path, held: Sequence[TableRows], rest: dict[str, object] | None = None, step: int = 1) -> Path:
    with Checkpoints(folder, 1, ALONE) as checkpoints:
        checkpoints.save(Snapshot.of(held, rest or {}), step, step)
        return checkpoints.place(step)


@pytest.mark.parametrize("state", ["row", "element", ""])
def test_any_range_is_read_from_any_ranges(tmp_path: Path, small_parts: None, state: str) -> None:
    whole = rows(state=state)
    ways = [[(0, 100)], [(0, 37), (37, 38), (38, 100)], [(10 * i, 10 * i + 10) for i in range(10)]]
    for number, way in enumerate(ways):
        place = saved(tmp_path, [rows(state=state, start=a, stop=b) for a, b in way], step=number + 1)
        files = [p for p in (place / "tables").iterdir()]
        assert len(files) > 5 and max(p.stat().st_size for p in files) < 2000
        for a, b in [(0, 100), (0, 1), (99, 100), (6, 8), (36, 51), (50, 50)]:
            want = rows(state=state, start=a, stop=b)
            held = empty(want)
            source = TensorFolder(place, "mend")
            source.read_rows([held])
            assert equal(held, want)
            overlapping = {p for p in source.manifest.parts if p.start < b and p.stop > a}
            assert source._checked == (overlapping if a < b else set()), "only what is needed is read"
    assert equal(whole, rows(state=state))


def test_numpy_reads_it_and_everything_else_comes_back_as_it_was(tmp_path: Path) -> None:
    rest = {  # every kind of value
        "step": 3, "best": float("inf"), "names": ["a", None, True], "shape": (2, [3, ()]), "by number": {0: {}},
        "(odd)": {"half": torch.ones(3, dtype=torch.bfloat16), "": torch.zeros(0, 2)}, "scalar": torch.tensor(2.5),
        "flag": torch.tensor([True, False, True]), "wide": torch.arange(5, dtype=torch.float64), "a/b": torch.ones(1),
        "a": {"b": torch.zeros(2, dtype=torch.uint8)}, "view": torch.arange(12.0).view(3, 4).T,
    }  # fmt: skip
    place = saved(tmp_path, [rows(), rows("x:0", 3, stop=3), rows("none", 0, stop=0)], rest)
    tables = load_file(place / "tables" / "0.0.safetensors")
    assert (tables["item:0:weight"] == rows().weight_RD.numpy()).all() and "x:0:0:state" in tables

    def check(a: object, b: object) -> None:
        assert type(a) is type(b)
        match a, b:
            case Tensor(), Tensor():
                assert a.dtype == b.dtype and torch.equal(a, b)
            case dict(), dict():
                assert list(a) == list(b)
                [check(a[k], b[k]) for k in a]
            case list() | tuple(), list() | tuple():
                assert len(a) == len(b)
                [check(x, y) for x, y in zip(a, b, strict=True)]
            case _:
                assert a == b

    check(TensorFolder(place, "mend").rest(), rest)
    listed = json.loads((place / "manifest.json").read_text())
    assert {k: listed[k] for k in ("version", "world")} == {"version": 1, "world": 1}
    assert listed["tables"]["item"] == {"rows": 100, "dim": 4, "dtype": "F32", "state": "row F32"}
    with pytest.raises(ConfigError, match="cannot save x/y: expected tensors, numbers and texts, got a object"):
        Snapshot.of([], {"x": {"y": object()}})


@pytest.mark.parametrize(
    "change", [{"dim": 2}, {"dim": 10**18}, {"dtype": "F16"}, {"dtype": "Q99"}, {"state": "row F64"}]
)
def test_a_manifest_that_contradicts_its_tensors_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = saved(tmp_path, [rows()])
    path = folder / "manifest.json"
    text = json.loads(path.read_text())
    name = sorted(text["tables"])[0]
    text["tables"][name] |= change
    path.write_text(json.dumps(text))
    with pytest.raises(DataError, match="expected .* of dtype and shape"):
        TensorFolder(folder, "mend").verify()


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = saved(tmp_path, [rows()])
    file = next((folder / "tables").iterdir())
    path = folder / "manifest.json"
    text = json.loads(path.read_text())
    text["files"][f"tables/{file.name}"] = 0
    path.write_text(json.dumps(text))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="expected a regular file"):
        TensorFolder(folder, "mend").verify()


def test_a_table_of_another_size_or_state_is_refused(tmp_path: Path) -> None:
    place = saved(tmp_path, [rows()])
    for other in (rows(dim=8), rows(total=99, stop=99), rows(state="element"), rows(state=""), rows("absent")):
        with pytest.raises(DataError, match=f"expected table '{other.table}' as SavedTable.*, got .*: mend"):
            TensorFolder(place, "mend").read_rows([other])


@pytest.mark.parametrize("way", [[(0, 60), (50, 100)], [(0, 40), (41, 100)], [(0, 99)], [(1, 100)]])
def test_rows_that_are_held_twice_or_by_nobody_are_refused(tmp_path: Path, way: list[tuple[int, int]]) -> None:
    twice = sum(b - a for a, b in way) > 100
    reason = "row-wise Adagrad.*another optimiser: split tables by rows" if twice else r"row \d+ is not"
    with pytest.raises(ConfigError, match=f"(?i){reason}"):
        saved(tmp_path, [rows(start=a, stop=b) for a, b in way])
    assert list(tmp_path.iterdir()) == []


def test_columns_apart_are_refused_with_the_reason(tmp_path: Path) -> None:
    halves = [replace(rows(), weight_RD=rows().weight_RD[:, :2]), replace(rows(), weight_RD=rows().weight_RD[:, 2:])]
    with pytest.raises(ConfigError, match="got it in columns or twice. Row-wise Adagrad"):
        saved(tmp_path, halves)


def test_a_split_that_cannot_be_saved_is_refused_before_the_first_step(
    train, valid, tmp_path: Path, monkeypatch
) -> None:
    model = CTR(train.schema, per_field(train.schema, 8), MLP)
    held, steps = model.trainable().held(), []
    monkeypatch.setattr("recsys.training.loop.Training.learn", lambda *_: steps.append(1))
    twice, nowhere = [*held, held[1]], [replace(held[0], saved=False), *held[1:]]
    for wrong, said in ((twice, "columns or twice"), (nowhere, "row 0 is not")):
        monkeypatch.setattr(model.embedding, "held", lambda wrong=wrong: wrong)
        with pytest.raises(ConfigError, match=said):
            fit(model, train, valid, TrainConfig(), 0, tmp_path / "checkpoints")
    assert not steps and not list(tmp_path.iterdir())


def test_the_best_and_the_last_are_kept_and_dead_ones_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-000000000001.abc.unfinished" / "tables").mkdir(parents=True)
    with Checkpoints(tmp_path, 2, ALONE) as checkpoints:
        assert list(tmp_path.iterdir()) == []
        for step in range(1, 7):
            checkpoints.save(Snapshot.of([rows()], {"step": step}), step, best=2 if step > 1 else 1)
    assert Checkpoints(tmp_path, 2, ALONE).steps() == [2, 5, 6]
    assert [TensorFolder(p, "").rest()["step"] for p in sorted(tmp_path.iterdir())] == [2, 5, 6]


@pytest.mark.parametrize("copied", [True, False])
def test_what_training_changes_after_a_save_is_not_in_it(tmp_path: Path, monkeypatch, copied: bool) -> None:
    """Either it was copied, or written before `save` returned."""
    if not copied:
        monkeypatch.setattr("recsys.training.saving.COPY_BYTES", 0)
    held, dense = rows(), torch.ones(1000)
    with Checkpoints(tmp_path, 1, ALONE) as checkpoints:
        checkpoints.save(Snapshot.of([held], {"dense": dense}), 1, 1)
        held.weight_RD.zero_()
        dense.zero_()
    read = empty(rows())
    source = TensorFolder(checkpoints.place(1), "")
    source.read_rows([read])
    assert equal(read, rows()) and source.rest()["dense"].sum() == 1000


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch, number: int, copied: bool) -> None:
    """The write that fails is that of a table, of the dense part or of the manifest; the next save says so."""
    if not copied:
        monkeypatch.setattr("recsys.training.saving.COPY_BYTES", 0)
    saved(tmp_path, [rows()], {"x": torch.ones(5)})
    left, real = number, write._write_tensor

    def refuse(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    target = "recsys.training.saving.write_manifest" if number == 5 else "recsys.training.tensors.write._write_tensor"
    left = 0 if number == 5 else number
    with pytest.raises(OSError, match="No space left") as caught, Checkpoints(tmp_path, 1, ALONE) as checkpoints:
        with patch(target, refuse):
            checkpoints.save(Snapshot.of([rows()], {"x": torch.ones(5)}), 2, 2)
            checkpoints._writer.stop()
        checkpoints.save(Snapshot.of([rows()], {}), 3, 3)
    assert number == 5 or ".safetensors" in caught.value.filename
    assert [p.name for p in tmp_path.iterdir()] == [checkpoints.place(1).name]
    TensorFolder(checkpoints.place(1), "").verify()


def _save_half(ranks: Ranks, folder: Path, failing: int) -> str:
    """Save half of the rows of a table, and read the other half; one rank's disk may be full → what it says then."""
    rank, said = ranks.rank, ""
    a, b = (0, 55) if rank == 0 else (55, 100)
    held = [rows(start=a, stop=b), replace(rows("both", 9, stop=9), saved=rank == 1)]
    with Checkpoints(folder, 1, ranks) as checkpoints:
        checkpoints.save(Snapshot.of(held, {"rank": rank}), 1, 1)
        checkpoints.wait()
        want = rows(start=20, stop=60) if rank == 1 else rows(start=50, stop=100)
        read = [empty(want), empty(rows("both", 9, stop=9))]
        TensorFolder(checkpoints.place(1), "").read_rows(read)
        assert equal(read[0], want) and equal(read[1], rows("both", 9, stop=9))
        if rank == failing:
            patch.object(write, "_write_tensor", side_effect=OSError(errno.ENOSPC, "full")).start()
        checkpoints.save(Snapshot.of(held, {"rank": rank}), 2, 2)
        try:
            checkpoints.wait()
        except (OSError, DataError) as error:
            said = str(error)
    return said


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_two_processes_write_one_checkpoint(tmp_path: Path, failing: int) -> None:
    """Or none of them, if one cannot; then the other says which."""
    said = in_ranks(2, _save_half, tmp_path, failing)
    assert sorted(p.name for p in tmp_path.glob("step*")) == [f"step-00000000000{2 if failing == 2 else 1}"]
    listed = TensorFolder(next(tmp_path.glob("step*")), "")
    listed.verify()
    assert listed.manifest.world == 2 and listed.rest() == {"rank": 0}
    assert {p.file for p in listed.manifest.parts if p.table == "both"} == {"tables/1.0.safetensors"}
    assert all(said) == (failing < 2) and any(said) == (failing < 2) and not list(tmp_path.glob(".*.unfinished"))
    if failing < 2:
        assert "full" in said[failing] and f"rank {failing}" in said[1 - failing]
    if failing == 1:
        assert "full" in said[0], "rank 0, which tells the user, says why"


def test_a_part_changes_no_byte_of_a_random_table(tmp_path: Path, small_parts: None) -> None:
    r = np.random.default_rng(0)
    for number in range(20):
        total, dim = int(r.integers(1, 200)), int(r.integers(1, 9))
        cuts = sorted({0, total, *r.integers(0, total + 1, 3).tolist()})
        whole = rows(total=total, dim=dim, stop=total)
        held = [rows(total=total, dim=dim, start=a, stop=b) for a, b in pairwise(cuts)]
        read = empty(whole)
        TensorFolder(saved(tmp_path, held, step=number + 1), "").read_rows([read])
        assert equal(read, whole)

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.batch import to_jagged
from recsys.data.shards import Shards
from recsys.errors import DataError
from tests.sequences import event_schema


def test_missing_split_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run stages=\[prepare\]"):
        Shards(tmp_path, "train")


def test_reading_in_order_copies_nothing(train: Shards) -> None:
    """Ids are cast to int64, which needs a copy; the arrays that are not cast share the map's memory."""
    batch = next(train.batches(256))
    assert np.shares_memory(batch.dense_BN.numpy(), train._dense)
    assert np.shares_memory(batch.label_B.numpy(), train.label_B)
    assert np.shares_memory(train._ids[:256], train._ids) and isinstance(train._ids, np.memmap)
    assert train._ids.flags.c_contiguous and train._dense.flags.c_contiguous


def test_writing_into_a_batch_does_not_reach_the_disk(prepared: Path, train: Shards) -> None:
    before = (prepared / "train" / "dense.npy").read_bytes()
    Shards(prepared, "train").batch(slice(0, 4)).dense_BN.fill_(7)
    assert (prepared / "train" / "dense.npy").read_bytes() == before


def test_batches_in_order_hold_every_row(prepared: Path, train: Shards) -> None:
    batches = list(train.batches(100))
    assert [len(b) for b in batches] == [100] * (len(train) // 100) + [len(train) % 100] * (len(train) % 100 > 0)
    for part, name in (("ids_BL", "ids"), ("dense_BN", "dense"), ("label_B", "label")):
        joined = torch.cat([getattr(b, part) for b in batches]).numpy()
        np.testing.assert_array_equal(joined, np.load(prepared / "train" / f"{name}.npy"))


def rows_of(shards: Shards, **how: object) -> list[list[int]]:
    """Which rows each shuffled batch holds, through a label that is the row's number."""
    shards.label_BT = np.arange(len(shards), dtype=np.float32)[:, None]
    return [b.label_B.int().tolist() for b in shards.shuffled(**how)]  # type: ignore[arg-type]


def test_shuffled_covers_every_row_once_but_a_short_tail(prepared: Path) -> None:
    shards = Shards(prepared, "valid")
    seen = [r for b in rows_of(shards, size=64, seed=1) for r in b]
    assert len(set(seen)) == len(seen) == len(shards) // 64 * 64
    assert seen != sorted(seen)
    (whole,) = rows_of(shards, size=len(shards) + 9, seed=1)
    assert sorted(whole) == list(range(len(shards)))


def test_shuffle_is_the_seeds_and_skip_goes_on(prepared: Path) -> None:
    shards = Shards(prepared, "valid")
    whole = rows_of(shards, size=50, seed=[1, 2])
    assert rows_of(shards, size=50, seed=[1, 2]) == whole
    assert rows_of(shards, size=50, seed=[1, 3]) != whole
    assert rows_of(shards, size=50, seed=[1, 2], skip=3) == whole[3:]


def test_subset_reads_the_same_columns_by_name(train: Shards) -> None:
    part = Shards(train.folder, "train", train.schema.subset(["score", "tags", "item"]))
    few, all_ = part.batch(slice(5, 90)), train.batch(slice(5, 90))
    assert few.ids.keys() == ["item", "tags"]
    for key in ("item", "tags"):
        torch.testing.assert_close(few.ids[key].values(), all_.ids[key].values(), rtol=0, atol=0)
        torch.testing.assert_close(few.ids[key].lengths(), all_.ids[key].lengths(), rtol=0, atol=0)
    columns = [c for f in all_.ids.keys() for c in [f] * (3 if f == "tags" else 1)]  # noqa: SIM118
    torch.testing.assert_close(few.ids_BL, all_.ids_BL[:, [i for i, c in enumerate(columns) if c in ("item", "tags")]])
    torch.testing.assert_close(few.dense_BN, all_.dense_BN[:, list(train.schema.float_columns["score"])])


def test_subset_without_numbers_or_without_ids_reads_empty_arrays(train: Shards) -> None:
    ids_only = Shards(train.folder, "train", train.schema.subset(["item"])).batch(slice(0, 8))
    numbers_only = Shards(train.folder, "train", train.schema.subset(["price"])).batch(slice(0, 8))
    assert ids_only.dense_BN.shape == (8, 0) and numbers_only.ids_BL.shape == (8, 0)
    assert numbers_only.ids.keys() == [] and numbers_only.dense_BN.shape == (8, 1)


def test_jagged_holds_the_padded_ids_row_by_row() -> None:
    ids_BL = torch.tensor([[5, 1, 2, 9], [6, -1, -1, 8], [7, 3, -1, 0]])
    jagged = to_jagged(ids_BL, ["a", "m", "b"], [1, 2, 1])
    assert jagged.keys() == ["a", "m", "b"]
    assert {k: jagged[k].values().tolist() for k in jagged.keys()} == {  # noqa: SIM118
        "a": [5, 6, 7],
        "m": [1, 2, 3],
        "b": [9, 8, 0],
    }
    assert jagged["m"].lengths().tolist() == [2, 0, 1]


def test_lists_of_one_id_at_most_may_be_empty() -> None:
    jagged = to_jagged(torch.tensor([[5, -1], [6, 3]]), ["a", "m"], [1, 1])
    assert jagged["m"].lengths().tolist() == [0, 1] and jagged["m"].values().tolist() == [3]


def test_batch_moves_whole(train: Shards) -> None:
    batch = train.batch(slice(0, 5))
    moved = batch.to(torch.device("cpu"))
    assert len(moved) == 5 and moved.ids.keys() == batch.ids.keys()
    torch.testing.assert_close(moved.ids.values(), batch.ids.values())


def test_random_rows_come_in_the_asked_order(train: Shards) -> None:
    rows = np.array([7, 3, 3, 100])
    batch, whole = train.batch(rows), train.batch(slice(0, 101))
    torch.testing.assert_close(batch.ids_BL, whole.ids_BL[rows])
    torch.testing.assert_close(batch.dense_BN, whole.dense_BN[rows])


def test_weights_of_rows_are_read_where_they_are(prepared: Path, tmp_path: Path) -> None:
    assert Shards(prepared, "train").batch(slice(0, 4)).weight_B is None
    shutil.copytree(prepared, tmp_path / "p")
    weights = np.random.default_rng(0).random(len(Shards(prepared, "train"))).astype(np.float32)
    np.save(tmp_path / "p" / "train" / "weight.npy", weights)
    shards, rows = Shards(tmp_path / "p", "train"), np.array([7, 3, 3, 100])
    np.testing.assert_array_equal(shards.batch(rows).weight_B.numpy(), weights[rows])
    moved = shards.batch(slice(5, 9)).to(torch.device("cpu"))
    np.testing.assert_array_equal(moved.weight_B.numpy(), weights[5:9])


def test_subset_keeps_the_weights_of_its_lists_behind_its_numbers(tmp_path: Path) -> None:
    """Columns are named by their number, so that a wrong one shows."""
    schema = event_schema()
    ids = sum(f.max_length for f in schema.sparse)
    (tmp_path / "train").mkdir()
    (tmp_path / "schema.json").write_text(json.dumps(schema.to_json()))
    np.save(tmp_path / "train" / "ids.npy", np.arange(ids, dtype=np.int32)[None].repeat(3, 0))
    np.save(tmp_path / "train" / "dense.npy", np.arange(6, dtype=np.float32)[None].repeat(3, 0))
    np.save(tmp_path / "train" / "label.npy", np.zeros(3, np.float32))
    part = Shards(tmp_path, "train", schema.subset(["past", "liked", "age"])).batch(slice(0, 2))
    assert part.dense_BN[0].tolist() == [1, 2, 3, 4, 5], "age, then the four weights"
    assert part.ids_BL[1].tolist() == [1, 2, 3, 4, 5, 6, 11, 12, 13, 14]
    assert part.ids.keys() == ["liked"], "a sequence is read from ids_BL"
    assert part.ids.values().tolist() == [11, 12, 13, 14] * 2


@pytest.mark.parametrize("name", ["ids", "dense", "label"])
@pytest.mark.parametrize("left", [0, 40, 1000])
def test_a_torn_array_is_one_line(prepared, tmp_path, name, left):
    """As a power cut leaves it: empty, cut in its header, cut in its numbers."""
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    path = folder / "train" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DataError, match=rf"{name}\.npy is damaged: .*: remove .*data and run") as error:
        Shards(folder, "train")
    assert len(str(error.value).splitlines()) == 1

"""`recsys checkpoint`: what it prints is true, and what it rewrites is the same model and the same training."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from recsys.commands.cli import main
from recsys.data.shards import Shards
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.fit import fit
from recsys.training.loop import seed_everything
from recsys.training.tensors import write
from recsys.training.tensors.read import TensorFolder

SPEC: checkpoint.Spec = {
    "model": {"_target_": "recsys.models.dcn.DCN", "layers": 1, "hidden": [16], "dropout": 0.1},
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 8},
    "embedding_dropout": 0.1,
}
HOW = TrainConfig(
    batch_size=128, max_epochs=2, warmup_steps=5, evals_per_epoch=1, precision="fp32", table_lr=0.1, keep_checkpoints=9
)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def stage(train: Shards, valid: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage's folder: a trained model, and the checkpoint of its first look, with tables of several parts."""
    folder = tmp_path_factory.mktemp("stage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "_PART_BYTES", 500)
        seed_everything(0)
        model = checkpoint.build(train.schema, SPEC)
        fit(model, train, valid, HOW, 0, folder / "checkpoints")
        checkpoint.save(folder, model, SPEC)
    _, last = sorted((folder / "checkpoints").iterdir())
    shutil.rmtree(last)
    return folder


def said(capfd, *arguments: object, code: int = 0) -> str:
    capfd.readouterr()
    assert main(["checkpoint", *map(str, arguments)]) == code
    out = capfd.readouterr()
    return out.err if code == 2 else out.out


def test_inspect_tells_tables_state_and_step(stage: Path, capfd) -> None:
    (place,) = (stage / "checkpoints").iterdir()
    step = int(place.name.removeprefix("step-"))
    model, _ = checkpoint.load(stage)
    for path in (stage, stage / "model", stage / "checkpoints", place):
        text = said(capfd, "inspect", path)
        for rows in model.trainable().held():
            size = rows.weight_RD.nbytes + rows.state.nbytes
            line = next(x for x in text.splitlines() if re.search(rf"│ {rows.table} +│", x))
            cells = [c.strip() for c in line.strip("│").split("│")]
            assert cells == [rows.table, f"{rows.total:,}", "8", "F32", f"{size:,}", "row F32", "1"]
        in_training = path not in (stage, stage / "model")
        assert (f"step {step}, best step {step}, best validation logloss 0." in text) == in_training
        assert "written by 1 process, " in text


def test_the_newest_checkpoint_is_a_step_whatever_else_is_there(stage: Path, tmp_path: Path, capfd) -> None:
    (place,) = (stage / "checkpoints").iterdir()
    shutil.copytree(place, tmp_path / place.name)
    for stray in ("step-zzz", "step-999", "step-00000000000x", "step-000000000999.old"):
        (tmp_path / stray).mkdir()
        (tmp_path / stray / "manifest.json").write_text("{}")
    assert f"{place.name}\n" in said(capfd, "inspect", tmp_path)


def test_reshard_and_unshard_change_the_files_and_nothing_else(stage: Path, tmp_path: Path, capfd) -> None:
    model, spec = checkpoint.load(stage)
    for name, how in {"a": ["--files", 3], "b": ["--rows", 7], "c": None}.items():
        assert said(capfd, "unshard" if how is None else "reshard", stage, tmp_path / name, *(how or ()))
        again, same_spec = checkpoint.load(tmp_path / name)
        assert same_spec == spec and said(capfd, "diff", stage, tmp_path / name).startswith("equal: ")
        for a, b in zip(again.trainable().held(), model.trainable().held(), strict=True):
            assert torch.equal(a.weight_RD, b.weight_RD) and torch.equal(a.state, b.state)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
        held = TensorFolder(tmp_path / name / "model", "").manifest
        most, largest = max(t.rows for t in held.tables.values()), max(p.stop - p.start for p in held.parts)
        count = len(list((tmp_path / name / "model" / "tables").iterdir()))
        assert (largest, count) == {"a": (-(-most // 3), 3), "b": (7, -(-most // 7)), "c": (most, 1)}[name]
    assert "is there already" in said(capfd, "reshard", stage, tmp_path / "a", "--files", 1, code=2)
    assert "expected at least 1, got 0" in said(capfd, "reshard", stage, tmp_path / "d", "--files", 0, code=2)


def test_a_training_goes_on_from_a_resharded_checkpoint(stage: Path, train: Shards, valid: Shards, tmp_path, capfd):
    (place,) = (stage / "checkpoints").iterdir()
    (tmp_path / "checkpoints").mkdir()
    said(capfd, "reshard", place, tmp_path / "checkpoints" / place.name, "--rows", 5)
    model = checkpoint.build(train.schema, SPEC)
    fit(model, train, valid, HOW, 0, tmp_path / "checkpoints")
    checkpoint.save(tmp_path, model, SPEC)
    assert said(capfd, "diff", stage, tmp_path).startswith("equal: ")


def test_diff_names_what_differs(stage: Path, tmp_path: Path, capfd) -> None:
    model, spec = checkpoint.load(stage)
    table = model.trainable().held()[0]
    table.weight_RD[3, 1] += 0.25
    table.weight_RD[5] -= 0.5
    table.state[0] += 1
    with torch.no_grad():
        next(model.interaction.parameters()).view(-1)[2] = torch.nan
    checkpoint.save(tmp_path, model, spec)
    lines = [
        [c.strip() for c in x.strip("│").split("│")] for x in said(capfd, "diff", stage, tmp_path, code=1).splitlines()
    ]
    found = {x[0]: x[1:] for x in lines if len(x) == 4}
    assert found[f"{table.table} (weight)"] == ["2", f"{table.total:,}", "0.5"]
    assert found[f"{table.table} (state)"] == ["1", f"{table.total:,}", "1"]
    (dense,) = (v for k, v in found.items() if k.startswith("model/interaction"))
    assert dense[0] == "1" and dense[2] == "inf" and len(found) == 3


def test_what_is_damaged_or_no_checkpoint_is_one_line(stage: Path, tmp_path: Path, capfd) -> None:
    assert f"expected a checkpoint or a trained model at {tmp_path}" in said(capfd, "inspect", tmp_path, code=2)
    shutil.copytree(stage / "model", tmp_path / "model")
    file = tmp_path / "model" / "tables" / "0.0.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-9] ^= 1
    file.write_bytes(whole)
    for command in (
        ["inspect", tmp_path],
        ["diff", stage, tmp_path],
        ["reshard", tmp_path, tmp_path / "x", "--rows", 9],
    ):
        text = said(capfd, *command, code=2)
        assert "tables/0.0.safetensors is damaged: expected the bytes of " in text and len(text.splitlines()) == 1
    assert not (tmp_path / "x").exists()
    listed = json.loads((tmp_path / "model" / "manifest.json").read_text())
    listed["parts"][0]["file"] = "../../secret"
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(listed))
    assert "expected paths inside the folder" in said(capfd, "inspect", tmp_path, code=2)

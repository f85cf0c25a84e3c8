"""Damaged and forged folders of tensors, each through `recsys checkpoint inspect` and through a resumed training."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys.commands.cli import main
from recsys.data.shards import Shards
from recsys.errors import DataError
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.fit import fit

SPEC: checkpoint.Spec = {
    "model": {"_target_": "recsys.models.mlp.MLP", "hidden": [4], "dropout": 0.0},
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 4},
    "embedding_dropout": 0.0,
}
HOW = TrainConfig(batch_size=512, max_epochs=1, evals_per_epoch=1, precision="fp32", table_lr=0.1)
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(train: Shards, valid: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    fit(checkpoint.build(train.schema, SPEC), train, valid, HOW, 0, folder)
    assert len(list(folder.iterdir())) == 1
    return folder


def listed(change: Callable[[dict[str, Any]], None]) -> Damage:
    """Damage that changes the manifest."""

    def damage(place: Path) -> None:
        path = place / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return damage


def rows_of(kind: str = "weight") -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The entry of the first rows of a table in a manifest."""
    return lambda m: next(p for p in m["parts"] if p["kind"] == kind)


def part(**changed: Any) -> Damage:
    return listed(lambda m: rows_of()(m).update(changed))


def table(**changed: Any) -> Damage:
    return listed(lambda m: next(iter(m["tables"].values())).update(changed))


def file_of(place: Path) -> Path:
    return place / "tables" / "0.0.safetensors"


def cut(place: Path) -> None:
    whole = file_of(place).read_bytes()
    file_of(place).write_bytes(whole[: len(whole) // 2])


def header(place: Path) -> None:
    """A header that says it has 2^60 bytes, in a file of the size that the manifest tells."""
    whole = bytearray(file_of(place).read_bytes())
    whole[:8] = (1 << 60).to_bytes(8, "little")
    file_of(place).write_bytes(whole)


def shape(place: Path) -> None:
    """A tensor whose header says that it is twice as wide and half as long."""
    whole = file_of(place).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    names = json.loads(whole[8 : 8 + size])
    name = next(n for n in names if n.endswith(":weight"))
    names[name]["shape"] = [1, names[name]["shape"][0] * names[name]["shape"][1]]
    text = json.dumps(names).encode()
    assert len(text) <= size, "the header has room"
    file_of(place).write_bytes(whole[:8] + text.ljust(size) + whole[8 + size :])


def link(place: Path) -> None:
    """A link to a file that is not there any more."""
    file_of(place).unlink()
    file_of(place).symlink_to(place / "gone")


def loop(place: Path) -> None:
    file_of(place).unlink()
    file_of(place).symlink_to(file_of(place))


def other(place: Path) -> None:
    """A folder in the place of a file."""
    file_of(place).unlink()
    file_of(place).mkdir()


def deep(place: Path) -> None:
    (place / "manifest.json").write_text("[" * 100_000)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no file of rows": (lambda p: file_of(p).unlink(), "0.0.safetensors: expected tensors, cannot read them"),
    "no file of the dense part": (lambda p: next(p.glob("dense*")).unlink(), "expected tensors, cannot read them"),
    "half a file": (cut, "0.0.safetensors is damaged: expected "),
    "an empty file": (lambda p: file_of(p).write_bytes(b""), "0.0.safetensors is damaged: expected "),
    "a header of 2^60 bytes": (header, "0.0.safetensors: expected tensors, cannot read them"),
    "another shape": (shape, "0.0.safetensors is damaged: expected "),
    "a link to nothing": (link, "0.0.safetensors: expected tensors, cannot read them"),
    "a link to itself": (loop, "0.0.safetensors: expected tensors, cannot read them"),
    "a folder for a file": (other, "0.0.safetensors is damaged: expected a regular file"),
    "another dtype": (table(dtype="F64"), "of dtype and shape"),
    "an unknown dtype": (table(dtype="F8_E4M3"), "of dtype and shape"),
    "huge rows": (table(rows=10**18), "row "),
    "negative rows": (table(rows=-1), "row "),
    "rows that are no number": (table(rows=float("nan")), "is missing or of another type"),
    "a huge width": (table(dim=10**18), "of dtype and shape"),
    "a state that nobody knows": (table(state="moon"), "of dtype and shape"),
    "rows that overlap": (listed(lambda m: m["parts"].append(rows_of()(m))), "got it in columns or twice"),
    "a negative row": (part(start=-5), "manifest.json is damaged: expected whole tables"),
    "a range backwards": (part(start=9, stop=3), "manifest.json is damaged: expected whole tables"),
    "a tensor that is not there": (part(tensor="moon"), "expected tensors, cannot read them"),
    "another checksum": (part(checksum="0" * 32), "that its checksum was made from"),
    "a path outside": (part(file="../../secret"), "expected paths inside the folder"),
    "an absolute path": (part(file="/etc/passwd"), "expected paths inside the folder"),
    "a path of odd bytes": (part(file="tables/\0"), "expected paths inside the folder"),
    "a size of nothing": (listed(lambda m: m.update(files={})), "is damaged: expected None bytes"),
    "an older format": (listed(lambda m: m.update(version=0)), "of version 1, got 0"),
    "a later format": (listed(lambda m: m.update(version=99)), "of version 1, got 99"),
    "no version": (listed(lambda m: m.pop("version")), "of version 1, got none"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "expected "),
    "half a manifest": (lambda p: os.truncate(p / "manifest.json", 99), "is damaged: expected "),
    "a list for a manifest": (lambda p: (p / "manifest.json").write_text("[]"), "got none"),
    "a manifest without end": (deep, "is damaged: expected "),
    "names for tensors that are none": (listed(lambda m: m["rest"].update(model={"(tensor)": "moon"})), "a tensor for"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(
    name: str, whole: Path, train: Shards, valid: Shards, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, why = DAMAGES[name]
    shutil.copytree(whole, tmp_path / "checkpoints")
    (place,) = (tmp_path / "checkpoints").iterdir()
    damage(place)
    capfd.readouterr()
    if "names" not in name:  # that is found when the tensors are used
        assert main(["checkpoint", "inspect", str(place)]) == 2
        told = capfd.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1 and why in told and len(told) < 1200, told
    with pytest.raises(DataError) as caught:
        fit(checkpoint.build(train.schema, SPEC), train, valid, HOW, 0, tmp_path / "checkpoints")
    told = str(caught.value)
    assert "\n" not in told and str(place) in told and f"remove {place} to go on from an earlier step" in told, told

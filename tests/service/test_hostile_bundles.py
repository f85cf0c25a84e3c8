"""A bundle that somebody edited and sealed again is refused in one line, before its code is loaded."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.cli import main
from recsys.data.prepare import prepare
from recsys.embeddings.per_field import per_field
from recsys.errors import BundleError
from recsys.export import bundle as export
from recsys.export.graphs import compiler
from recsys.models.ctr import CTR
from recsys.models.mlp import MLP
from recsys.past import Snapshot
from recsys.schema import Schema
from recsys.sequences.mean import Mean
from recsys.serving import runtimes
from recsys.serving.bundle import Bundle
from recsys.serving.manifest import MANIFEST, canonical, write_manifest
from recsys.serving.verify import verify
from tests.unit.test_past import CONFIG, events

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler: no graph.pt2")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change what a JSON file of a bundle holds, and seal the bundle again."""
    held = json.loads((folder / name).read_bytes())
    (folder / name).write_text(json.dumps(change(held)))
    write_manifest(folder)


def sealed(body: dict[str, Any]) -> bytes:
    """A manifest as its own digest wants it."""
    return canonical({**body, "digest": hashlib.sha256(canonical(body)).hexdigest()})


def refused(folder: Path, says: str, look: Callable[[Path], Any] = verify) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        look(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["past.npz", "graph.so", ".hidden", "sub"])
def test_a_file_that_the_manifest_does_not_list_is_refused(name: str, copy: Path) -> None:
    (copy / name).mkdir() if name == "sub" else (copy / name).write_bytes(b"")
    refused(copy, f"{name}.* not listed")
    refused(copy, f"{name}.* not listed", Bundle.load)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/file", "..", "model.bin"])
def test_a_manifest_may_name_nothing_outside(name: str, copy: Path) -> None:
    body = json.loads((copy / MANIFEST).read_bytes())
    del body["digest"]
    body["files"][name] = body["files"]["card.json"]
    (copy / MANIFEST).write_bytes(sealed(body))
    refused(copy, "no file of a bundle")


@pytest.mark.parametrize("files", [[], {}, {"card.json": 3}, {"card.json": {"bytes": "7"}}])
def test_a_manifest_that_lists_no_files_is_refused(files: Any, copy: Path) -> None:
    (copy / MANIFEST).write_bytes(sealed({"format": 2, "files": files}))
    refused(copy, MANIFEST)


def test_a_link_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "card.json").rename(tmp_path / "elsewhere.json")
    os.symlink(tmp_path / "elsewhere.json", copy / "card.json")
    refused(copy, r"card\.json is a symbolic link")


@pytest.mark.parametrize("curve", [None, {"x": [0.0, 1.0], "y": [0.0, 1.0]}])
def test_another_calibrator_is_found(curve: Any, copy: Path) -> None:
    edit(copy, "calibrator.json", lambda _: curve)
    refused(copy, r"calibrator\.json makes another probability of row \d+")


def each_encoder(held: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Change every entry of encoders.json."""
    return {**held, "encoders": {k: change(v) for k, v in held["encoders"].items()}}


WRONG: list[tuple[str, Callable[[Any], Any]]] = [
    ("calibrator.json", lambda _: []),
    ("calibrator.json", lambda v: {**v, "y": v["y"][1:]}),
    ("calibrator.json", lambda v: {**v, "x": v["x"][::-1]}),
    ("card.json", lambda _: []),
    ("card.json", lambda v: {**v, "versions": None}),
    ("encoders.json", lambda _: 3),
    ("encoders.json", lambda v: each_encoder(v, lambda _: {"encoder": "hash"})),
    ("encoders.json", lambda v: each_encoder(v, lambda _: {"encoder": "os.system"})),
    ("encoders.json", lambda v: each_encoder(v, lambda e: {**e, "values": e.get("values", [])[1:]})),
    ("golden.json", lambda _: {}),
    ("golden.json", lambda v: {**v, "rows": v["rows"][1:]}),
    ("golden.json", lambda v: {**v, "logits": ["a"] * len(v["logits"])}),
    ("golden.json", lambda v: {**v, "rows": [3] * len(v["rows"])}),
    ("schema.json", lambda _: {"fields": []}),
    ("schema.json", lambda v: {**v, "fields": [{**f, "kind": 3} for f in v["fields"]]}),
    ("schema.json", lambda v: {**v, "fields": v["fields"][1:]}),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_sealed_but_wrong_json_is_one_line(
    name: str, change: Callable[[Any], Any], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(copy, name, change)
    assert main(["verify", str(copy)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@needs_compiler
@pytest.mark.parametrize("entry", ["../../../outside", "graph/../../outside", "/outside", "graph/data/extra/x.so"])
def test_a_package_with_another_entry_is_not_loaded(
    entry: str, copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with zipfile.ZipFile(copy / "graph.pt2", "a") as package:
        package.writestr(entry, b"x")
    write_manifest(copy)
    loaded: list[str] = []
    monkeypatch.setattr("torch._inductor.aoti_load_package", loaded.append)
    refused(copy, "which no export wrote")
    assert not loaded
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_a_package_that_is_no_zip_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "graph.pt2").write_bytes(b"not a zip")
    refused(tmp_path / "graph.pt2", "no zip file", runtimes.check_package)


@needs_compiler
def test_verify_with_onnx_alone_runs_no_code_of_the_bundle(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(_: Path) -> None:
        raise AssertionError("graph.pt2 was opened")

    monkeypatch.setattr(runtimes, "check_package", never)
    assert main(["verify", str(copy), "--runtime", "onnx"]) == 0
    assert list(json.loads(capsys.readouterr().out)["max_drift"]) == ["onnx"]


def test_help_says_that_a_package_is_machine_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "machine code" in capsys.readouterr().out


def test_what_past_npz_holds_is_checked(tmp_path: Path) -> None:
    good = {"a/keys": np.array([1, 2], np.uint64), "a/value": np.array([0.5, 1.0])}
    Snapshot(good).check()
    for change in (
        {"a/keys": np.array([2, 1], np.uint64)},
        {"a/value": np.array([0.5])},
        {"a/offset": np.array([0, 1, 3])},
        {"a/keys": np.array([1.0, 2.0])},
    ):
        with pytest.raises(ValueError, match="'a'"):
            Snapshot({**good, **change}).check()


# --- past-only columns ---


@pytest.fixture(scope="module")
def past_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose golden rows ask past.npz."""
    torch.manual_seed(3)
    prepared = prepare(CONFIG, events, tmp_path_factory.mktemp("log"))
    schema = Schema.load(prepared / "schema.json")
    model = CTR(schema, per_field(schema, dim=4, init=0.5), partial(MLP, hidden=(8,)), sequence=Mean)
    out = tmp_path_factory.mktemp("past") / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "compiler", lambda: None)
        export.export_bundle(model, prepared, out, calibrator=None, card={}, golden="rows")
    return out


def test_some_golden_rows_leave_their_past_to_the_bundle(past_bundle: Path) -> None:
    loaded = Bundle.load(past_bundle, "onnx")
    assert loaded.encoder.past is not None
    rows = json.loads((past_bundle / "golden.json").read_bytes())["rows"]
    known = loaded.encoder.past.fields()
    assert known
    bare = [row for row in rows if not known & set(row)]
    assert len(bare) == len(rows) // 2
    assert verify(past_bundle)["rows"] == len(rows)


@pytest.mark.parametrize("field", ["count", "recent", "rate"])
def test_another_past_is_found(field: str, past_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(past_bundle, tmp_path / "b"))
    past = Snapshot.load(copy / "past.npz")
    past.arrays[f"{field}/value"] = past.arrays[f"{field}/value"][::-1] + 1
    past.save(copy / "past.npz")
    write_manifest(copy)
    refused(copy, "onnx drifts")


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(18), b"not a zip"])
def test_a_past_that_does_not_parse_is_one_line(data: bytes, past_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(past_bundle, tmp_path / "b"))
    (copy / "past.npz").write_bytes(data)
    write_manifest(copy)
    refused(copy, r"past\.npz|cannot score")

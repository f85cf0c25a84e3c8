"""A bundle that somebody edited and sealed again is refused in one line, before its code is loaded."""

import hashlib
import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.commands.cli import main
from recsys.data.preparation.prepare import prepare
from recsys.embeddings.per_field import per_field
from recsys.errors import BundleError, DataError
from recsys.export import bundle as export
from recsys.export.graphs import compiler
from recsys.features.past import Snapshot
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.sequences.mean import Mean
from recsys.serving import runtimes
from recsys.serving.bundle import Bundle
from recsys.serving.manifest import FORMAT, MANIFEST, canonical, write_manifest
from recsys.serving.openapi import row_schema
from recsys.serving.verify import verify
from tests.service.conftest import CALIBRATOR, model
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
    (copy / MANIFEST).write_bytes(sealed({"format": FORMAT, "files": files}))
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
    assert main(["verify", "--help"]) == 0
    assert "machine code" in " ".join(capsys.readouterr().out.split())


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
def past_bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle whose golden rows ask past.npz, and one of the same model without it."""
    torch.manual_seed(3)
    prepared = prepare(CONFIG, events, tmp_path_factory.mktemp("log"))
    schema = Schema.load(prepared / "schema.json")
    model = CTR(schema, per_field(schema, dim=4, init=0.5), partial(MLP, hidden=(8,)), sequence=Mean)
    out = tmp_path_factory.mktemp("past")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "compiler", lambda: None)
        for name, past in (("b", True), ("bare", False)):
            export.export_bundle(model, prepared, out / name, calibrator=None, card={}, golden="rows", past=past)
    return out / "b", out / "bare"


@pytest.fixture(scope="module")
def past_bundle(past_bundles: tuple[Path, Path]) -> Path:
    return past_bundles[0]


def test_a_bundle_need_keep_nobodys_past(past_bundles: tuple[Path, Path]) -> None:
    """Then every request brings the past-only columns, and the answers are the same."""
    whole, bare = (Bundle.load(folder, "onnx") for folder in past_bundles)
    assert whole.encoder.past and (past_bundles[0] / "past.npz").exists()
    assert bare.encoder.past is None and not (past_bundles[1] / "past.npz").exists()
    told = whole.encoder.past.fields()
    rows = json.loads((past_bundles[1] / "golden.json").read_bytes())["rows"]
    assert told and all(told <= set(row) for row in rows)
    np.testing.assert_array_equal(bare.logits(rows), whole.logits(rows))
    with pytest.raises(DataError, match="expected a value for column"):
        bare.score([{c: v for c, v in rows[0].items() if c not in told}])
    required = set(row_schema(bare.schema)["required"])
    assert told <= required and not told & set(row_schema(whole.schema)["required"])


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


# --- fifty at once ---


def rewrite(name: str, data: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replace a file's bytes and seal the bundle again."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data((folder / name).read_bytes()))
        write_manifest(folder)

    return change


def rejson(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return partial(edit, name=name, change=change)


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the manifest's own body and seal it."""

    def rewritten(folder: Path) -> None:
        body = json.loads((folder / MANIFEST).read_bytes())
        del body["digest"]
        (folder / MANIFEST).write_bytes(sealed(change(body)))

    return rewritten


def raw_manifest(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / MANIFEST).write_bytes(data) and None


def link(name: str, target: str) -> Callable[[Path], None]:
    def linked(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.symlink(target, folder / name)

    return linked


def swap(a: str, b: str) -> Callable[[Path], None]:
    def swapped(folder: Path) -> None:
        first, second = (folder / a).read_bytes(), (folder / b).read_bytes()
        (folder / a).write_bytes(second)
        (folder / b).write_bytes(first)
        write_manifest(folder)

    return swapped


def package(*entries: tuple[str, bytes]) -> bytes:
    """A zip file that a .pt2 may be."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        warnings.simplefilter("ignore")  # of an entry that comes twice
        for name, data in entries:
            made.writestr(name, data)
    return file.getvalue()


def with_pt2(data: bytes) -> Callable[[Path], None]:
    """Let the bundle hold a graph.pt2, which its card promises for this machine, and no graph.onnx."""

    def change(folder: Path) -> None:
        (folder / "graph.onnx").unlink()
        (folder / "graph.pt2").write_bytes(data)
        built = {"machine": runtimes.machine(), "instructions": "native"}
        edit(folder, "card.json", lambda card: {**card, "pt2": built, "runtimes": ["pt2"]})

    return change


def replaced(entry: str, value: Any) -> Callable[[Any], Any]:
    return lambda held: {**held, entry: value}


def fields(**changes: Any) -> Callable[[Any], Any]:
    return lambda held: {**held, "fields": [{**f, **changes} for f in held["fields"]]}


def encoders(**changes: Any) -> Callable[[Any], Any]:
    return lambda held: each_encoder(held, lambda e: {**e, **changes})


LIBRARY = "graph/data/aotinductor/model/x.wrapper.so"
DEEP = b"[" * 20_000 + b"]" * 20_000
HEADER = b'{"t":{"dtype":"F32","shape":[%s],"data_offsets":[0,%s]}}'


def weights(shape: bytes, stop: bytes) -> bytes:
    header = HEADER % (shape, stop)
    return len(header).to_bytes(8, "little") + header + bytes(64)


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "manifest is a folder": lambda folder: ((folder / MANIFEST).unlink(), (folder / MANIFEST).mkdir()),
    "manifest is empty": raw_manifest(b""),
    "manifest is deep": raw_manifest(DEEP),
    "manifest is no UTF-8": raw_manifest(b'{"digest": "\xff"}'),
    "manifest with half a pair": raw_manifest(b'{"digest": "x", "files": {"\\ud800": 1}}'),
    "manifest with NaN": raw_manifest(b'{"digest": "x", "format": NaN}'),
    "manifest with a huge number": raw_manifest(b'{"digest": "x", "format": 1' + b"0" * 5_000 + b"}"),
    "manifest links out": link(MANIFEST, "/etc/passwd"),
    "manifest links to a device": link(MANIFEST, "/dev/zero"),
    "other format": manifest(replaced("format", 99)),
    "format is a list": manifest(replaced("format", [2])),
    "files is a list": manifest(replaced("files", ["card.json"])),
    "a name climbs": manifest(lambda m: {**m, "files": {**m["files"], "../secret": m["files"]["card.json"]}}),
    "an absolute name": manifest(lambda m: {**m, "files": {**m["files"], "/etc/passwd": m["files"]["card.json"]}}),
    "size is negative": manifest(lambda m: {**m, "files": {k: {**v, "bytes": -1} for k, v in m["files"].items()}}),
    "hash of another": manifest(
        lambda m: {**m, "files": {k: {**v, "sha256": "0" * 64} for k, v in m["files"].items()}}
    ),
    "a file links out": link("card.json", "../secret"),
    "a file links to a device": link("golden.json", "/dev/zero"),
    "a broken link": link("schema.json", "absent"),
    "a pipe": lambda folder: ((folder / "card.json").unlink(), os.mkfifo(folder / "card.json")),
    "unlisted pipe": lambda folder: os.mkfifo(folder / "past.npz"),
    "unlisted package": lambda folder: (folder / "graph.pt2").write_bytes(package((LIBRARY, b"\x7fELF"))),
    "truncated weights": rewrite("weights.safetensors", lambda b: b[: len(b) // 2]),
    "empty weights": rewrite("weights.safetensors", b""),
    "weights with a huge header": rewrite("weights.safetensors", (2**62).to_bytes(8, "little") + bytes(99)),
    "weights outside the file": rewrite("weights.safetensors", weights(b"25000000000", b"100000000000")),
    "weights of a negative shape": rewrite("weights.safetensors", weights(b"-4,-4", b"64")),
    "weights of other names": rewrite("weights.safetensors", weights(b"16", b"64")),
    "weights deep": rewrite("weights.safetensors", len(DEEP).to_bytes(8, "little") + DEEP),
    "truncated graph": rewrite("graph.onnx", lambda b: b[: len(b) // 2]),
    "empty graph": rewrite("graph.onnx", b""),
    "graph reads another file": rewrite(
        "graph.onnx", lambda b: b.replace(b"weights.safetensors", b"../../../etc/passwd")
    ),
    "weights and graph swapped": swap("weights.safetensors", "graph.onnx"),
    "card and schema swapped": swap("card.json", "schema.json"),
    "golden and encoders swapped": swap("golden.json", "encoders.json"),
    "deep card": rewrite("card.json", DEEP),
    "deep schema": rewrite("schema.json", DEEP),
    "deep golden": rewrite("golden.json", b'{"rows": ' + DEEP + b"}"),
    "deep calibrator": rewrite("calibrator.json", DEEP),
    "encoders are no UTF-8": rewrite("encoders.json", b"\xff\xfe"),
    "calibrator with NaN": rewrite("calibrator.json", b'{"x": [0, NaN], "y": [0, 1]}'),
    "calibrator beyond 1": rewrite("calibrator.json", b'{"x": [0, 1], "y": [0, 9]}'),
    "a card of lines": rejson("card.json", lambda c: {**c, "versions": "a\nb\nc"}),
    "names of lines": rejson("schema.json", fields(name="a\nb\x1b[2J")),
    "lists of 10^12": rejson("schema.json", fields(max_length=10**12)),
    "negative lists": rejson("schema.json", fields(max_length=-1)),
    "columns that are numbers": rejson("schema.json", fields(inputs=[3])),
    "unknown types": rejson("schema.json", fields(dtypes=["object", "object"])),
    "fewer fields": rejson("schema.json", lambda s: {**s, "fields": s["fields"][::2]}),
    "another encoder": rejson("encoders.json", encoders(encoder="__class__")),
    "no buckets": rejson("encoders.json", encoders(buckets=0)),
    "vocabulary of lists": rejson("encoders.json", encoders(values=[[]])),
    "no zip": with_pt2(b"not a zip"),
    "zip bomb": with_pt2(package((LIBRARY, bytes(2**28 + 1)))),
    "zip that climbs": with_pt2(package((LIBRARY, b"x"), ("graph/../../../outside", b"x"))),
    "zip of absolute names": with_pt2(package((LIBRARY, b"x"), ("/outside", b"x"))),
    "zip with one entry twice": with_pt2(package((LIBRARY, b"x"), (LIBRARY, b"y"))),
    "library that is text": with_pt2(package((LIBRARY, b"not a library"), ("graph/archive_format", b"pt2"))),
    "package without library": with_pt2(package(("graph/archive_format", b"pt2"))),
    "past is no zip": lambda folder: ((folder / "past.npz").write_bytes(b"PK\x03\x04"), write_manifest(folder)),
    "past that is a bomb": lambda folder: (
        (folder / "past.npz").write_bytes(package(("item/keys.npy", bytes(2**28 + 1)))),
        write_manifest(folder),
    ),
    "past of objects": lambda folder: (
        np.savez(folder / "past.npz", **{"item/keys": np.array([{}], object)}),
        write_manifest(folder),
    ),
}


@pytest.fixture(scope="module")
def plain_bundle(schema: Schema, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with graph.onnx alone, whose golden rows are real."""
    out = tmp_path_factory.mktemp("plain") / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "compiler", lambda: None)
        export.export_bundle(model(schema, "hashed"), prepared, out, calibrator=CALIBRATOR, card={}, golden="rows")
    return out


def everything_in(folder: Path) -> dict[str, Any]:
    """Each name below a folder, with the bytes of what is a file."""
    found: dict[str, Any] = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            plain = path.is_file() and not path.is_symlink()
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else str(path.lstat().st_mode)
    return found


@pytest.mark.slow
def test_there_are_at_least_fifty() -> None:
    assert len(HOSTILE) >= 50


@pytest.mark.slow
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_bundle_is_one_line_for_every_command(
    what: str,
    plain_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(plain_bundle, tmp_path / "in" / "b"))
    (tmp_path / "in" / "secret").write_text("a hidden word")
    rows = json.loads((plain_bundle / "golden.json").read_bytes())["rows"][:3]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    HOSTILE[what](folder)
    before = everything_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: (_ for _ in ()).throw(AssertionError("it serves")))
    monkeypatch.delenv("RECSYS_TOKEN", raising=False)
    commands = [["verify", str(folder)]]
    if what not in VERIFY_ALONE:
        commands += [
            ["predict", str(folder), "rows.jsonl", "--out", "out.jsonl"],
            ["serve", str(folder), "--port", "0"],
        ]
    for command in commands:
        assert main(command) == 2, command
        said = capfd.readouterr().err
        assert said.startswith("error: ") and len(said.strip().splitlines()) == 1, said
        assert "Traceback" not in said and "\x1b" not in said and "hidden word" not in said, said
    assert everything_in(tmp_path) == before


# What only a replay of the golden rows tells: those rows are no part of scoring, and any bytes are some weights.
VERIFY_ALONE = {"deep golden", "weights deep"}

"""A bundle is the model that was trained, whole, from raw rows, in every runtime."""

import copy
import csv
import getpass
import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from recsys.commands.cli import main
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.errors import BundleError, ConfigError, DataError
from recsys.export import bundle as export
from recsys.export import golden as golden_module
from recsys.export.bundle import export_bundle
from recsys.export.graphs import compiler
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.models.fm import FM
from recsys.models.wukong import Wukong
from recsys.serving.bundle import Bundle, latency, probabilities, sigmoid
from recsys.serving.manifest import write_manifest
from recsys.serving.rows import CHUNK, parse_json, predict_file, read_rows
from recsys.serving.verify import verify
from recsys.serving.weights import WEIGHTS, tensor_places
from recsys.training.fit import logits
from tests.service.conftest import CALIBRATOR, SCHEMES, model

FILES = ["calibrator.json", "card.json", "encoders.json", "golden.json", "graph.onnx", "graph.pt2", "manifest.json",
         "schema.json", "weights.safetensors"]  # fmt: skip
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler: no graph.pt2")
RUNTIMES = ["onnx", pytest.param("pt2", marks=needs_compiler)]


def golden(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "golden.json").read_text())["rows"]


def row(folder: Path, **changes: Any) -> dict[str, Any]:
    """The first golden row with some values changed."""
    return {**golden(folder)[0], **changes}


def onnx_only(m: CTR, prepared: Path, out: Path) -> Path:
    export_bundle(m, prepared, out, calibrator=None, card={}, golden="rows")
    return out


@pytest.fixture(scope="module")
def unmeasured(schema: Schema, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A bundle of a model without figures, written without a compiler, with made-up golden rows; what export says."""
    out = tmp_path_factory.mktemp("unmeasured") / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "compiler", lambda: None)
        card = {"name": "new", "metrics": {}}
        return out, export_bundle(model(schema, "per_field"), prepared, out, calibrator=CALIBRATOR, card=card)


# --- the same answers ---


@pytest.mark.parametrize("scheme", [pytest.param(s, marks=() if s == "unified" else pytest.mark.slow) for s in SCHEMES])
@pytest.mark.usefixtures("no_compiler")
def test_raw_rows_score_as_the_shards_did_and_the_model_stays_as_it_was(
    scheme: str, schema: Schema, prepared: Path, tmp_path: Path
) -> None:
    m = model(schema, scheme).train()
    before = copy.deepcopy(m.state_dict())
    folder = onnx_only(m, prepared, tmp_path / "b")
    assert all(part.training for part in m.modules())
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    rows = json.loads((prepared / "golden_rows.json").read_text())
    want_B = logits(m, Shards(prepared, "test"))[: len(rows)]
    got = Bundle.load(folder)
    assert want_B.std() > 0.01  # else any answer would do
    np.testing.assert_allclose(got.logits(rows), want_B, atol=1e-5)
    np.testing.assert_allclose(got.score(rows), torch.from_numpy(want_B).sigmoid().numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 512])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_form_of_table_in_every_runtime_at_any_batch_size(
    runtime: str, size: int, bundle: Path, subject: CTR
) -> None:
    loaded = Bundle.load(bundle, runtime)
    rows = [golden(bundle)[i % 100] for i in range(size)]
    ids_BL, dense_BN = loaded.encode(rows)
    with torch.no_grad():
        x_BW = subject.embedding.lookup(torch.from_numpy(ids_BL), torch.from_numpy(dense_BN))  # type: ignore[operator]
        want_B = subject.eval().logits_of(x_BW)[:, 0].numpy()
    assert loaded.runtime == runtime
    np.testing.assert_allclose(loaded.logits(rows), want_B, atol=1e-5)


def test_verify_replays_every_runtime_here(bundle: Path) -> None:
    found = verify(bundle)
    runtimes = ["onnx", "pt2"] if compiler() else ["onnx"]
    assert list(found["max_drift"]) == runtimes
    assert max(found["max_drift"].values()) < 1e-5
    assert found["rows"] == 256
    assert found["files"] == len(list(bundle.iterdir()))


def test_calibration_bends_the_probability(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    rows = golden(bundle)
    want_B = np.interp(1 / (1 + np.exp(-loaded.logits(rows).astype(np.float64))), CALIBRATOR["x"], CALIBRATOR["y"])
    np.testing.assert_allclose(loaded.score(rows), want_B, atol=1e-12)
    np.testing.assert_allclose(json.loads((bundle / "golden.json").read_text())["probabilities"], want_B, atol=1e-5)


def test_sigmoid_of_far_logits_neither_overflows_nor_leaves_0_to_1() -> None:
    np.testing.assert_allclose(sigmoid(np.array([-1e4, -1.0, 0.0, 1e4])), [0, 1 / (1 + np.e), 0.5, 1])
    assert probabilities(np.zeros(1, np.float32), None).dtype == np.float64


@pytest.mark.parametrize(
    "names",
    [["price", "score"], *(pytest.param(n, marks=pytest.mark.slow) for n in (["item", "tags"], ["user_x_city"]))],
)
@pytest.mark.usefixtures("no_compiler")
def test_a_subset_of_the_fields(names: list[str], schema: Schema, prepared: Path, tmp_path: Path) -> None:
    """Selection may leave no sparse field, or no number."""
    part = schema.subset(names)
    torch.manual_seed(1)
    embedding = per_field(part, dim=8, init=0.5) if part.sparse else _numbers_only(part)
    folder = onnx_only(CTR(part, embedding, FM if part.sparse else Wukong), prepared, tmp_path / "b")
    loaded = Bundle.load(folder)
    assert set(golden(folder)[0]) == set(part.raw_columns)
    assert set(json.loads((folder / "encoders.json").read_text())["encoders"]) == set(names)
    assert loaded.score(golden(folder)[:1]).shape == (1,)


def _numbers_only(part: Schema) -> torch.nn.Module:
    from recsys.tables.plain import PlainEmbedding

    return PlainEmbedding(part, {}, [])


# --- damage ---


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found_and_named(name: str, where: str, bundle: Path, tmp_path: Path) -> None:
    if name == "graph.pt2" and not (bundle / name).exists():
        pytest.skip("no C++ compiler: no graph.pt2")
    broken = tmp_path / "b"
    shutil.copytree(bundle, broken)
    data = bytearray((broken / name).read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[where]] ^= 1
    (broken / name).write_bytes(data)
    for look in (verify, Bundle.load):
        with pytest.raises(BundleError, match=rf"{name}.*changed") as caught:
            look(broken)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_shortened_file_is_named(name: str, bundle: Path, tmp_path: Path) -> None:
    if not (bundle / name).exists():
        pytest.skip("no C++ compiler: no graph.pt2")
    broken = tmp_path / "b"
    shutil.copytree(bundle, broken)
    (broken / name).write_bytes((broken / name).read_bytes()[:-1])
    with pytest.raises(BundleError, match=name):
        verify(broken)
    (broken / name).unlink()
    with pytest.raises(BundleError, match=name):
        verify(broken)


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_drift_names_runtime_amount_and_row(value: float, bundle: Path, tmp_path: Path) -> None:
    """A graph that answers otherwise, hashes and all in order: the golden batch must tell."""
    broken = tmp_path / "b"
    shutil.copytree(bundle, broken)
    stored = json.loads((broken / "golden.json").read_text())
    stored["logits"][3] += value
    (broken / "golden.json").write_text(json.dumps(stored))
    write_manifest(broken)
    amount = "nan" if np.isnan(value) else "0.5"
    with pytest.raises(BundleError, match=rf"onnx drifts.*row 3 .*{amount}"):
        verify(broken)


def test_no_bundle_or_no_runtime_is_one_clear_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.load(tmp_path)
    with pytest.raises(BundleError, match="tflite"):
        Bundle.load(bundle, "tflite")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BundleError, match="pip install onnxruntime"):
        Bundle.load(bundle)
    with pytest.raises(BundleError, match="nothing can replay"):
        verify(bundle)


@needs_compiler
def test_a_graph_compiled_elsewhere_is_not_run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.serving.runtimes.machine", lambda: "Darwin arm64")
    assert Bundle.load(bundle).runtime == "onnx"
    assert "Darwin arm64" in verify(bundle)["not_run"]["pt2"]
    with pytest.raises(BundleError, match="compiled for"):
        Bundle.load(bundle, "pt2")


# --- writing ---


def test_the_card_says_what_it_is(bundle: Path) -> None:
    card = Bundle.load(bundle).card
    assert card["name"] == "small"
    assert card["metrics"] == {"auc": 0.7, "gauc": None}  # JSON has no NaN
    assert card["metrics_note"] is None
    assert card["runtimes"] == (["onnx", "pt2"] if compiler() else ["onnx"])
    assert [f["name"] for f in card["fields"]] == Bundle.load(bundle).schema.names
    assert card["bytes"]["graph.onnx"] == (bundle / "graph.onnx").stat().st_size
    assert card["versions"]["torch"].startswith("2.")


def test_the_card_of_a_model_that_nobody_measured_says_so(unmeasured: tuple[Path, dict[str, Any]]) -> None:
    card = Bundle.load(unmeasured[0]).card
    assert card["metrics"] is None
    assert "not measured" in card["metrics_note"]


def test_without_a_compiler_the_card_says_why_there_is_no_pt2(unmeasured: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = unmeasured
    card = json.loads((folder / "card.json").read_text())
    assert not (folder / "graph.pt2").exists()
    assert card["runtimes"] == ["onnx"]
    assert "compiler" in card["note"]
    with pytest.raises(BundleError, match="compiler"):
        Bundle.load(folder, "pt2")


def test_a_bundle_holds_no_paths_and_no_names_of_this_machine(bundle: Path) -> None:
    held = {p.name: p.read_bytes() for p in bundle.iterdir()}
    if compiler():
        with zipfile.ZipFile(bundle / "graph.pt2") as package:
            held |= {name: package.read(name) for name in package.namelist()}
        assert any(name.endswith(".so") for name in held)
    roots = [Path(export.__file__).parents[2], Path(torch.__file__).parents[1], tempfile.gettempdir(), bundle.parent]
    roots += [Path.home(), Path.cwd(), sys.prefix, sys.base_prefix]
    words = [f"{root}/" for root in roots if str(root) not in ("/", "/usr")]
    words += [name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4]  # short ones come by chance
    for name, data in held.items():
        assert not [word for word in words if word.encode() in data], name


def test_weights_lie_in_a_bundle_once(bundle: Path) -> None:
    """Both graphs read weights.safetensors: a table in a graph too would double the bundle."""
    size = {p.name: p.stat().st_size for p in bundle.iterdir()}
    needed = size["weights.safetensors"] + size["encoders.json"]
    assert sum(size.values()) <= 1.15 * needed


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_runtime_reads_the_weights_that_lie_beside_it(runtime: str, bundle: Path, tmp_path: Path) -> None:
    """Other bytes there are other answers: no graph keeps a copy."""
    other = tmp_path / "b"
    shutil.copytree(bundle, other)
    data = bytearray((other / WEIGHTS).read_bytes())
    place = max(tensor_places(other / WEIGHTS).values(), key=lambda p: p.length)
    data[place.start : place.start + place.length] = bytes(place.length)
    (other / WEIGHTS).write_bytes(data)
    write_manifest(other)
    rows = golden(bundle)[:50]
    off_B = Bundle.load(other, runtime).logits(rows) - Bundle.load(bundle, runtime).logits(rows)
    assert np.abs(off_B).max() > 0.01


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 8, (5).to_bytes(8, "little") + b"[1,2]", (2).to_bytes(8, "little") + b"{}", b"x"],
)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_sealed_weights_that_do_not_parse_are_one_line(runtime: str, data: bytes, bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "b"
    shutil.copytree(bundle, broken)
    (broken / WEIGHTS).write_bytes(data)
    write_manifest(broken)
    with pytest.raises(BundleError) as caught:
        Bundle.load(broken, runtime)
    assert "\n" not in str(caught.value)


def test_places_of_tensors_are_those_that_safetensors_reads(bundle: Path) -> None:
    data = (bundle / WEIGHTS).read_bytes()
    stored = safetensors.torch.load(data)
    places = tensor_places(bundle / WEIGHTS)
    assert set(places) == set(stored)
    for name, at in places.items():
        assert at.shape == tuple(stored[name].shape)
        assert data[at.start : at.start + at.length] == stored[name].numpy().tobytes()


@pytest.mark.usefixtures("no_compiler")
def test_nothing_is_left_of_an_export_that_fails(
    schema: Schema, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = model(schema, "per_field")
    with pytest.raises(ConfigError, match="golden_rows"):
        onnx_only(m, tmp_path, tmp_path / "b")
    honest = golden_module.probabilities

    def wrong(logit_B: np.ndarray, calibrator: Any) -> np.ndarray:
        logit_B += 1  # as if a graph were off by 1
        return honest(logit_B, calibrator)

    monkeypatch.setattr(golden_module, "probabilities", wrong)
    with pytest.raises(BundleError, match="onnx drifts"):
        onnx_only(m, prepared, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("golden_rows", "count"), [("synthetic", 256), ("none", 0)])
@pytest.mark.usefixtures("no_compiler")
def test_a_bundle_need_keep_no_row_of_the_data(
    golden_rows: str,
    count: int,
    unmeasured: tuple[Path, dict[str, Any]],
    schema: Schema,
    prepared: Path,
    tmp_path: Path,
) -> None:
    folder, made = unmeasured
    if golden_rows == "none":
        folder, m = tmp_path / "b", model(schema, "per_field")
        made = export_bundle(m, prepared, folder, calibrator=CALIBRATOR, card={}, golden=golden_rows)
    assert made["verified"]["rows"] == 256  # real rows were replayed before the bundle appeared
    kept = golden(folder)
    assert len(kept) == count
    real = {json.dumps(r, sort_keys=True) for r in json.loads((prepared / "golden_rows.json").read_text())}
    assert not [r for r in kept if json.dumps(r, sort_keys=True) in real]
    assert verify(folder)["rows"] == count
    loaded = Bundle.load(folder)
    assert ("graph_us_b1" in latency(loaded, repeats=5, batches=(1,))) == (count > 0)
    if count:
        assert loaded.logits(kept).std() > 0.1
        ids_BL, dense_BN = loaded.encode(kept)
        for f in schema.sparse:  # every field is exercised, missing values among them
            at = schema.id_columns[f.name]
            assert len(np.unique(ids_BL[:, at.start : at.stop])) > 5, f.name
        assert (dense_BN.std(0) > 0.05).all()  # the last bin of a number begins far out


@pytest.mark.usefixtures("no_compiler")
def test_an_unknown_golden_batch_is_one_line(schema: Schema, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"export\.golden: expected synthetic, rows, none, got 'real'"):
        export_bundle(model(schema, "per_field"), prepared, tmp_path / "b", calibrator=None, card={}, golden="real")


def test_an_existing_folder_is_not_written_over(subject: CTR, prepared: Path, bundle: Path) -> None:
    with pytest.raises(ConfigError, match="another folder"):
        onnx_only(subject, prepared, bundle)


# --- raw rows ---


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "\ud800 half a character", "item": 10**30, "tags": ["new", None, "t1", "t2", "t3"]},
        {"user": None, "item": None, "city": None, "age": None, "tags": None, "price": None, "score": None},
        {"user": "", "tags": [], "price": float("nan"), "item": 7.0, "score": 3},
    ],
)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_unseen_and_missing_values_are_fine(runtime: str, changes: dict[str, Any], bundle: Path) -> None:
    (p,) = Bundle.load(bundle, runtime).score([row(bundle, **changes)])
    assert 0 < p < 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"item": "seven"}, "column 'item'.*whole number"),
        ({"item": True}, "column 'item'"),
        ({"user": 3}, "column 'user'.*a string"),
        ({"price": "cheap"}, "column 'price'.*a number"),
        ({"price": float("inf")}, "finite"),
        ({"price": 10**400}, "row 1"),
        ({"tags": "t1"}, "column 'tags'.*a list"),
    ],
)
def test_a_wrong_type_names_row_and_column(changes: dict[str, Any], says: str, bundle: Path) -> None:
    with pytest.raises(DataError, match=says) as caught:
        Bundle.load(bundle, "onnx").score([row(bundle), row(bundle, **changes), row(bundle)])
    assert str(caught.value).startswith("row 1: ")
    assert "\n" not in str(caught.value)


def test_an_absent_column_or_no_row_at_all_is_named(bundle: Path) -> None:
    loaded, rows = Bundle.load(bundle), golden(bundle)[:3]
    del rows[2]["city"]
    with pytest.raises(DataError, match="row 2: .*'city'"):
        loaded.score(rows)
    with pytest.raises(DataError, match="row 1: expected an object"):
        loaded.score([rows[0], [1, 2]])  # type: ignore[list-item]
    assert loaded.score([]).shape == (0,)


def test_a_logit_that_is_no_number_is_refused_rather_than_answered(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    whole = loaded.graph
    loaded.graph = lambda ids_BL, dense_BN: np.where(
        np.arange(len(ids_BL))[:, None] == 1, np.nan, whole(ids_BL, dense_BN)
    )
    with pytest.raises(DataError, match="row 1: .*not finite"):
        loaded.score(golden(bundle)[:3])


def test_scores_with_numpy_xxhash_and_onnxruntime_alone(bundle: Path) -> None:
    """Every other package is made unimportable, in a process of its own."""
    program = """
import sys
for name in ("torch", "torchrec", "fbgemm_gpu", "pandas", "polars", "pyarrow", "sklearn", "scipy", "mlflow", "hydra",
             "omegaconf", "fastapi", "onnx", "safetensors", "rich"):
    sys.modules[name] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if sys.modules.get(name, 0) is None else find(name)
from recsys.serving.bundle import Bundle
from recsys.serving.verify import verify
from recsys.serving.rows import predict_file
drift = verify(sys.argv[1])["max_drift"]
assert list(drift) == ["onnx"], drift
predict_file(Bundle.load(sys.argv[1]), "-", sys.stdout)
"""
    rows = golden(bundle)[:2]
    sent = "\n".join(json.dumps(r) for r in rows)
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle)], input=sent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    got = [json.loads(line)["probability"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(got, Bundle.load(bundle).score(rows), atol=1e-6)


def test_latency_takes_other_rows_each_time(bundle: Path) -> None:
    """One row again and again stays in the processor's cache, which no server's rows do."""
    loaded, seen = Bundle.load(bundle), []
    whole = loaded.encoder

    def encoder(rows: list[dict[str, Any]]) -> Any:
        seen.append(json.dumps(rows[0]))
        return whole(rows)

    loaded.encoder = encoder  # type: ignore[assignment]
    latency(loaded, repeats=50, batches=(1,))
    assert len(set(seen)) >= 50


def test_latency_tells_graph_and_whole_way(bundle: Path) -> None:
    found = latency(Bundle.load(bundle), repeats=5)
    assert found["runtime"] == "onnx"
    assert 0 < found["graph_us_b512"] < found["end_to_end_us_b512"]
    assert found["graph_us_b1"] > 0
    assert found["end_to_end_us_b1"] > 0


# --- files of rows ---


def predict(loaded: Bundle, path: Path) -> list[float]:
    out = io.StringIO()
    count = predict_file(loaded, str(path), out)
    got = [json.loads(line)["probability"] for line in out.getvalue().splitlines()]
    assert len(got) == count
    return got


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv", "parquet", "one line", "one object"])
def test_every_form_of_file_gives_the_same_answers(form: str, bundle: Path, tmp_path: Path) -> None:
    loaded = Bundle.load(bundle)
    rows = golden(bundle)
    path = tmp_path / f"rows.{form}"
    if form == "jsonl":
        path.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    elif form == "json":
        path.write_text("\n" + json.dumps(rows, indent=1))
    elif form in ("one line", "one object"):
        rows = rows[:1]
        path.write_text(json.dumps(rows[0], indent=None if form == "one line" else 1))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, delimiter="," if form == "csv" else "\t")
            lines.writerow(["other", *rows[0]])
            for i, r in enumerate(rows):
                tags = r["tags"] if r["tags"] is None else json.dumps(r["tags"])
                price = "NA" if r["price"] is None else r["price"]
                cells = {**r, "tags": tags, "price": price}
                lines.writerow([i, *("" if v is None else v for v in cells.values())])
    np.testing.assert_allclose(predict(loaded, path), loaded.score(rows), atol=1e-9)


def test_more_rows_than_a_chunk_and_the_number_of_a_bad_one(bundle: Path, tmp_path: Path) -> None:
    loaded, rows = Bundle.load(bundle), golden(bundle)
    many = [rows[i % len(rows)] for i in range(CHUNK + 5)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in many))
    np.testing.assert_allclose(predict(loaded, path), loaded.score(many), atol=1e-6)
    many[CHUNK + 2] = {**many[0], "item": "seven"}
    path.write_text("\n".join(json.dumps(r) for r in many))
    with pytest.raises(DataError, match=f"row {CHUNK + 2}: column 'item'"):
        predict(loaded, path)


def parquet(columns: list[pa.Array], *names: str) -> bytes:
    """A Parquet file's bytes."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns, names=list(names)), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"price": NaN}', "NaN.*null"),
        ("a.jsonl", "{}\n{", "line 2: expected JSON"),
        ("a.json", "[1, 2", "expected JSON"),
        ("a.json", "[1, 2]", "row 0: expected an object"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.jsonl", "{}\n" + '{"a":' * 20_000 + "1" + "}" * 20_000, "line 2: expected JSON, got brackets"),
        ("a.csv", "user,item\nu1,1,2\n", "line 2: expected 2 cells, got 3"),
        ("a.csv", "user,item\nu1,seven\n", "line 2: column 'item': expected a number"),
        ("a.csv", "user,item\nu1,7\n", "row 0: .*'city'"),
        ("a.parquet", "PAR", "does not parse as Parquet"),
        ("a.csv", b"user\n\xff\n", "is not UTF-8"),
        ("a.csv.gz", gzip.compress(b"user\nu1\n", mtime=0), "decompress it"),
        ("a.csv", 'user,"item\n', "parse as CSV: unexpected end"),
        ("a.csv", "user\n" + "x" * 2**25, "parse as CSV: field larger"),
        ("a.csv", "user,item,user\nu1,7,u2\n", "one column 'user', got 2"),
        ("a.parquet", parquet([pa.array([7]), pa.array([7])], "item", "item"), "one column 'item', got 2"),
        ("a.parquet", parquet([pa.array([2**62], pa.timestamp("us"))], "item"), "out of range"),
        ("absent.csv", None, "no such file"),
    ],
)
def test_bad_files_are_one_line(name: str, text: str | bytes | None, says: str, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=says) as caught:
        predict(Bundle.load(bundle), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ['["', '{"a":"'])
def test_a_value_of_any_depth_that_parses_is_refused_in_one_line(form: str, bundle: Path) -> None:
    """Just below the depth at which json gives up, spelling the value for the message recursed too deep."""
    loaded, opened, closed = Bundle.load(bundle), form[:-1], {"[": "]", "{": "}"}[form[0]]
    good, limit = row(bundle), sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Python's own; other tests' libraries raise it
    try:
        for depth in range(700, 1000):
            try:
                value = parse_json(opened * depth + "1" + closed * depth)
            except DataError as error:
                assert "nested too deep" in str(error)
                return
            with pytest.raises(DataError, match="row 0: column 'item'") as caught:
                loaded.score([{**good, "item": value}])
            assert len(str(caught.value)) < 200
        raise AssertionError("json parsed all depths")
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(("data", "says"), [(b"\xff\xfe{", "standard input is not UTF-8"), (b"\xef\xbb\xbf", None)])
def test_standard_input_is_utf_8_whatever_the_locale_says(
    data: bytes, says: str | None, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = data + json.dumps(row(bundle, user="käufer 3"), ensure_ascii=False).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(sent), encoding="ascii", errors="surrogateescape"))
    assert main(["predict", str(bundle), "--runtime", "onnx"]) == (2 if says else 0)
    out, err = capsys.readouterr()
    if says:
        assert says in err
        assert len(err.splitlines()) == 1
    else:
        want = Bundle.load(bundle, "onnx").score([row(bundle, user="käufer 3")])[0]
        assert json.loads(out)["probability"] == pytest.approx(want)


def test_rows_come_out_of_a_pipe_too(bundle: Path) -> None:
    end, start = os.pipe()
    os.write(start, json.dumps(row(bundle)).encode())
    os.close(start)
    assert list(read_rows(f"/dev/fd/{end}", Bundle.load(bundle, "onnx").encoder)) == [row(bundle)]
    os.close(end)


def test_rows_are_not_scored_if_the_answers_have_no_place(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row(bundle)))
    for out, says in (
        (tmp_path / "no" / "out", "no folder"),
        (tmp_path, "is a folder"),
        (tmp_path / "a.jsonl" / "x", "no folder"),
    ):
        assert main(["predict", str(bundle), str(tmp_path / "a.jsonl"), "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_reader_of_answers_that_stops_early_is_no_error(bundle: Path, tmp_path: Path) -> None:
    """`recsys predict … | head -1`"""
    (tmp_path / "a.jsonl").write_text((json.dumps(row(bundle)) + "\n") * 20_000)
    command = [sys.executable, "-m", "recsys", "predict", str(bundle), str(tmp_path / "a.jsonl"), "--runtime", "onnx"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        assert "probability" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def test_an_empty_file_has_no_answers(bundle: Path, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / name).write_text("\n")
        assert predict(Bundle.load(bundle), tmp_path / name) == []

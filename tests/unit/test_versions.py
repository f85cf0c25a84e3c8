"""The code version follows code and imports, not comments; what it names is made again after a change."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest

from pipelines.benchmark import search_node
from pipelines.config import RunConfig
from pipelines.node import Node, begun, run_node, stage_node
from pipelines.retrains import retrain_node
from pipelines.stage import Result, Stage
from pipelines.stages import STAGES
from recsys import versions
from recsys.config.factory import targets
from recsys.data.preparation.prepare import prepare
from recsys.errors import ConfigError, DataError
from recsys.features.row_encoder import read_encoders
from recsys.files import read_json, write_json
from recsys.results import write_prepared
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.fit import fit
from recsys.training.tensors import manifest
from recsys.versions import code_version
from tests.configs import run_config
from tests.pipeline.small import small_stage


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A package whose door imports a room inside a function."""
    folder = tmp_path / "shop_of_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "door.py").write_text('"""A door."""\ndef enter():\n    from .room import size\n    return size()\n')
    (folder / "room.py").write_text("def size():\n    return 3\n")
    (folder / "cellar.py").write_text("DEEP = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    versions._read.cache_clear()
    yield folder
    versions._read.cache_clear()


def version_after(file: Path, text: str) -> str:
    file.write_text(text)
    versions._read.cache_clear()
    return code_version("shop_of_tests.door")


def test_any_change_of_code_counts_and_no_other_does(shop):
    before = code_version("shop_of_tests.door")
    assert len(before) == 16
    room, door = shop / "room.py", shop / "door.py"
    assert version_after(room, '"""Told."""\n# a comment\ndef size():\n    """How large."""\n    return  3\n') == before
    assert version_after(room, "def size():\n    return 4\n") != before, "it is imported inside a function"
    assert version_after(room, "def size():\n    return 3\n") == before
    assert version_after(door, '"""A door."""\ndef enter():\n    return 3\n') != before
    assert version_after(shop / "cellar.py", "DEEP = False\n") == version_after(shop / "cellar.py", "DEEP = 1\n")


def test_what_is_left_out_does_not_count(shop):
    before = code_version("shop_of_tests.door", without=["shop_of_tests.room"])
    (shop / "room.py").write_text("def size():\n    return 4\n")
    versions._read.cache_clear()
    assert code_version("shop_of_tests.door", without=["shop_of_tests.room"]) == before
    with pytest.raises(ModuleNotFoundError, match=r"shop_of_tests\.attic"):
        code_version("shop_of_tests.attic")


def test_the_modules_of_a_configuration():
    parts = {
        "model": {"_target_": "recsys.models.dcn.DCN", "layers": 2},
        "more": [{"_target_": "recsys.embeddings.per_field.PerField"}, {"_target_": "nowhere.x"}],
        "none": None,
    }
    assert targets(parts) == ["recsys.embeddings.per_field", "recsys.models.dcn"]


def edited(monkeypatch: pytest.MonkeyPatch, module: str, line: str) -> None:
    """The source of a module ends with one more line; the others, 500 files, need not be read again."""
    monkeypatch.undo()
    source, read = versions._source, versions._read

    def read_edited(name: str) -> tuple[str, frozenset[str]] | None:
        return read.__wrapped__(name) if str(versions._file(name)).endswith(module) else read(name)

    monkeypatch.setattr(versions, "_source", lambda f: source(f) + (f"\n{line}\n" if str(f).endswith(module) else ""))
    monkeypatch.setattr(versions, "_read", read_edited)


@pytest.fixture
def own_code(monkeypatch):
    return lambda module, line: edited(monkeypatch, module, line)


@pytest.mark.parametrize(
    "module",
    [
        "recsys/features/encoders.py",
        "recsys/data/preparation/fit.py",
        "recsys/data/preparation/split.py",
        "recsys/features/past.py",
    ],
)
def test_a_changed_encoder_prepares_again(config, table, tmp_path, own_code, module):
    first = prepare(config, lambda: table, tmp_path)
    own_code(module, "# only a comment")
    assert prepare(config, lambda: table, tmp_path) == first
    own_code("recsys/models/dcn.py", "CHANGED = 1")
    assert prepare(config, lambda: table, tmp_path) == first, "preparation does not use models"
    own_code(module, "CHANGED = 1")
    assert prepare(config, lambda: table, tmp_path) != first


def test_a_changed_trainer_retrains(prepared, tmp_path, own_code):
    (tmp_path / "prepare").mkdir()
    write_json(tmp_path / "prepare" / "data.json", {"folder": str(prepared)}, 1)
    parts = {
        "model": {"_target_": "recsys.models.dcn.DCN"},
        "embedding": {"_target_": "recsys.embeddings.per_field.PerField"},
        "sequence": {"_target_": "recsys.sequences.mean.Mean"},
        "head": {"_target_": "recsys.heads.click.Click"},
        "train": {"lr": 0.1},
        "optimizer": {"_target_": "recsys.training.optimizers.adamw.adamw"},
        "table_optimizer": {"_target_": "recsys.embeddings.optimizers.sgd.sgd"},
    }
    stage = Stage(run_config(**parts), tmp_path / "benchmark", {"prepare": tmp_path / "prepare"})

    def retrain_name(names: list[str]) -> str:
        return retrain_node(stage, names, 0, tmp_path / "retrains").digest

    first = retrain_name(["a", "b"])
    own_code("recsys/training/fit.py", "# a comment")
    assert retrain_name(["b", "a"]) == first
    for module in ("recsys/models/fm.py", "recsys/pages/html.py", "recsys/selection/methods/leap.py"):
        own_code(module, "CHANGED = 1")
        assert retrain_name(["a", "b"]) == first, module
    for module in (
        "recsys/training/fit.py", "recsys/models/dcn.py", "recsys/embeddings/fused.py", "recsys/evaluation/metrics.py",
        "recsys/training/auto.py", "recsys/tables/lookup.py", "recsys/sequences/mean.py", "pipelines/evaluate.py",
        "recsys/embeddings/optimizers/sgd.py", "recsys/heads/click.py",
    ):  # fmt: skip
        own_code(module, "CHANGED = 1")
        assert retrain_name(["a", "b"]) != first, module


def test_a_search_is_named_by_what_it_measures_with_not_by_pages(tmp_path, own_code):
    config = run_config(selection={"_target_": "recsys.selection.methods.leap.leap"})

    def name() -> str:
        return search_node(config, tmp_path / "search", {}).digest

    first = name()
    for module in (
        "recsys/selection/reports/report_words.py",
        "pipelines/benchmark_settings.py",
        "pipelines/places.py",
    ):
        own_code(module, "CHANGED = 1")
        assert name() == first, module
    for module in (
        "recsys/selection/methods/leap.py",
        "recsys/selection/reports/savings.py",
        "recsys/training/loop.py",
    ):
        own_code(module, "CHANGED = 1")
        assert name() != first, module


def test_a_cache_knows_device_precision_and_what_computes_the_tables(prepared, tmp_path, monkeypatch):
    """A run's own stages know no device: they go on, or are taken over, on another one."""
    stage = small_stage(prepared, tmp_path)
    stage = replace(stage, config=replace(stage.config, train={**stage.config.train, "precision": "auto"}))
    selecting = replace(stage.config, selection={"_target_": "recsys.selection.methods.leap.leap"})

    def nodes() -> list[Node]:
        search = search_node(selecting, tmp_path / "search", stage.done)
        own = stage_node("train", stage.config, tmp_path / "train", stage.done)
        return [retrain_node(stage, ["a"], 0, tmp_path / "retrains"), search, own]

    monkeypatch.setattr("recsys.training.device._multiplies_bf16", lambda place: False)
    in_fp32 = nodes()
    monkeypatch.setattr("recsys.training.device._multiplies_bf16", lambda place: True)
    in_bf16 = nodes()
    assert [a.digest == b.digest for a, b in zip(in_fp32, in_bf16, strict=True)] == [False, False, True]
    for node in in_fp32:
        assert all(f"{package} {version(package)}" in node.code for package in ("torch", "torchrec", "fbgemm-gpu"))


def test_a_file_of_kept_fields_that_is_edited_is_another_setting(tmp_path):
    """The path is the same; a file that says the same elsewhere is no other setting."""
    kept, config = tmp_path / "kept.yaml", run_config()
    kept.write_text("select: {apply: [a, b]}")
    (tmp_path / "copy.yaml").write_text("select: {apply: [a, b]}")
    paths = (str(tmp_path / n) for n in ("kept.yaml", "copy.yaml"))
    first, other = (replace(config, select=replace(config.select, apply=path)) for path in paths)
    node = stage_node("train", first, tmp_path / "train", {})
    assert not node.changes(first) and not node.changes(other)
    kept.write_text("select: {apply: [a]}")
    assert node.changes(first) == ["select.apply=['a', 'b'], not ['a']"]
    assert stage_node("train", first, tmp_path / "train", {}).digest != node.digest


def test_each_stage_depends_on_the_settings_that_it_reads():
    training = {"model", "embedding", "sequence", "head", "train", "optimizer", "table_optimizer", "seed"}
    student = training - {"model", "embedding"}  # its own are in distill
    assert {name: set(kind.reads) for name, kind in STAGES.items()} == {
        "prepare": {"data"},
        "train": training | {"select.apply"},
        "select": {"selection", "select", "train", "optimizer", "seed"},
        "retrain": training,
        "refit": set(),
        "merge": {"merge"},
        "distill": student | {"distill"},
        "compress": {"compression", "quantization", "heal", "seed"},
        "evaluate": {"calibrate", "evaluate"},
        "export": {"name", "export"},
        "daily": {"daily"},
        "benchmark": training | {"benchmark", "select"},
    }


def chain(folder: Path, config: RunConfig, data: Path) -> dict[str, str]:
    """Begin each stage in its folder, after those before → their digests."""
    done: dict[str, Path] = {}
    digests = {}
    for name in ("prepare", "train", "select", "retrain", "compress", "evaluate"):
        node = stage_node(name, config, folder / name, done)
        run_node(node, folder / name, Result)
        assert begun(folder / name) == node
        if name == "prepare":
            write_prepared(folder / "prepare", data)
        done[name], digests[name] = folder / name, node.digest
    return digests


def test_a_change_reaches_its_stage_and_all_that_comes_after(tmp_path, own_code):
    """And none before it. The prepared data's own name holds its code: here it stands for what stage prepare made."""
    config = run_config(data={"x": 1})
    before = chain(tmp_path / "before", config, tmp_path / "data-1")
    assert chain(tmp_path / "elsewhere", config, tmp_path / "data-1") == before, "a place is no part of a digest"
    for number, (module, line, stage) in enumerate(
        [
            ("recsys/features/row_encoder.py", "ENCODERS_VERSION = 99", "prepare"),
            ("recsys/training/checkpoint.py", "VERSION = 99", "train"),
            ("recsys/compression/reads.py", "CHANGED = 1", "compress"),
        ]
    ):
        own_code(module, line)
        data = tmp_path / ("data-2" if stage == "prepare" else "data-1")
        after = chain(tmp_path / str(number), config, data)
        changed = [name for name in before if before[name] != after[name]]
        assert changed == list(before)[list(before).index(stage) :], module


def test_two_that_need_the_same_node_work_once(tmp_path):
    config = run_config(data={"x": 1})
    node, calls = stage_node("prepare", config, tmp_path / "prepare", {}), []

    def work() -> Result:
        calls.append(1)
        time.sleep(0.2)
        return Result({"rows": 3.0})

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: run_node(node, tmp_path / "prepare", work), range(2)))
    assert len(calls) == 1 and results[0] == results[1] and results[0].metrics == {"rows": 3.0}
    (tmp_path / "prepare" / "left").touch()
    other = stage_node("prepare", run_config(data={"x": 2}), tmp_path / "prepare", {})
    run_node(other, tmp_path / "prepare", work)
    assert len(calls) == 2 and not (tmp_path / "prepare" / "left").exists(), "what another node left is removed"


def test_work_that_was_cut_off_goes_on_in_its_folder(tmp_path):
    node, folder = stage_node("train", run_config(), tmp_path / "train", {}), tmp_path / "train"

    def cut() -> Result:
        (folder / "checkpoints").mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_node(node, folder, cut)
    seen = []
    run_node(node, folder, lambda: seen.append((folder / "checkpoints").exists()) or Result())
    assert seen == [True] and not (folder / "checkpoints").exists()


def test_seconds_are_those_of_all_attempts(tmp_path):
    node, folder = stage_node("train", run_config(), tmp_path / "train", {}), tmp_path / "train"

    def stopped() -> Result:
        time.sleep(0.2)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_node(node, folder, stopped)
    assert run_node(node, folder, Result).seconds >= 0.4
    (folder / "earlier.json").write_text("{}")  # a process was killed between the result and the removal of its note
    assert run_node(node, folder, Result).seconds >= 0.4 and not (folder / "earlier.json").exists()
    (folder / "result.json").unlink()  # made again, as messages say: its own time counts
    assert run_node(node, folder, Result).seconds < 0.2


@pytest.mark.parametrize("kind", ["a folder of files", "a link", "a dangling link", "a file"])
def test_what_is_not_ours_stays(tmp_path, kind):
    node, folder, theirs = stage_node("train", run_config(), tmp_path / "train", {}), tmp_path / "train", tmp_path / "x"
    if kind != "a dangling link":
        theirs.mkdir()
        (theirs / "data.csv").touch()
    if kind == "a folder of files":
        theirs.rename(folder)
    elif kind == "a file":
        folder.touch()
    else:
        folder.symlink_to(theirs)
    before = sorted(tmp_path.rglob("[!.]*"))
    with pytest.raises(ConfigError, match=r"train: expected no such place, .* got something else, .*hydra\.run\.dir"):
        run_node(node, folder, Result)
    assert sorted(tmp_path.rglob("[!.]*")) == before


def test_a_folder_is_begun_whole_or_not_at_all(tmp_path, monkeypatch):
    node, folder = stage_node("train", run_config(), tmp_path / "train", {}), tmp_path / "train"
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("pipelines.node.write_json", Mock(side_effect=KeyboardInterrupt))
        run_node(node, folder, Result)
    assert not folder.exists()
    folder.mkdir()
    run_node(node, folder, Result)
    assert begun(folder) == node


def test_files_of_another_version_are_refused_in_one_line(prepared, tmp_path):
    for name, body in (("none", {"encoders": {}}), ("9", {"version": 9, "encoders": {}})):
        (tmp_path / "encoders.json").write_text(json.dumps(body))
        with pytest.raises(DataError, match=f"expected encoders of version 3, got {name}: prepare the data"):
            read_encoders(tmp_path)
    (tmp_path / "encoders.json").write_text(json.dumps({"version": 1, "encoders": {}}))
    assert read_encoders(tmp_path) == {}  # bundles of before piecewise numbers are read
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(
        DataError, match=f"expected a model of version {checkpoint.VERSION}, got none: run the stage that makes it"
    ):
        checkpoint.load(tmp_path)
    (tmp_path / "result.json").write_text("")
    with pytest.raises(DataError, match="damaged: expected a result, got no JSON: run again"):
        read_json(tmp_path / "result.json", "a result", "run again")


def test_a_torn_or_older_checkpoint_is_one_line(schema, train, valid, tmp_path):
    """Left by another version, or by a disk that lost its end: said, not a traceback, not a silent fresh start."""
    spec = {
        "model": {"_target_": "recsys.models.fm.FM"},
        "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 4},
        "embedding_dropout": 0.0,
    }
    path = tmp_path / "checkpoints"
    model = checkpoint.build(schema, spec)
    config = TrainConfig(max_epochs=1, evals_per_epoch=1)
    fit(model, train, valid, config, 0, checkpoint=path)
    (newest,) = path.iterdir()
    for file in (p for p in newest.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for torn in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b"", None):
            file.unlink()
            if torn is not None:
                file.write_bytes(torn)
            with pytest.raises(DataError, match=f"{file.name}.*: remove .*{newest.name} to go on from an earlier step"):
                fit(model, train, valid, config, 0, checkpoint=path)
        file.write_bytes(whole)
    listed = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps(listed | {"version": manifest.VERSION + 1}))
    wrong = f"expected the manifest of a folder of tensors of version {manifest.VERSION}, got {manifest.VERSION + 1}"
    with pytest.raises(DataError, match=wrong):
        fit(model, train, valid, config, 0, checkpoint=path)
    (newest / "manifest.json").write_text(json.dumps(listed))
    assert fit(model, train, valid, config, 0, checkpoint=path)

"""What a configuration may call: what a packaged option names, or what a trusted package itself defines."""

import json
import shutil
import sys
import typing
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra.utils import get_object

from recsys.commands.cli import main
from recsys.config import factory
from recsys.config.factory import allowed, check, make, targets
from recsys.config.options import CONF, packaged_targets, present_name
from recsys.config.signature import parameters
from recsys.errors import ConfigError
from recsys.features.schema import Field, Schema
from recsys.files import unfinished_folder
from recsys.training import checkpoint
from recsys.training.tensors.manifest import Manifest
from recsys.training.tensors.write import write_manifest

OPEN = ["recsys.tracking.os.system", "os.system", "recsys.data.sources.scan.Path", "recsys.models.dcn.torch.load"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package of the user's own; nothing is trusted after the test."""
    folder = tmp_path / "code" / "shop"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(
        "import os\nfrom os import system\nfrom torch import nn\n\n\nclass Flat(nn.Module):\n"
        "    def __init__(self, widths, depth: int = 1):\n        super().__init__()\n"
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    yield "shop"
    factory.trust([])
    for name in ("shop", "shop.models", "shop.select"):
        sys.modules.pop(name, None)


BEFORE = [
    "recsys.compression.svd.svd", "recsys.data.complete_journey.load", "recsys.data.decoys.load",
    "recsys.data.ml100k.load", "recsys.data.planted.load", "recsys.data.scan.scan", "recsys.embeddings.unified.unified",
    "recsys.models.dcn.DCN", "recsys.sequences.din.DIN",
    *(f"recsys.selection.{n}.{n}" for n in (
        "autofield", "lasso", "leap", "leap_joint", "lightgbm_gain", "lpfs", "optfs", "permutation", "random_order",
        "sfs", "shark", "shufflegate", "variational_dropout",
    )),
]  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_what_users_wrote_before_the_modules_moved_still_works(name):
    assert present_name(name) in packaged_targets()
    assert allowed(name) and get_object(present_name(name)).__name__ == name.split(".")[-1]


def test_a_table_of_before_is_prepared_by_the_code_of_today():
    check({"_target_": "recsys.data.scan.scan", "path": "t.csv"}, "data.source")
    assert targets({"source": {"_target_": "recsys.data.scan.scan"}}) == ["recsys.data.sources.scan"]
    assert not allowed("recsys.tracking.os.system") and not allowed("elsewhere.scan.scan")


OPEN = ["recsys.tracking.os.system", "os.system", "recsys.data.sources.scan.Path", "recsys.models.dcn.torch.load"]


@pytest.mark.parametrize("target", OPEN)
@pytest.mark.parametrize("look", [check, make])
def test_what_is_reachable_through_a_module_is_refused(target: str, look: Any) -> None:
    with pytest.raises(ConfigError, match="expected what a packaged option names"):
        look({"_target_": target}, "data.source")


def test_a_yaml_runs_no_shell_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    (tmp_path / "data").mkdir()
    source = "source: {_target_: recsys.tracking.os.system, command: touch ran}"
    rest = "label: y\nsplit: {shares: [.8, .1, .1]}\nfields: {a: {}}\n"
    (tmp_path / "data" / "bad.yaml").write_text(f"name: bad\n{source}\n{rest}")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "data=bad", "stages=[prepare]"]) == 2
    assert main(["data", "report", "bad"]) == 2
    assert not (tmp_path / "ran").exists()
    assert capfd.readouterr().err.count("expected what a packaged option names") == 2


def test_a_model_of_a_run_folder_runs_no_shell_command(tmp_path: Path) -> None:
    bad = {"_target_": "recsys.tracking.os.system", "command": "touch ran"}
    schema = Schema((Field("price", "numeric", ("price",), ("float",)),), "click").to_json()
    spec = {"model": bad, "embedding": bad, "embedding_dropout": 0.0}
    (tmp_path / "model.json").write_text(json.dumps({"version": checkpoint.VERSION, "schema": schema, "spec": spec}))
    with unfinished_folder(tmp_path / checkpoint.WEIGHTS) as folder:
        write_manifest(folder, Manifest(rest={"model": {}}))
    with pytest.raises(ConfigError, match="expected what a packaged option names"):
        checkpoint.load(tmp_path)


def test_code_of_ones_own_is_called_if_its_package_is_trusted(shop: str) -> None:
    config = {"_target_": "shop.models.Flat", "depth": 3}
    with pytest.raises(ConfigError, match="trusted"):
        make(config, "model")
    factory.trust([shop])
    check(config, "model")
    assert make(config, "model")([4]).__class__.__name__ == "Flat"
    for wrong, said in (({"depth": "deep"}, "model.depth"), ({"width": 3}, "unknown width")):
        for look in (check, make):
            with pytest.raises(ConfigError, match=said):
                look({**config, **wrong}, "model")


def test_a_selector_of_ones_own_takes_a_search_and_one_of_before_is_told_so(shop: str) -> None:
    module = Path(sys.path[0]) / shop / "select.py"
    module.write_text(
        "def old(model, train, valid, recipe, seed, alpha: float = 1.0):\n    pass\n\n\n"
        "def new(search, *, alpha: float = 1.0):\n    return search, alpha\n"
    )
    factory.trust([shop])
    for look in (check, make):
        with pytest.raises(ConfigError, match=r"expected a selector that takes one Search, shop\.select\.old takes"):
            look({"_target_": "shop.select.old", "alpha": 2.0}, "selection")
        with pytest.raises(ConfigError, match="unknown search"):
            look({"_target_": "shop.select.new", "search": None}, "selection")
    assert make({"_target_": "shop.select.new", "alpha": 2}, "selection")("a search") == ("a search", 2.0)


def test_a_compressor_of_ones_own_takes_tables_or_a_model(shop: str) -> None:
    module = Path(sys.path[0]) / shop / "select.py"
    module.write_text(
        "def tables_(tables, reads, fisher, bits: int = 8):\n    return bits\n\n\n"
        "def model_(model, rows, *, bits: int = 8):\n    return bits\n\n\n"
        "def other(weights, bits: int = 8):\n    pass\n\n\ndef short(tables):\n    pass\n"
    )
    factory.trust([shop])
    for look in (check, make):
        for name in ("tables_", "model_"):
            look({"_target_": f"shop.select.{name}", "bits": 4}, "compression")
        for name in ("other", "short"):
            with pytest.raises(ConfigError, match=r"takes \(tables, reads, fisher, SETTINGS\) or \(model, rows, SETT"):
                look({"_target_": f"shop.select.{name}"}, "compression")


def test_a_misspelled_target_is_one_line_with_its_reason(shop: str, caplog) -> None:
    factory.trust([shop])
    with pytest.raises(ConfigError, match=r"cannot find shop\.models\.Flar: No module named .*: check the spelling"):
        check({"_target_": "shop.models.Flar"}, "model")
    assert not caplog.records


NOT_ITS_OWN = ["shop.models.os.system", "shop.models.system", "shop.models.nn.Linear", "shop.absent.X"]


@pytest.mark.parametrize("target", NOT_ITS_OWN)
def test_what_a_trusted_package_imports_is_not_its_own(shop: str, target: str) -> None:
    factory.trust([shop])
    for look in (check, make):
        with pytest.raises(ConfigError, match=r"in truth|cannot find"):
            look({"_target_": target}, "model")


def test_a_file_can_neither_trust_nor_set_what_makes_hydra_run_code(tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "experiment").mkdir()
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "experiment" / "bad.yaml"
    for text, said in (
        ("trusted: [os]", "trusted: a file may not say"),
        ("hydra: {callbacks: {x: {_target_: shop.Run}}}", "hydra.callbacks: a file may not set it"),
        ("hydra: {job_logging: {handlers: {x: {(): os.system}}}}", "hydra.job_logging: a file may not set it"),
        ("hydra: {launcher: {_target_: shop.Run}}", "hydra.launcher: a file may not set it"),
        ("hydra: {job: {env_set: {PATH: x}}}", "hydra.job.env_set: a file may not set it"),
        ("hydra: {output_subdir: ../../x}", "hydra.output_subdir: a file may not set it"),
        ("hydra: {sweep: {subdir: '${oc.env:NO,/elsewhere}'}}", "hydra.sweep.subdir: a file may not set it"),
        ("hydra: {overrides: {task: ['seed=3']}}", "hydra.overrides: a file may not set it"),
        ("hydra: {run: {dir: /elsewhere}}", "hydra.run.dir: expected a folder inside runs"),
    ):
        bad.write_text(f"# @package _global_\n{text}\n")
        assert main(["run", "experiment=bad"]) == 2
        assert said in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["experiment"]


def test_nor_can_a_folder_of_options_in_place_of_ours(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONF, tmp_path / "own")
    with (tmp_path / "own" / "config.yaml").open("a") as config:
        config.write("hydra: {job: {env_set: {PATH: x}}}\n")
    assert main(["run", "--config-path", "own"]) == 2
    assert "hydra.job.env_set: a file may not set it" in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize("target", sorted(packaged_targets()))
def test_a_signature_read_from_source_is_the_one_that_is_imported(target: str) -> None:
    found = get_object(target)
    hints = get_type_hints(found.__init__ if isinstance(found, type) else found, include_extras=True)
    hints.pop("return", None)
    read = parameters(target)
    if read is None:  # a module without settings of its own, or a dataclass: cheap to import
        assert isinstance(found, type) and ("__init__" not in vars(found) or is_dataclass(found))
        return
    assert list(read) == [n for n in hints]
    for name, kind in read.items():
        assert kind is typing.Any or kind == hints[name], name
    light = {n for n, k in read.items() if k is not typing.Any}
    heavy = {n for n in read if n not in light}
    needed = {"schema", "search", "model", "rows", "tables", "reads", "fisher", "dense"}
    assert heavy <= needed, "a setting's type must be readable without an import"

"""A model, a selector and a compressor of the user's own, as CONTRIBUTING shows them: no file of ours is touched."""

import fractions
import json
import os
import re
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.commands.cli import main
from recsys.config import factory
from recsys.errors import ConfigError
from recsys.results import read_result
from tests.pipeline.small import SMALL, clicks

ROOT = Path(__file__).parents[2]
CHOSEN = ["model=linear", "selection=by_ids", "selection.least=20", "compression=halved", "~quantization"]
QUICK = [a for a in SMALL if not a.startswith("selection.")] + ["train.max_epochs=8"]


def write_methods(code: Path, options: Path) -> None:
    """The package `my_ctr` and its conf files, from the blocks of CONTRIBUTING.md that name their file."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+/\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert len(blocks) == 6
    for name, text in blocks:
        path = (code if name.endswith(".py") else options) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (code / "my_ctr" / "__init__.py").write_text("")


def check_result(result: Path) -> None:
    """The user's code did the work: one linear layer, kept fields by count of ids, tables of two bytes a number."""
    stages = read_result(result).stages
    folders = {name: result.parent / name for name in stages}
    model = json.loads((folders["train"] / "model.json").read_text())
    assert model["spec"]["model"]["_target_"] == "my_ctr.model.Linear"
    kept = json.loads((folders["select"] / "selection.json").read_text())["keep"]
    assert set(kept) == {"user", "item", "user_x_city", "noise"}
    tables = json.loads((folders["compress"] / "compression.json").read_text())
    assert tables and all(2 * t["bytes_after"] == t["bytes_before"] for t in tables)
    assert json.loads((folders["evaluate"] / "metrics.json").read_text())["compress"]["auc"] > 0.6


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The user's folder; nothing of it is left in this process."""
    write_methods(tmp_path, tmp_path)
    pq.write_table(clicks(), tmp_path / "clicks.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield tmp_path
    factory.trust([])
    for name in [n for n in sys.modules if n.partition(".")[0] == "my_ctr"]:
        del sys.modules[name]


def test_methods_of_the_folder_that_the_user_is_in(here, capfd):
    stages = "stages=[prepare,train,select,retrain,compress,evaluate]"
    assert main(["run", *QUICK, *CHOSEN, stages, "trusted=[my_ctr]"]) == 0
    check_result(Path(capfd.readouterr().out.splitlines()[-1]))


def test_what_is_wrong_with_a_method_of_the_users_own_is_one_line(here, capfd):
    run = ["run", *QUICK, *CHOSEN]
    for arguments, said in (
        ([], "model._target_: expected what a packaged option names, got 'my_ctr.model.Linear'"),
        (["trusted=[my_ctl]"], "trusted: expected packages that are installed or in "),
        (["trusted=[my_ctr]", "selection.least=0"], "selection.least: "),
        (["trusted=[my_ctr]", "+model.depth=3"], "model: unknown depth"),
    ):
        assert main([*run, *arguments]) == 2
        error = capfd.readouterr().err
        assert said in error and len(error.splitlines()) == 1
    source = here / "my_ctr" / "model.py"
    source.write_text(source.read_text().replace(", outputs: int = 1", "").replace("outputs", "1"))
    columns = pq.read_table("clicks.parquet")
    pq.write_table(columns.append_column("buy", columns["click"]), "clicks.parquet")
    assert main([*run, "trusted=[my_ctr]", "data.labels=[click,buy]", "head=several"]) == 2
    assert "model: the head wants 64 numbers a row, and my_ctr.model.Linear has no" in capfd.readouterr().err
    assert not (here / "runs").exists()


def test_only_the_trusted_package_is_imported_from_the_folder(here):
    (here / "beside_it.py").write_text("")
    (here / "fractions.py").write_text("raise RuntimeError")
    (here / "triton_data").mkdir()
    factory.trust(["my_ctr", "fractions"])
    assert factory.targets({"_target_": "my_ctr.model.Linear"}) == ["my_ctr.model"]
    assert str(here) not in sys.path
    assert find_spec("my_ctr.model") and find_spec("fractions").origin == fractions.__file__
    assert find_spec("beside_it") is None and find_spec("triton_data") is None
    (here / "my_ctr" / "uses.py").write_text("import beside_it\n\nclass Uses:\n    pass\n")
    with pytest.raises(ConfigError, match=r"my_ctr\.uses\.Uses imports beside_it: install it, or trust it too"):
        factory.make({"_target_": "my_ctr.uses.Uses"}, "model")


def built_wheel(source: Path, into: Path) -> Path:
    """The wheel of a project, as `make wheel` builds it."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(into), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_methods_of_an_installed_package_beside_an_installed_wheel(tmp_path):
    """Third parties come from this environment; recsys and the user's package are wheels in a fresh one."""
    home, project = tmp_path / "home", tmp_path / "project"
    write_methods(project, home)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "my-ctr"\nversion = "1"\n'
    )
    pq.write_table(clicks(), home / "clicks.parquet")
    wheels = [built_wheel(ROOT, tmp_path / "recsys"), built_wheel(project, tmp_path / "own")]
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    # As a line of a .pth, this folder's own .pth files are not read: not the one of the editable recsys.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-warn-conflicts", *map(str, wheels)], check=True, capture_output=True)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    ran = subprocess.run(  # without a compiler: a graph.pt2 takes half a minute
        [venv / "bin" / "recsys", "run", *QUICK, *CHOSEN, "trusted=[my_ctr]"],
        cwd=home, env=env | {"OMP_NUM_THREADS": "1", "CXX": "none"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = home / ran.stdout.splitlines()[-1]
    check_result(result)
    bundle = read_result(result).stages["export"].bundle
    where = "import recsys, pipelines; print(recsys.__file__, pipelines.__file__)"
    told = subprocess.run([venv / "bin" / "python", "-c", where], cwd=home, env=env, capture_output=True, text=True)
    assert told.stdout.count(str(packages)) == 2
    proof = subprocess.run([venv / "bin" / "recsys", "verify", bundle], cwd=home, env=env, capture_output=True)
    assert proof.returncode == 0, proof.stderr

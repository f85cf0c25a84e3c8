"""Options of the folder that the user stands in: `data/shop.yaml`, `model/mine.yaml` …"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.commands.cli import main
from recsys.config.options import CONF, own_options
from recsys.results import prepared_folder, read_result
from tests.pipeline.small import clicks

QUICK = ["stages=[prepare]", "name=own"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    pq.write_table(clicks(1500).append_column("one", pa.array(np.ones(1500))), tmp_path / "clicks.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "guess", "clicks.parquet", "--label", "click", "--group", "user", "--name", "shop"]) == 0
    return tmp_path


def result(capfd):
    return read_result(Path(capfd.readouterr().out.splitlines()[-1]))


def test_a_guessed_table_is_prepared_from_where_the_user_stands(here, capfd):
    capfd.readouterr()
    assert main(["run", "data=shop", *QUICK]) == 0
    found = result(capfd)
    prepared = prepared_folder(found.stages["prepare"].folder)
    schema = json.loads((prepared / "schema.json").read_text())
    names = {f["name"] for f in schema["fields"]}
    assert {"user", "item", "city", "tags", "price", "at_hour"} <= names
    assert not {"one", "click"} & names
    assert main(["run", f"resume={found.id}"]) == 0
    assert result(capfd).id == found.id
    assert main(["run", "data=shop", f"from_run={found.id}", *QUICK]) == 0
    assert result(capfd).id != found.id
    assert main(["run", "data=shop", *QUICK, "-m", "seed=1,2"]) == 0
    assert len(list(here.glob("runs/*sweep/*/result.json"))) == 2


def test_other_groups_of_the_users_own(here, capfd):
    (here / "model").mkdir()
    (here / "experiment").mkdir()
    (here / "model" / "deep.yaml").write_text(
        (CONF / "model" / "dcn.yaml").read_text().replace("layers: 2", "layers: 9")
    )
    (here / "experiment" / "first.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: shop\n  - override /model: deep\nname: first\n"
    )
    (here / "config.yaml").write_text("name: unrelated\n")
    capfd.readouterr()
    assert main(["run", "experiment=first", "--cfg", "job"]) == 0
    told = capfd.readouterr().out
    assert "layers: 9" in told
    assert "path: clicks.parquet" in told
    assert "name: first" in told
    assert "unrelated" not in told


def test_a_packaged_name_is_refused(here, capfd):
    (here / "model").mkdir()
    (here / "model" / "dcn.yaml").write_text("layers: 9\n")
    assert main(["run", "data=shop", *QUICK]) == 2
    assert "model/dcn.yaml has the name of a packaged option" in capfd.readouterr().err
    assert main(["data", "guess", "clicks.parquet", "--label", "click", "--name", "table"]) == 2
    assert "packaged option" in capfd.readouterr().err


def test_which_folders_are_searched(tmp_path):
    assert own_options(tmp_path) == []
    assert own_options(CONF) == []
    (tmp_path / "data").mkdir()
    assert own_options(tmp_path) == [], "a folder of tables is not one of options"
    (tmp_path / "data" / "shop.yaml").write_text("name: shop\n")
    assert own_options(tmp_path) == [f"hydra.searchpath=['own://{tmp_path}']"]


@pytest.mark.slow
def test_a_folder_that_is_named_like_a_setting_is_no_group(here, capfd):
    """`runs/` stands beside `data/` after the first run: `runs=…` must still be a setting."""
    for name in ("runs", "name", "seed", "select", "stages"):
        (here / name).mkdir()
        (here / name / "x.yaml").write_text("a: 1\n")
    capfd.readouterr()
    settings = ["runs=elsewhere", "name=mine", "seed=3", "select.top_k=2", "stages=[prepare]"]
    assert main(["run", "data=shop", *settings, "--cfg", "job"]) == 0
    told = capfd.readouterr().out
    assert "runs: elsewhere" in told and "name: mine" in told and "seed: 3" in told and "path: clicks.parquet" in told
    assert main(["data", "report", "shop"]) == 0
    assert main(["run", "data=shop", *settings]) == 0
    assert (here / "elsewhere").is_dir()


def test_options_of_a_folder_that_is_named(here, tmp_path_factory, capfd):
    other = tmp_path_factory.mktemp("other")
    (other / "model").mkdir()
    (other / "model" / "theirs.yaml").write_text((CONF / "model" / "fm.yaml").read_text())
    assert main(["run", "--config-dir", str(other), "model=theirs", "data=shop", "--cfg", "job"]) == 2
    assert "data: no option 'shop'" in capfd.readouterr().err
    assert main(["run", "model=theirs", "--config-dir", str(other), "--cfg", "job"]) == 0
    assert "recsys.models.fm.FM" in capfd.readouterr().out

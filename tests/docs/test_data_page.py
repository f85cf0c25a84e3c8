"""docs/data.md says what the code takes: every key, kind, encoding, setting, format and hash."""

import inspect
import re
from dataclasses import MISSING, fields
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from omegaconf import OmegaConf

from recsys.commands.tree import command_tree
from recsys.data.inspection.times import as_time
from recsys.data.preparation import split, split_settings
from recsys.data.preparation.columns import instants
from recsys.data.preparation.fields import ENCODINGS, FieldConfig, _past, field_configs
from recsys.data.preparation.prepare import KEYS
from recsys.data.sources.files import FORMATS
from recsys.data.sources.scan import scan
from recsys.data.sources.text import POLICIES
from recsys.data.sources.types import TYPES
from recsys.errors import DataError
from recsys.features.derived import PARTS, WHATS
from recsys.features.encoders import hash_text

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def tables(heading: str) -> list[list[list[str]]]:
    """The tables under a heading: rows of cells, without the head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^\|.*\n)+", section, re.M)
    cells = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in t.splitlines()[2:]] for t in found]
    return [[[c.strip() for c in row] for row in t] for t in cells]


def test_every_key():
    (rows,) = tables("The keys")
    assert [spans(row[0])[0] for row in rows] == list(KEYS)


def test_every_setting_of_a_source():
    rows = {spans(row[0])[0]: row[1] for row in tables("Sources")[0]}
    assert list(rows) == list(inspect.signature(scan).parameters)
    assert set(spans(rows["format"])) == {"auto", *FORMATS}
    assert set(spans(rows["types"])) == set(TYPES)
    assert set(spans(rows["on_bad_rows"])) == set(POLICIES)


def test_every_form_of_a_split():
    (rows,) = tables("Splits")
    forms = [OmegaConf.to_container(OmegaConf.create(spans(row[0])[0])) for row in rows]
    read = set(re.findall(r'split(?:\.get\(|\[)"(\w+)"', inspect.getsource(split) + inspect.getsource(split_settings)))
    assert {key for form in forms for key in form} == read | set(split.SPLITS)
    assert {frozenset(form) & {"shares", "column", "by", "train"} for form in forms} == {
        frozenset({"train"}), frozenset({"shares"}), frozenset({"shares", "by"}), frozenset({"column", "train"}),
    }  # fmt: skip


@pytest.mark.parametrize(("spelling", "read"), tables("Times")[0])
def test_every_spelling_of_a_time(spelling, read):
    text = spans(spelling)[0]
    value = int(text) if spelling.endswith("as a number") else text
    column, found = pa.array([value] * 5), as_time(pl.Series("x", [value] * 5))
    if read.startswith("an error"):
        with pytest.raises(DataError, match=read.partition(": ")[2] or "a time like"):
            instants(column, "x")
        assert found is None
        return
    want = datetime.fromisoformat(read)
    us_B, there_B = instants(column, "x")
    assert there_B.all()
    assert datetime(1970, 1, 1) + timedelta(microseconds=int(us_B[0])) == want
    assert (found is None) if want.year < 1980 else (found[0] == want)


def test_every_kind_and_encoding():
    rows = {spans(row[0])[0]: spans(row[2]) for row in tables("Fields")[0]}
    assert rows.pop("timestamp") == []
    assert {k: tuple(v) for k, v in rows.items()} == ENCODINGS
    parts = next(row[1] for row in tables("Fields")[0] if "timestamp" in row[0])
    assert set(PARTS) <= set(spans(parts))


def test_every_setting_of_a_field_and_its_default():
    rows = {name: row[1] for row in tables("Fields")[1] for name in spans(row[0])}
    known = {f.name: f.default for f in fields(FieldConfig) if f.name != "name"}
    assert set(rows) == set(known)
    for name, default in known.items():
        if isinstance(default, int) and not isinstance(default, bool) and name != "buckets":
            assert rows[name].split(":")[0] == str(default), name
    assert MISSING not in known.values()


def test_every_setting_of_the_past():
    rows = {spans(row[0])[0]: row[1] for row in tables("What had happened before")[0]}
    assert list(rows) == ["what", "by", "of", "delay_days", "prior", "where"]
    assert _past({"what": "last", "by": ["u"], "of": "item", "delay_days": 1, "prior": 2}, "at")
    assert set(WHATS) <= set(spans(rows["what"]))
    assert rows["prior"].split(":")[0] == f"{_past({'what': 'rate', 'by': ['u']}, '').prior:g}"


def test_the_examples_are_read():
    written = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    entries = OmegaConf.to_container(OmegaConf.create(written.group(1)))["fields"]
    assert {c.name for c in field_configs({"item": {}, **entries})} == {"item", "seen", "recent"}
    line = re.search(r"'\+data\.fields=(\{.*?\}\})'", PAGE, re.S)
    assert len(field_configs(OmegaConf.to_container(OmegaConf.create(line.group(1).replace("\n", " "))))) == 5


@pytest.mark.parametrize(("text", "seed", "digest"), tables("Fields")[2])
def test_the_hashes(text, seed, digest):
    assert f"{hash_text(''.join(spans(text)), int(seed)):016x}" == digest.strip("`")


def test_every_command():
    assert set(re.findall(r"recsys data ([a-z]+)", PAGE)) == {
        n.split()[1] for n in command_tree() if n.startswith("data ")
    }


def test_every_file_that_preparation_leaves(prepared):
    told = {name for row in tables("What preparation leaves")[0] for cell in row[:2] for name in spans(cell)}
    there = {p.name + "/" * p.is_dir() for p in prepared.iterdir()} | {p.name for p in (prepared / "train").iterdir()}
    assert there <= told

"""Whatever a table calls its columns: YAML reads back, pages run nothing, the terminal shows and does not obey."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.table import Table

from recsys.commands.cli import main
from recsys.commands.data.configs import load_config
from recsys.data.inspection.documented import write_yaml
from recsys.errors import ConfigError, DataError, in_one_line, printable
from recsys.pages.html import Markup, page, table
from recsys.terminal import console
from tests.pages import SCRIPT, runs

SECRET = "sesame-4711"
NAMES = [
    "a\x00b", "a\x07b", "a\x1b[2Jb", "a\x7fb", "a\x85b", "a\u2028b", "a\u2029b", "\ufeffa", "a\ufffeb", "a\nb",
    "a\tb", "a\rb", " a", "a ", "L" * 130, "L" * 5000, "${oc.env:HOSTILE}", r"\${oc.env:HOSTILE}",
    r"\\${oc.env:HOSTILE}", "${x", "$", "\\", "a: #b", "- a", "? a", "[/b]", ":x:", SCRIPT, "'q\"", "~", "<<", "=",
    "1e3", "1_0", "0x1f", "0o7", ".inf", "2024-01-01", "12:30:00", "!!python/object:os.system", "&a", "*a", "{a",
    "a}", "%a", "@a", "`a", "|", ">", "---", "...", "yes", "NULL", "\U0001f600", "a.b", "a[0]", "_target_",
    "defaults", "hydra", "name", "@package _global_",
]  # fmt: skip
text = st.one_of(
    st.sampled_from(NAMES),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.text("\\${}:.'\"#\n\x85 ocenvHOSTILE", min_size=1, max_size=20),
)


def config(name, value):
    """A data configuration with a hostile text at every place that may hold one."""
    return {
        "name": "odd",
        "source": {"_target_": "recsys.data.sources.scan.scan", "path": value},
        "label": value,
        "split": {"column": value, "train": [value, name], "by": name},
        "fields": {name: {"kind": "multi", "separator": value, "inputs": [name, value]}, "plain": {}},
        "dropped": {name: value},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("names")
    (place / "data").mkdir()
    (place / "data" / "composed.yaml").write_text("defaults: [odd, _self_]\n")
    before = os.environ.get("HOSTILE")
    os.environ["HOSTILE"] = SECRET
    yield place
    os.environ.pop("HOSTILE") if before is None else os.environ.update(HOSTILE=before)


def round_trip(folder, wanted, comment, name):
    written = write_yaml(wanted, {"": comment, "label": comment, f"fields.{name}": comment})
    (folder / "data" / "odd.yaml").write_text(written, encoding="utf-8")
    return load_config("odd", folder), written


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(text, text, text)
def test_what_is_written_is_what_is_read(folder, name, value, comment):
    found, written = round_trip(folder, config(name, value), comment, name)
    assert found == config(name, value)
    assert SECRET not in written
    assert {c for c in written if unicodedata.category(c) in ("Cc", "Zl", "Zp")} == {"\n"}


def test_hydra_composes_it_to_the_same(folder):
    """All names in one composition, each as a key and as a value: one takes as long as one name's."""
    wanted = config(NAMES[0], NAMES[1])
    wanted["fields"] = {n: {"kind": "multi", "separator": n, "inputs": [n, n]} for n in NAMES}
    wanted["split"]["train"], wanted["dropped"] = list(NAMES), {n: n for n in NAMES}
    round_trip(folder, wanted, NAMES[0], NAMES[1])
    assert {k: v for k, v in load_config("composed", folder).items() if k in wanted} == wanted


def test_the_mark_of_a_missing_value_is_refused_where_it_is_one(folder):
    with pytest.raises(DataError, match=r"label: a configuration cannot hold the name \?\?\?: rename"):
        write_yaml({"label": "???"}, {})
    wanted = config("???", "x")
    wanted["split"] = {"seed": 0}
    wanted["fields"]["???"]["inputs"] = ["x"]
    assert round_trip(folder, wanted, "", "")[0] == wanted


def table_of(names):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 600)
    columns = {n: rng.integers(0, 9 + i, 600) for i, n in enumerate(names)}
    return pa.table(
        columns
        | {"words": np.array([f"{n}{i % 7}" for i, n in zip(range(600), names * 600, strict=False)]), "y": label}
    )


def test_guess_and_report_take_every_name(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOSTILE", SECRET)
    monkeypatch.chdir(tmp_path)
    pq.write_table(table_of(NAMES), "odd.parquet")
    assert main(["data", "guess", "odd.parquet", "--label", "y"]) == 0
    fields = load_config("odd")["fields"]
    assert set(NAMES) <= set(fields)
    assert main(["data", "report", "odd"]) == 0
    said, made = capfd.readouterr(), [f.read_text() for f in Path("data").iterdir()]
    for shown in (said.out, said.err, *made):
        assert SECRET not in shown
    for shown in (said.err, Path("data/odd.yaml").read_text()):
        assert "\x1b[2J" not in shown
        assert "\x07" not in shown


# — pages —


def test_the_parser_of_these_tests_finds_what_runs():
    assert runs(f"<p>{SCRIPT}</p>") == ["alert(1)"]
    assert runs("<p><img src=x onerror=alert(1)></p>") == ["img onerror", "img"]


@pytest.mark.parametrize(
    "name", [SCRIPT, f"</script>{SCRIPT}", f'"><img src=x onerror=alert(1)>{SCRIPT}', f"-->{SCRIPT}"]
)
def test_no_part_of_a_page_runs_a_name(name):
    figure = go.Figure()
    figure.add_bar(x=[1.0], y=[name], name=name, text=[name])
    figure.update_layout(title=name, xaxis_title=name)
    made = page(
        name, name, [name], [(name, table([name], [[name], [1]])), (name, figure), ("", Markup("<p>x</p>")), ("", name)]
    )
    assert runs(made) == []
    assert made.count("alert(1)") >= 6


@pytest.mark.parametrize("name", ["[/b]", "[bold]x[/bold]", ":x:", "[link=http://x]y[/link]", "\x1b[31mred", "a\x07b"])
def test_the_terminal_shows_names_as_they_are(capsys, name):
    screen = console(width=200)
    screen.print(name, soft_wrap=True)
    grid = Table(name, title=name)
    grid.add_row(name)
    screen.print(grid)
    screen.rule(name)
    said = capsys.readouterr().err
    assert said.count(printable(name, 100)) == 5
    assert "\x1b" not in said


def test_an_error_is_one_line_whatever_it_names():
    said = in_one_line(ConfigError("column 'a\nb\x1b[2J': " + "L" * 9000 + ": rename it"))
    assert said.startswith("column 'a b\\x1b[2J': LLL")
    assert said.endswith("LL: rename it")
    assert len(said.splitlines()) == 1
    assert len(said) < 1100

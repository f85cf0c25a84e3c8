"""The layout: `make lint` proves the arrows between rooms; this proves that no room is a heap."""

import ast
import graphlib
import tomllib
from pathlib import Path

import grimp
import pytest

from pipelines.stages import STAGES
from recsys.commands.tree import command_tree

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("room", ["recsys", "recsys/data", "recsys/selection"])
def test_a_room_lists_at_most_twelve_files(room):
    files = sorted(p.name for p in (ROOT / room).glob("*.py"))
    assert 1 < len(files) <= 12, files


def test_no_rule_of_the_layout_has_an_exception():
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert len(rules) >= 8
    assert not [r["name"] for r in rules if r.get("ignore_imports")]


def test_every_room_is_on_a_floor():
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (floors,) = (r["layers"] for r in rules if "pipelines" in r.get("layers", []))
    placed = {name.strip() for floor in floors for name in floor.split("|")}
    rooms = {
        f"recsys.{p.stem}" for p in (ROOT / "recsys").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert rooms - {"recsys.__init__"} | {"pipelines"} == placed


def test_no_file_imports_itself_by_way_of_others_nor_by_names_in_strings():
    graph = grimp.build_graph("recsys", "pipelines")
    arrows = {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    arrows["pipelines.run"] |= {f"pipelines.{s.call.partition('.')[0]}" for s in STAGES.values()}
    calls = {p.get_default("call").partition(":")[0] for p in command_tree().values()} - {""}
    arrows["recsys.commands.cli"] |= {f"recsys.commands.{module}" for module in calls}
    assert set().union(*arrows.values()) <= set(arrows), "a name in a string that is no module"
    list(graphlib.TopologicalSorter(arrows).static_order())  # raises CycleError


VAGUE = {"found", "made", "own", "told", "about", "at", "of", "there"}


def test_no_variable_is_named_by_a_word_that_does_not_say_what_it_holds():
    """Fields of a class may: some are keys of files and settings."""
    vague = []
    for file in sorted(p for room in ("recsys", "pipelines") for p in (ROOT / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        fields = {
            f.target for c in nodes if isinstance(c, ast.ClassDef) for f in c.body if isinstance(f, ast.AnnAssign)
        }
        stored = {n: n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        stored |= {n: n.arg for n in nodes if isinstance(n, ast.arg)}
        vague += [f"{file}:{n.lineno} {name}" for n, name in stored.items() if name in VAGUE and n not in fields]
    assert not vague

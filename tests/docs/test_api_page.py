"""docs/api.md is what the code says."""

import importlib.util
from pathlib import Path

import recsys
from recsys.commands.tree import command_tree

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    assert spec and spec.loader
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    page = api.api_page()
    assert (ROOT / "docs" / "api.md").read_text() == page, "expected docs/api.md as the code says: python docs/api.py"
    for name in recsys.__all__:
        assert f"### recsys.{name}\n" in page
    for name in command_tree():
        assert f"usage: recsys{' ' * bool(name)}{name}" in page

"""Writes docs/api.md: the public names, the options of the configuration and the commands, from the code.

`python docs/api.py` writes it; tests/docs/test_api_page.py compares it with the code.
"""

import ast
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import recsys
from recsys.commands.tree import command_tree
from recsys.config.options import CONF

__all__ = ["PAGE", "api_page"]

PAGE = Path(__file__).parent / "api.md"
_HEAD = """# Reference

Made from the code by `python docs/api.py`: the public names of the package, the options of the configuration, and the
commands. [python.md](python.md) has an example; [data.md](data.md) has the keys of a data configuration.
"""


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"


def _arguments(node: ast.AST) -> str:
    """What a call takes, as the source says it: a function's arguments, a dataclass's fields, an error's message."""
    if isinstance(node, ast.ClassDef):
        if constructor := next((n for n in node.body if getattr(n, "name", "") == "__init__"), None):
            return _arguments(constructor)
        fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
        return ", ".join(f for f in fields if not f.startswith("_")) or "message: str"
    assert isinstance(node, ast.FunctionDef)
    return re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))


def _described(name: str) -> Iterator[str]:
    """Call, first paragraph as prose, the rest of the docstring as it stands, and a class's methods."""
    thing = getattr(recsys, name)
    node = ast.parse(inspect.getsource(thing)).body[0]
    first, _, rest = (inspect.getdoc(thing) or "").partition("\n\n")
    yield f"### recsys.{name}\n"
    yield f"```python\nrecsys.{name}({_arguments(node)})\n```\n"
    yield " ".join(first.split()) + "\n"
    if rest:
        yield _block(rest)
    methods = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    if isinstance(node, ast.ClassDef) and methods:
        yield "\n".join(_method(n) for n in methods) + "\n"


def _method(node: ast.FunctionDef) -> str:
    is_property = any(isinstance(d, ast.Name) and d.id in ("property", "cached_property") for d in node.decorator_list)
    call = node.name if is_property else f"{node.name}({_arguments(node)})"
    return f"- `{call}`: {(ast.get_docstring(node) or '').partition(chr(10))[0]}"


def _option(file: Path) -> str:
    """The comment that opens an option, up to the first line that ends a sentence."""
    words: list[str] = []
    for line in file.read_text().splitlines():
        if not line.startswith("#") or (words and words[-1].endswith((".", ":", "?"))):
            break
        words += [line.removeprefix("#").strip()] if "@package" not in line else []
    return " ".join(words).rstrip(":")


def api_page() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = "100"  # argparse wraps its help at the terminal's width
    parts = [_HEAD, "## Public names\n"]
    for name in recsys.__all__:
        parts += _described(name)
    parts.append("## Options of the configuration\n")
    others = "`search` is for `recsys sweep`, `hardware` for `recsys plan --hardware`"
    parts.append(f"`recsys run GROUP=OPTION` ({others}); conf/config.yaml has the other keys.\n")
    for group in sorted(p for p in CONF.iterdir() if p.is_dir()):
        rows = [f"- `{group.name}={f.stem}`: {_option(f)}" for f in sorted(group.glob("*.yaml"))]
        parts += [f"### {group.name}\n", "\n".join(rows) + "\n"]
    parts.append("## Commands\n")
    for name, parser in command_tree().items():
        parts += [f"### recsys {name}".rstrip() + "\n", _block(parser.format_help())]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(api_page())

"""Parameters of a function or class, read from its source in milliseconds; importing torch would take seconds."""

import ast
import builtins
import collections.abc
import re
import typing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recsys.config import ranges

__all__ = ["arguments_of", "described", "parameters"]

_NAMES = vars(builtins) | vars(typing) | vars(collections.abc) | {n: getattr(ranges, n) for n in ranges.__all__}


def _type_of(annotation: ast.expr | None) -> Any:
    """The type that an annotation names; Any if only an import can tell."""
    if annotation is None:
        return Any
    try:
        kind = eval(ast.unparse(annotation), dict(_NAMES))
    except Exception:  # a user's annotation may be anything; a later import reports what is wrong with it
        return Any
    return Any if isinstance(kind, str) else kind


def _definition(target: str) -> ast.ClassDef | ast.FunctionDef | None:
    """The source of a function or class; None if the file of its module does not define it."""
    module, _, name = target.rpartition(".")
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    nodes: list[ast.stmt] = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    return next((n for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name), None)


def parameters(target: str) -> dict[str, Any] | None:
    """The parameters of a function or class → their types, in order, without `self`.

    Args:
        target: `package.module.Name`; importing the packages above the module must be cheap.

    Returns:
        Name → type hint, Any if the hint needs another module. None if the file does not define the
        name itself, or defines a class without `__init__`: then only an import can tell.
    """
    node, first = _definition(target), 0
    if isinstance(node, ast.ClassDef):
        node, first = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None), 1
    if node is None:
        return None
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][first:]
    return {a.arg: _type_of(a.annotation) for a in named}


def described(target: str) -> dict[str, str]:
    """What the docstring of a function or class says of its parameters: name → text; {} if it has no `Args`."""
    node = _definition(target)
    return arguments_of(ast.get_docstring(node) or "") if node else {}


def arguments_of(docstring: str) -> dict[str, str]:
    """The section `Args` of a cleaned docstring: name → text on one line."""
    lines = docstring.partition("\nArgs:\n")[2].splitlines()
    texts, name = dict[str, str](), ""
    for line in lines:
        begun = re.match(r"    (\w+): (.*)", line)
        if begun:
            name, texts[begun[1]] = begun[1], begun[2]
        elif name and line.startswith("        "):
            texts[name] += f" {line.strip()}"
        elif line and not line.startswith(" "):
            break
    return texts

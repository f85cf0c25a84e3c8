"""The version of the code that made a result, which is part of the name of everything kept for later runs.

Results that later runs find by name (prepared data, retrained models) could come from older code. Therefore
their names contain a hash of the code that made them, and every file that a later process reads contains
the version of its format.
"""

import ast
import gc
import hashlib
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

__all__ = ["code_version", "constant", "module_of"]

_OURS = ("recsys", "pipelines")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _file(module: str) -> Path | None:
    """The source of a module, found without importing anything; None if there is no such module."""
    top, *inside = module.split(".")
    try:
        spec = find_spec(top) if top else None
    except ValueError:  # __main__ has no spec
        return None
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin)
    for part in inside:
        if path.name != "__init__.py":
            return None
        folder = path.parent
        path = next((p for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()), Path())
    return path if path.suffix == ".py" and path.is_file() else None


def _source(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _remove_docstrings(nodes: Sequence[ast.AST]) -> None:
    for node in nodes:
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]


def _imports(nodes: Sequence[ast.AST], module: str, file: Path) -> Iterator[str]:
    """All names that a module may import, at its top or inside a function; some are not modules."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _read(module: str) -> tuple[str, frozenset[str]] | None:
    """The hash of one module's code, and the names that it imports."""
    file = _file(module)
    if file is None:
        return None
    collects = gc.isenabled()
    gc.disable()  # many small nodes, none of them garbage: each collection would walk all that the process holds
    try:
        tree = ast.parse(_source(file))
        nodes = list(ast.walk(tree))
        _remove_docstrings(nodes)
        return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(_imports(nodes, module, file))
    finally:
        if collects:
            gc.enable()


def code_version(*modules: str, without: Collection[str] = ()) -> str:
    """Hash the code of modules and of all that they import from recsys, pipelines and their own packages.

    Comments, docstrings and layout do not count; anything else does. Another version of Python may hash the
    same code differently; results are then made again.

    Args:
        modules: Dotted names, such as `recsys.data.preparation.prepare`.
        without: Modules and packages that are ignored, since no result depends on them.

    Returns:
        16 hexadecimal digits.

    Raises:
        ModuleNotFoundError: If there is no source of such a module, or of one in `without`.
    """
    for module in (*modules, *without):
        if _file(module) is None:
            raise ModuleNotFoundError(f"expected the source of a module {module}, found none")
    tops = {*_OURS, *(m.partition(".")[0] for m in modules)}
    hashes: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        left_out = any(module == w or module.startswith(f"{w}.") for w in without)
        if module in hashes or left_out or module.partition(".")[0] not in tops:
            continue
        read = _read(module)
        if read is None:
            continue  # a function or class that is imported by name
        hashes[module], imported = read
        waiting.extend(imported)
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()[:16]


def constant(name: str) -> int:
    """A whole number that a module sets at its top, read from its source, since an import may take seconds.

    Args:
        name: Such as `recsys.training.checkpoint.VERSION`.

    Raises:
        ModuleNotFoundError: If there is no such number.
    """
    module, _, variable = name.rpartition(".")
    file = _file(module)
    for line in reversed(ast.parse(_source(file)).body if file else []):
        match line:
            case ast.Assign(targets=[ast.Name(id=set_)], value=ast.Constant(value=int(number))) if set_ == variable:
                return number
            case _:
                pass
    raise ModuleNotFoundError(f"expected a number {name} in the source of {module}, found none")


def module_of(target: str) -> str:
    """The longest prefix of a dotted name that is a module; empty if none is."""
    while target and _file(target) is None:
        target = target.rpartition(".")[0]
    return target

"""What may be set: groups, their options, and of each setting its default, its doc and its range, for a form.

All is read from the files of conf/, the folder's own options, and the signatures that the pipeline checks by: a form
shows what a run will take, and nothing of it is written twice. No training code is imported.
"""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache, lru_cache
from inspect import getdoc
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

from pipelines.config import RunConfig
from recsys.config.options import CONF
from recsys.config.signature import arguments_of, described, parameters
from recsys.files import Json
from recsys.training.config import TrainConfig

__all__ = ["group_names", "options"]

_LOOSE = ConfigDict(arbitrary_types_allowed=True)
_HIDDEN = ("_target_", "_partial_", "defaults", "hydra", "trusted", "runs")  # not for a form
_MOST = 1 << 20  # bytes of an option's file


def options(cwd: Path, launchers: frozenset[str]) -> Json:
    """Groups and settings of a run.

    Args:
        cwd: The service's folder, which may hold options of its own.
        launchers: Options of the group `launcher` that may be chosen.

    Returns:
        `groups`: name → {"default", "options": name → {"doc", "own", "settings"}}; `settings`: those of the run itself.
        An experiment has `chosen` too: group → the option that it takes.
        A setting is {"key", "default", "doc", "schema"}; its schema is JSON Schema, {} if any value goes.
    """
    files = [f for folder in (CONF, cwd) for g in sorted(group_names()) for f in sorted((folder / g).glob("*.yaml"))]
    files = [f for f in files if f.parent.name != "launcher" or f.stem in launchers]
    return _options(tuple((f, f.stat().st_mtime_ns) for f in files if f.stat().st_size < _MOST))


@cache
def group_names() -> frozenset[str]:
    """Groups of a run; others are of `recsys plan` and `recsys sweep`."""
    return frozenset(g.name for g in CONF.iterdir() if g.name in (*RunConfig.__annotations__, "experiment"))


@lru_cache(4)
def _options(files: tuple[tuple[Path, int], ...]) -> Json:
    top = CONF / "config.yaml"
    chosen = {**_defaults("folders.yaml"), **_defaults("config.yaml")}
    groups: Json = {g: {"default": chosen.get(g), "options": {}} for g in sorted(group_names())}
    for file, _ in files:
        group, text = file.parent.name, file.read_text(encoding="utf-8")
        try:
            option = _option(group, text)
        except (yaml.YAMLError, RecursionError) as error:
            option = {"doc": f"cannot be read: {str(error).splitlines()[0]}", "settings": []}
        groups[group]["options"].setdefault(file.stem, {**option, "own": file.parent.parent != CONF})
    return {"groups": groups, "settings": _settings(top.read_text(encoding="utf-8"), _run_hints(), {})}


def _defaults(name: str) -> dict[str, str | None]:
    """Group → the option that a run takes by default."""
    listed: Any = yaml.safe_load((CONF / name).read_text(encoding="utf-8"))["defaults"]
    return {str(k): v for entry in listed if isinstance(entry, dict) for k, v in entry.items()}


def _option(group: str, text: str) -> Json:
    head = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    doc = " ".join(head[: _first_setting(text)])
    hints, docs = dict[str, Any](), dict[str, str]()
    target = re.search(r"^_target_:\s*([\w.]+)", text, re.MULTILINE)
    if target:
        hints, docs = parameters(target[1]) or {}, described(target[1])
    elif group == "train":
        hints, docs = get_type_hints(TrainConfig, include_extras=True), arguments_of(getdoc(TrainConfig) or "")
    elif group == "experiment":
        hints = _run_hints()
    above = "" if group == "experiment" else group
    settings = _settings(text, {f"{above}.{k}".lstrip("."): h for k, h in hints.items()}, docs, above)
    return {"doc": doc, "settings": settings} | ({"chosen": _chosen(text)} if group == "experiment" else {})


def _chosen(text: str) -> dict[str, str | None]:
    """Group → the option that an experiment takes, of lines such as `- override /train: fixed`."""
    content: Any = yaml.safe_load(text)
    listed = content.get("defaults", []) if isinstance(content, dict) else []
    lines = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {str(key).rpartition("/")[2]: option for line in lines for key, option in line.items()}


def _first_setting(text: str) -> int:
    """How many lines of comment open the file."""
    count = 0
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        count += "@package" not in line
    return count


def _run_hints() -> dict[str, Any]:
    """Key of a run, such as `select.top_k` → its type."""
    hints = dict[str, Any]()
    for key, hint in get_type_hints(RunConfig, include_extras=True).items():
        kind = next((k for k in (hint, *get_args(hint)) if isinstance(k, type) and is_dataclass(k)), None)
        if kind is None:
            hints[key] = hint
        else:
            hints |= {f"{key}.{k}": h for k, h in get_type_hints(kind, include_extras=True).items()}
    return hints


def _settings(text: str, hints: Mapping[str, Any], docs: Mapping[str, str], above: str = "") -> list[Json]:
    """The settings of a file, in its order; their keys are those of overrides."""
    root = yaml.compose(text, yaml.SafeLoader)
    lines, settings = text.splitlines(), list[Json]()
    if isinstance(root, yaml.MappingNode):
        _walk(root, above, lines, hints, docs, settings)
    return settings


def _walk(
    node: yaml.MappingNode, above: str, lines: list[str], hints: Mapping[str, Any], docs: Mapping[str, str],
    settings: list[Json],
) -> None:  # fmt: skip
    for key_node, value_node in node.value:
        name = str(key_node.value)
        key = f"{above}.{name}" if above else name
        if name in _HIDDEN:
            continue
        if isinstance(value_node, yaml.MappingNode) and value_node.value and name != "fields" and _is_block(value_node):
            target = next((str(v.value) for k, v in value_node.value if k.value == "_target_"), None)
            theirs = {f"{key}.{k}": hint for k, hint in ((target and parameters(target)) or {}).items()}
            _walk(value_node, key, lines, {**hints, **theirs}, described(target) if target else docs, settings)
            continue
        doc = _comment(key_node, value_node, lines) or docs.get(name, "")
        default = yaml.safe_load(yaml.serialize(value_node))
        settings.append({"key": key, "default": default, "doc": doc, "schema": _schema(hints.get(key))})


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _comment(key: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """The comment behind a setting, on its own line."""
    mark = key.end_mark if _is_block(value) else value.end_mark
    rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
    _, sign, comment = rest.partition("# ")
    return comment.strip() if sign else ""


def _schema(hint: Any) -> Json:
    """JSON Schema of a type with its range; {} if only an import can tell, or any value goes."""
    if hint is None:
        return {}
    try:
        return TypeAdapter[Any](hint, config=_LOOSE).json_schema()
    except (PydanticUserError, NameError, TypeError):  # a type that JSON does not know
        return {}

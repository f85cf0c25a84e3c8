"""A data configuration as YAML with a comment on every entry, for a person to edit."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["entry", "scalar", "write_yaml"]

_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def scalar(value: Any) -> str:
    """One value as YAML; text is quoted where it could be read as anything else."""
    if value is None:
        return "null"
    if not isinstance(value, str):
        return json.dumps(value)
    safe = value and value[0] in _PLAIN and set(value) <= _PLAIN | set("0123456789.-")
    if safe and value.lower() not in _WORDS:
        return value
    return json.dumps(value.replace("${", "\\${"), ensure_ascii=False)


def entry(value: Any) -> str:
    """A value in one line: `{kind: numeric, inputs: [a, b]}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k))}: {entry(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(entry(v) for v in value) + "]"
    return scalar(value)


def _comment(text: str, indent: str) -> list[str]:
    words, lines = " ".join(text.split()).split(" "), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 112 - len(indent) and lines[-1]:
            lines.append("")
        lines[-1] += f" {word}"
    return [f"{indent}#{line}" for line in lines]


def write_yaml(config: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """The configuration, every mapping two deep on lines of its own.

    Args:
        config: Keys in the order to write.
        comments: `key` or `key.inner` → what to say above it; "" is the file's head.
    """
    lines = [*_comment(comments[""], ""), ""] if "" in comments else []
    for key, value in config.items():
        if key in comments:
            lines += _comment(comments[key], "")
        if not isinstance(value, Mapping) or not value or key == "split":
            lines.append(f"{scalar(key)}: {entry(value)}")
            continue
        lines.append(f"{scalar(key)}:")
        for name, inner in value.items():
            if said := comments.get(f"{key}.{name}"):
                lines += _comment(said, "  ")
            lines.append(f"  {scalar(str(name))}: {entry(inner)}")
    return "\n".join(lines) + "\n"

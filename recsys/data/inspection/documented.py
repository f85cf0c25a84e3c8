"""A data configuration as YAML with a comment on every entry, for a person to edit."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from recsys.errors import DataError, printable

__all__ = ["entry", "write_yaml"]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # text that every YAML reader reads as text …
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # … except these
_LONGEST_WORD = 60  # most letters of a word in a comment
_MISSING = "???"  # OmegaConf's mark for a value that is not set yet; it cannot be escaped


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper; it quotes all text that is not plain, since OmegaConf reads fewer words as text than PyYAML."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


class _Lines(dict[str, Any]):
    """A mapping that is written with a line for each key; any other mapping is written in one line."""


_Dumper.add_representer(str, _text)
_Dumper.add_representer(
    _Lines, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=False)
)


def _literal(value: Any, place: str) -> Any:
    """The same value with `${` escaped in its texts, so that OmegaConf reads them as they are and resolves nothing.

    Keys need no escape: OmegaConf takes them as they are.

    Raises:
        DataError: If a text cannot be written.
    """
    if isinstance(value, Mapping):
        return {str(k): _literal(v, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, str):
        if value == _MISSING:
            raise DataError(f"{place}: a configuration cannot hold the name ???: rename that column or value")
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return [_literal(v, place) for v in value] if isinstance(value, Sequence) else value


def _dump(value: Any) -> str:
    width: Any = math.inf  # one line, however long
    return yaml.dump(value, None, _Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=width)


def entry(value: Any, place: str = "data") -> str:
    """A value in one line: `{kind: numeric, inputs: [a, b]}`.

    Args:
        value: What OmegaConf will read: mappings, sequences, text, numbers, true, false and null.
        place: The key of the value, for messages.

    Raises:
        DataError: If a text cannot be written.
    """
    return _dump([_literal(value, place)])[1:-2]


def _pair(key: str, value: Any, place: str) -> str:
    """`key: value` on one line; on two if the key is long."""
    return _dump(_Lines({key: _literal(value, place)}))[:-1]


def _comment(text: str, indent: str) -> list[str]:
    """Lines of a comment; none begins with `@`, which is a directive to Hydra in a file's head (`# @package …`)."""
    words, lines = [printable(w, _LONGEST_WORD) for w in text.split()], [""]
    for word in words:
        if len(lines[-1]) + len(word) > 112 - len(indent) and lines[-1]:
            lines.append("")
        lines[-1] += f" {word}"
    return [f"{indent}#{line.replace(' @', ' (at)', 1) if line.startswith(' @') else line}" for line in lines]


def write_yaml(config: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """The configuration as YAML; mappings at the first two levels have a line for each key.

    OmegaConf reads all names and values back as they are, and resolves none of them.

    Args:
        config: Keys in the order to write.
        comments: `key` or `key.inner` → the comment above it; "" is the file's head.

    Raises:
        DataError: If a value cannot be written.
    """
    lines = [*_comment(comments[""], ""), ""] if "" in comments else []
    for key, value in config.items():
        if key in comments:
            lines += _comment(comments[key], "")
        if not isinstance(value, Mapping) or not value or key == "split":
            lines.append(_pair(key, value, key))
            continue
        lines.append(f"{key}:")
        for name, inner in value.items():
            if comment := comments.get(f"{key}.{name}"):
                lines += _comment(comment, "  ")
            lines.append(textwrap.indent(_pair(str(name), inner, f"{key}.{name}"), "  "))
    return "\n".join(lines) + "\n"

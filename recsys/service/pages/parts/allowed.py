"""What a setting may be, in words: its type, lowest and highest value, or its choices, from its JSON Schema."""

from collections.abc import Mapping
from typing import Any

from recsys.service.pages.parts.words import shown

__all__ = ["allowed"]

_NAMES = {"integer": "whole number", "number": "number", "string": "text", "null": "null", "object": "mapping"}
_ENDLESS = 2**53  # a highest value from here on is that of the machine


def allowed(schema: Mapping[str, Any]) -> str:
    """Words for a schema; "" if any value goes.

    >>> allowed({"type": "number", "minimum": 0, "exclusiveMaximum": 1})
    'number (at least 0, less than 1)'
    >>> allowed({"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]})
    'a, b or null'
    """
    words = [part for one in schema.get("anyOf", [schema]) for part in _choices(one)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _choices(schema: Mapping[str, Any]) -> list[str]:
    """The words of a schema, several if it is a list of values."""
    kind = str(schema.get("type"))
    if "enum" in schema:
        return [shown(value) for value in schema["enum"]]
    if kind == "boolean":
        return ["true", "false"]
    if kind == "array":
        each = allowed((schema.get("prefixItems") or [schema.get("items", {})])[0])
        count = f" of {schema['maxItems']}" if "maxItems" in schema else ""
        return [f"list{count}{': ' if count else ' of '}{each}" if each else f"list{count}"]
    if kind not in _NAMES:
        return []
    limits = _limits(schema, kind == "integer")
    return [f"{_NAMES[kind]} ({limits})" if limits else _NAMES[kind]]


def _limits(schema: Mapping[str, Any], whole: bool) -> str:
    """The lowest and the highest value."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if whole and below is not None:
        high, below = below - 1, None
    if high is not None and high >= _ENDLESS:
        high = None
    named = (("at least", low), ("more than", above), ("at most", high), ("less than", below))
    words = [f"{name} {shown(value)}" for name, value in named if value is not None]
    if low is not None and high is not None:
        words = [f"{shown(low)} to {shown(high)}"]
    if "multipleOf" in schema:
        words.append(f"a multiple of {shown(schema['multipleOf'])}")
    return ", ".join(words)

"""Dataclasses as JSON and back. A field that holds its default value is left out of the JSON.

A dataclass with a field `figures` is open: in the JSON its figures are at the same level as its other fields.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

__all__ = ["from_json", "shape_of", "to_json"]

_OPEN = "figures"


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def shape_of(kind: Any) -> Any:
    """The shape that `recsys.files.read_json` checks for a dataclass, or for any other type of its fields."""
    parts = get_args(kind)
    if is_dataclass(kind):
        optional = {f.name for f in fields(kind) if _default(f) is not MISSING}
        shapes = {f.name: shape_of(f.type) for f in fields(kind) if f.name != _OPEN}
        return {n: _or_none(s) if n in optional else s for n, s in shapes.items()}
    if is_typeddict(kind):
        return {n: shape_of(h) for n, h in get_type_hints(kind).items() if n in kind.__required_keys__}
    if get_origin(kind) is UnionType:
        return tuple(shape for part in parts for shape in _several(shape_of(part)))
    if get_origin(kind) is list:
        return [shape_of(parts[0])]
    if get_origin(kind) is dict:
        return {str: shape_of(parts[1])}
    return (int, float) if kind is float else kind


def _several(shape: Any) -> tuple[Any, ...]:
    return shape if isinstance(shape, tuple) else (shape,)


def _or_none(shape: Any) -> tuple[Any, ...]:
    return (*_several(shape), type(None))


def to_json(value: Any) -> Any:
    """The JSON of a dataclass and of all its fields."""
    if is_dataclass(value):
        pairs = [(f.name, getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) != _default(f)]
        named = {k: to_json(v) for k, v in pairs}
        return named | named.pop(_OPEN) if _OPEN in named else named
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    return [to_json(v) for v in value] if isinstance(value, list | tuple) else value


def from_json(kind: Any, value: Any) -> Any:
    """The dataclass of JSON that fits `shape_of(kind)`; unknown keys are left out unless it is open."""
    parts = get_args(kind)
    if is_dataclass(kind) and isinstance(value, Mapping):
        kinds = {f.name: f.type for f in fields(kind)}
        known = {k: from_json(kinds[k], v) for k, v in value.items() if k in kinds and k != _OPEN}
        rest = {k: v for k, v in value.items() if k not in kinds}
        build: Any = kind
        return build(**known, **({_OPEN: rest} if _OPEN in kinds else {}))
    if get_origin(kind) is UnionType:
        return None if value is None else from_json(next(p for p in parts if p is not type(None)), value)
    if get_origin(kind) is list:
        return [from_json(parts[0], v) for v in value]
    if get_origin(kind) is dict:
        return {k: from_json(parts[1], v) for k, v in value.items()}
    return value

"""The tables of a scheme and the lookups that read them, in order: data only.

A sequence is not pooled by its table: each of its positions is a separate key with at most one id. Thereby
a sequence shares a table with its candidate, and one fused update covers both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.tables.lookup import Lookup, joined_width

__all__ = ["Plan", "check_dim", "ids_of_tables"]


def check_dim(name: str, dim: int) -> int:
    """Return `dim` if FBGEMM accepts it.

    Raises:
        ConfigError: If it is not a positive multiple of 4.
    """
    if dim <= 0 or dim % 4:
        near = max(4, 4 * round(dim / 4))
        raise ConfigError(f"{name} must be a multiple of 4 (FBGEMM kernels), got {dim}: set {name}={near}")
    return dim


def ids_of_tables(schema: Schema) -> dict[str, int]:
    """Field → count of ids, for each field that has its own table or whose table others read.

    A table keeps its owner's name if selection dropped the owner: the fields that read it still share it.

    Raises:
        ConfigError: If fields that share a table have different counts of ids.
    """
    ids: dict[str, int] = {}
    for f in schema.sparse:
        owner = f.table or f.name
        if ids.setdefault(owner, f.cardinality) != f.cardinality:
            raise ConfigError(
                f"fields that read the table {owner!r} must have its {ids[owner]} ids, "
                f"got {f.cardinality} of {f.name!r}: prepare the data again"
            )
    return ids


@dataclass(frozen=True)
class Plan:
    """Tables and lookups.

    Args:
        schema: The fields.
        tables: Name → (rows, dim).
        lookups: All reads, in the order of the schema's fields; at least one for each sparse field.
    """

    schema: Schema
    tables: Mapping[str, tuple[int, int]]
    lookups: Sequence[Lookup]

    @classmethod
    def of(cls, schema: Schema, tables: Mapping[str, tuple[int, int]], lookups: Sequence[Lookup]) -> "Plan":
        """A plan of lookups in any order."""
        order = {f.name: i for i, f in enumerate(schema.sparse)}
        return cls(schema, dict(tables), sorted(lookups, key=lambda k: order[k.field]))

    @cached_property
    def dims(self) -> list[int]:
        """The width of a row for each lookup."""
        return [self.tables[k.table][1] for k in self.lookups]

    @cached_property
    def keys(self) -> list[list[str]]:
        """The keys of each lookup: one, or one for each position of a sequence."""
        fields = [self.schema[k.field] for k in self.lookups]
        return [
            [f"{i}/{f.name}/{p}" for p in range(f.max_length)] if f.kind == "sequence" else [f"{i}/{f.name}"]
            for i, f in enumerate(fields)
        ]

    @cached_property
    def pooled(self) -> list[str]:
        """The fields whose table pools their ids: all looked-up ones except sequences."""
        return [f.name for f in self.schema.sparse if f.kind != "sequence"]

    @cached_property
    def widths(self) -> dict[str, int]:
        """Field → its count of columns in x_BW."""
        widths = {f.name: f.max_length for f in self.schema.fields}  # right for numbers; the others follow
        for f in self.schema.sparse:
            reads = [i for i, k in enumerate(self.lookups) if k.field == f.name]
            width = joined_width([self.lookups[i] for i in reads], [self.dims[i] for i in reads])
            widths[f.name] = width * len(self.keys[reads[0]])
        return widths

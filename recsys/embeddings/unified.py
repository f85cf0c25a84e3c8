"""Unified embedding (feature multiplexing): every field reads the same few tables."""

from collections.abc import Mapping
from dataclasses import replace

from recsys.config.ranges import Count, Few, Seed, Start, Width
from recsys.embeddings.fused import FusedLookups
from recsys.embeddings.plan import check_dim, ids_of_tables
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.tables.lookup import Lookup

__all__ = ["unified"]


def unified(
    schema: Schema,
    dim: Width = 8,
    rows: Count = 65536,
    num_tables: Few = 2,
    chunks: Few = 2,
    field_chunks: Mapping[str, Few] | None = None,
    seed: Seed = 0,
    init: Start = 0.05,
) -> FusedLookups:
    """x_f = T_{t(f,1)}[h_{f,1}(id)] ‖ … ‖ T_{t(f,C)}[h_{f,C}(id)], C the field's count of chunks.

    Chunk c of field f is read with the hash salt (f, c); tables take turns (round robin). Thereby the
    count of chunks sets a field's width, and a new field needs no table. Collisions between fields do
    little harm, since each field has its own weights in later layers; collisions within a field do.
    A field that shares another's table has the same reads and hashes as that field.

    Args:
        schema: The fields.
        dim: Width of a table, a multiple of 4.
        rows: Rows of each table, at least 1.
        num_tables: Count of tables.
        chunks: Reads of each field.
        field_chunks: Other counts for some fields, by name; those that share a table have its owner's.
        seed: Another seed gives other collisions.
        init: Initial weights are uniform in ±init.

    Raises:
        ConfigError: If dim is not a multiple of 4, a count is below 1, or `field_chunks` names a field
            that is unknown or shares another's table.

    Source: Coleman et al., Unified Embedding: Battle-Tested Feature Representations for Web-Scale
    ML Systems, 2023, section 4.
    """
    check_dim("embedding.dim", dim)
    owners = ids_of_tables(schema)
    for name in field_chunks or {}:
        if name not in owners:
            why = f"reads as {schema[name].table!r} does" if schema[name].table else "has no table"
            raise ConfigError(f"embedding.field_chunks: {name!r} {why}: expected some of {', '.join(owners)}")
    counts = dict.fromkeys(owners, chunks) | dict(field_chunks or {})
    if min(rows, num_tables, *counts.values()) < 1:
        raise ConfigError("embedding.rows, num_tables and chunks must be at least 1: mend the smallest")
    reads = [(f, c) for f in counts for c in range(counts[f])]
    owned = [Lookup(f, f"t{i % num_tables}", f"{seed}/{f}/{c}") for i, (f, c) in enumerate(reads)]
    lookups = [replace(k, field=f.name) for f in schema.sparse for k in owned if k.field == (f.table or f.name)]
    used = dict.fromkeys(k.table for k in lookups)  # with fewer reads than tables, some tables are not read
    return FusedLookups(schema, {t: (rows, dim) for t in used}, lookups, init)

"""One table for each field, with a bounded count of rows: id → hash mod rows."""

from recsys.config.ranges import Count, Seed, Start, Width
from recsys.embeddings.fused import FusedLookups
from recsys.embeddings.plan import check_dim, ids_of_tables
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.tables.lookup import Lookup

__all__ = ["hashed"]


def hashed(
    schema: Schema,
    dim: Width = 8,
    rows: Count = 4096,
    seed: Seed = 0,
    init: Start = 0.05,
) -> FusedLookups:
    """x_f = T_f[h_f(id) mod rows]; a field with at most `rows` ids has a row for each id.

    Fields that share a table share its hash, so that an id reads the same row in each of them.

    Args:
        schema: The fields.
        dim: Width of a row, a multiple of 4.
        rows: Most rows of a table, at least 1.
        seed: Another seed gives other collisions.
        init: Initial weights are uniform in ±init.

    Raises:
        ConfigError: If dim is not a multiple of 4, or rows < 1.

    Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009, without
    the sign.
    """
    check_dim("embedding.dim", dim)
    if rows < 1:
        raise ConfigError(f"embedding.rows must be at least 1, got {rows}: set embedding.rows=4096")
    ids = ids_of_tables(schema)
    tables = {t: (min(rows, count), dim) for t, count in ids.items()}
    salts = {t: f"{seed}/{t}" if count > rows else None for t, count in ids.items()}
    owners = {f.name: f.table or f.name for f in schema.sparse}
    return FusedLookups(schema, tables, [Lookup(n, t, salts[t]) for n, t in owners.items()], init)

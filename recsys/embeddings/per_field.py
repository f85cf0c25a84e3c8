"""One table for each field, one row for each id: no collisions."""

from recsys.config.ranges import Start, Width
from recsys.embeddings.fused import FusedLookups
from recsys.embeddings.plan import check_dim, ids_of_tables
from recsys.features.schema import Schema
from recsys.tables.lookup import Lookup

__all__ = ["per_field"]


def per_field(schema: Schema, dim: Width = 8, init: Start = 0.05) -> FusedLookups:
    """x_f = T_f[id]; fields that share a table read the same rows.

    Args:
        schema: The fields; each sparse one has a table of its cardinality, or reads another field's.
        dim: Width of a row, a multiple of 4.
        init: Initial weights are uniform in ±init.

    Raises:
        ConfigError: If dim is not a multiple of 4.
    """
    check_dim("embedding.dim", dim)
    tables = {t: (ids, dim) for t, ids in ids_of_tables(schema).items()}
    return FusedLookups(schema, tables, [Lookup(f.name, f.table or f.name) for f in schema.sparse], init)

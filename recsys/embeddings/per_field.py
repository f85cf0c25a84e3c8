"""One table a field, one row an id: no collisions."""

from recsys.embeddings.fused import FusedLookups, check_dim
from recsys.schema import Schema
from recsys.tables import Lookup

__all__ = ["per_field"]


def per_field(schema: Schema, dim: int = 8, init: float = 0.05) -> FusedLookups:
    """x_f = T_f[id].

    Args:
        schema: The fields; each sparse one gets a table of its cardinality.
        dim: Width of a row, a multiple of 4.
        init: Weights start uniform in ±init.

    Raises:
        ConfigError: If dim is not a multiple of 4.
    """
    check_dim("embedding.dim", dim)
    tables = {f.name: (f.cardinality, dim) for f in schema.sparse}
    return FusedLookups(schema, tables, [Lookup(t, t) for t in tables], init)

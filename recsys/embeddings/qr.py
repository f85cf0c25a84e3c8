"""Compositional embedding by quotient and remainder: two small tables for each field, and no collisions."""

from recsys.config.ranges import Count, Natural, Start, Width
from recsys.embeddings.fused import FusedLookups
from recsys.embeddings.plan import check_dim, ids_of_tables
from recsys.features.schema import Schema
from recsys.tables.lookup import Lookup

__all__ = ["qr"]


def qr(
    schema: Schema, dim: Width = 8, collisions: Count = 4, threshold: Natural = 200, init: Start = 0.05
) -> FusedLookups:
    """x_f = R_f[id mod m] ⊙ Q_f[id // m], with m = ⌈ids / collisions⌉ rows in R and at most `collisions` in Q.

    Two ids that share a row of R have different rows of Q: unlike hashed ids they never collide. A field
    of at most `threshold` ids has a row for each id. For a list, the mean of R's rows is multiplied by
    that of Q's.

    Args:
        schema: The fields.
        dim: Width of a row, a multiple of 4.
        collisions: Ids that share a row of R; tables become smaller by about this factor.
        threshold: Most ids of a field that has a row for each id.
        init: Initial weights are uniform, in ±init for R, in 1 ± init for Q.

    Raises:
        ConfigError: If dim is not a multiple of 4.

    Source: Shi et al., Compositional Embeddings Using Complementary Partitions, KDD 2020, section 4.1, with
    the element-wise product. Its public code draws initial weights of both tables in (√(1 / ids), 1); here
    Q starts near 1, so that x is initially as small as in the other schemes.
    """
    check_dim("embedding.dim", dim)
    tables: dict[str, tuple[int, int]] = {}
    lookups: list[Lookup] = []
    centres: dict[str, float] = {}
    for name, ids in ids_of_tables(schema).items():
        readers = [f.name for f in schema.sparse if (f.table or f.name) == name]
        small = ids <= threshold or collisions == 1
        rows = ids if small else -(-ids // collisions)
        tables[name] = (rows, dim)
        lookups += [Lookup(reader, name, wraps=not small) for reader in readers]
        if not small:
            quotients = f"{name} quotient"
            tables[quotients], centres[quotients] = (-(-ids // rows), dim), 1.0
            lookups += [Lookup(reader, quotients, divisor=rows, combine="product") for reader in readers]
    return FusedLookups(schema, tables, lookups, init, centres)

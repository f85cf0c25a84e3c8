"""`recsys data synth`: writes a synthetic table of clicks whose truth is known."""

from argparse import Namespace
from pathlib import Path

from recsys.data.sets.criteo_like import AVAZU_CATS, AVAZU_INTS, FORMATS, SETS, Planted, largest_column, write
from recsys.errors import ConfigError

__all__ = ["main"]


def main(given: Namespace) -> int:
    """`recsys data synth OUT …` → exit code."""
    out = Path(given.out)
    format = given.format or out.suffix.removeprefix(".")
    if format not in FORMATS:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, got {format!r}: give it, or end OUT so")
    if given.rows < 1:
        raise ConfigError(f"--rows: expected at least 1, got {given.rows}: raise it")
    ints, cats = (len(AVAZU_INTS), len(AVAZU_CATS)) if format == "avazu" else (13, 26)
    asked = (ints if given.ints is None else given.ints, cats if given.cats is None else given.cats)
    if format in ("criteo", "avazu") and asked != (ints, cats):
        raise ConfigError(
            f"{format} has {ints} integer and {cats} categorical columns, got {asked}: drop --ints, --cats"
        )
    cardinality = 100_000 if given.cardinality is None else given.cardinality
    if given.set:
        if asked != (13, 26) or given.cardinality is not None:
            raise ConfigError(
                f"--set {given.set} has 13 + 26 columns and ids of its own: drop --ints, --cats, --cardinality"
            )
        cardinality = largest_column(SETS[given.set], 26)
    write(out, Planted(*asked, cardinality, given.seed), given.rows, format, words=not given.set)
    print(out)
    return 0

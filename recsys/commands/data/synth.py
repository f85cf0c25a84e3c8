"""`recsys data synth`: writes a synthetic table of clicks whose truth is known."""

from argparse import Namespace
from pathlib import Path

from recsys.data.sets.criteo_like import AVAZU_CATS, AVAZU_INTS, FORMATS, Planted, write
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
    write(out, Planted(*asked, given.cardinality, given.seed), given.rows, format)
    print(out)
    return 0

"""`recsys data synth`: write a set of clicks with a planted truth."""

from collections.abc import Sequence
from pathlib import Path

from recsys.commands.arguments import Parser
from recsys.data.sets.criteo_like import AVAZU_CATS, AVAZU_INTS, FORMATS, Planted, write
from recsys.errors import ConfigError

__all__ = ["synth_main"]


def synth_main(arguments: Sequence[str]) -> int:
    """`recsys data synth OUT …` → exit code."""
    parser = Parser("recsys data synth", description="Write a Criteo-like set with a planted truth.")
    parser.add_argument("out", help="file to write; the truth goes beside it, to OUT.truth.json")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=FORMATS, default=None, help="by OUT's ending if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ints", type=int, default=None, help="integer columns (13; criteo and avazu have their own)")
    parser.add_argument("--cats", type=int, default=None, help="categorical columns (26)")
    parser.add_argument("--cardinality", type=int, default=100_000, help="distinct ids of the largest column")
    given = parser.parse_args(arguments)
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

"""`recsys data report`: write the page that a person reads before training."""

from collections.abc import Sequence
from pathlib import Path

from recsys.commands.arguments import Parser
from recsys.commands.data.configs import load_config
from recsys.data.inspection.examine import examine, worries
from recsys.data.inspection.page import html
from recsys.errors import ConfigError
from recsys.files import write_text
from recsys.terminal import console

__all__ = ["report_main"]


def report_main(arguments: Sequence[str]) -> int:
    """`recsys data report`: write the page, print what to look at, and its path as the last line."""
    parser = Parser(
        "recsys data report",
        description="A page to read before training: fields, drift, leakage, label rate.",
        epilog="example: recsys data report shop --out shop.html",
    )
    parser.add_argument("data", help="data/NAME.yaml by name, a YAML file, or a packaged option such as rebuy")
    parser.add_argument("--out", type=Path, help="the page; data/NAME.html by default")
    parser.add_argument("--rows", type=int, default=1_000_000, help="most rows to look at (1000000), drawn at random")
    given = parser.parse_args(arguments)
    if given.rows < 100:
        raise ConfigError(f"--rows: expected at least 100, got {given.rows}")
    found = examine(load_config(given.data), given.rows)
    out: Path = given.out or Path("data") / f"{Path(given.data).stem}.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html(found))
    for worry in worries(found):
        console().print(f"look at: {worry}", soft_wrap=True)
    print(out, flush=True)
    return 0

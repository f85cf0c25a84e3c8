"""`recsys data report`: writes the page that a person reads before training."""

from argparse import Namespace
from pathlib import Path

from recsys.commands.data.configs import load_config
from recsys.data.inspection.examine import examine, worries
from recsys.data.inspection.page import html
from recsys.errors import ConfigError
from recsys.files import followed, write_text
from recsys.terminal import console

__all__ = ["main"]


def main(given: Namespace) -> int:
    """`recsys data report`: write the page, print what to look at, and its path as the last line."""
    if given.rows < 100:
        raise ConfigError(f"--rows: expected at least 100, got {given.rows}")
    examined = examine(load_config(given.data), given.rows)
    out: Path = given.out or Path("data") / f"{Path(given.data).stem}.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(followed(out), html(examined))
    for worry in worries(examined):
        console().print(f"look at: {worry}", soft_wrap=True)
    print(out, flush=True)
    return 0

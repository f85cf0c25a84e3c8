"""`recsys data …`: what is done with a table before a run. Each subcommand imports only what it needs."""

import importlib
from collections.abc import Sequence

from recsys.errors import ConfigError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "guess": ("recsys.commands.data.guess", "look at a table and write its configuration, data/NAME.yaml"),
    "report": ("recsys.commands.data.report", "a page to read before training: fields, drift, leakage, label rate"),
    "baseline": ("recsys.commands.data.baseline", "logistic regression and LightGBM on the same split"),
    "synth": ("recsys.commands.data.synth", "write a table of clicks with a known truth, of any size"),
}

_EXAMPLES = """examples:
  recsys data guess clicks.csv --label click --time at --group user --name shop
  recsys data report shop
  recsys data baseline shop
  recsys run data=shop
  recsys data synth clicks.parquet --rows 1000000"""


def main(arguments: Sequence[str]) -> int:
    """Dispatch `recsys data SUBCOMMAND …` → exit code.

    Raises:
        ConfigError: If there is no such subcommand.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:9} {what}" for name, (_, what) in COMMANDS.items())
        print(f"usage: recsys data COMMAND …\n\n{lines}\n\n{_EXAMPLES}\n\nrecsys data COMMAND --help tells more.")
        return 0
    name, *others = arguments
    if name not in COMMANDS:
        raise ConfigError(f"recsys data: no command {name!r}: expected one of {', '.join(COMMANDS)}")
    return getattr(importlib.import_module(COMMANDS[name][0]), f"{name}_main")(others)

"""`recsys bench …`: measure, with a reference in the same run, and print one JSON line last."""

import importlib
from collections.abc import Sequence

from recsys.errors import ConfigError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "data": "preparation, loading and encoding",
    "serve": "requests a second and latency of a bundle's server",
    "select": "what feature selection costs, beside an epoch and permutation",
}


def main(arguments: Sequence[str]) -> int:
    """Dispatch `recsys bench SUBCOMMAND …` → exit code.

    Raises:
        ConfigError: If there is no such subcommand.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:9} {what}" for name, what in COMMANDS.items())
        print(f"usage: recsys bench COMMAND …\n\n{lines}\n\nrecsys bench COMMAND --help tells more.")
        return 0
    name, *others = arguments
    if name not in COMMANDS:
        raise ConfigError(f"recsys bench: no command {name!r}: expected one of {', '.join(COMMANDS)}")
    return importlib.import_module(f"recsys.commands.bench.{name}").bench_main(others)

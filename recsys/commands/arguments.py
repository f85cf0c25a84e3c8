"""An argument parser whose errors are one line, as all of ours are."""

import argparse
from typing import NoReturn

from recsys.errors import ConfigError

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """argparse's, but a wrong argument raises (argparse prints its usage and ends the process), and no option has
    a shorter name: `--any` must not open a server to anyone.

    Args:
        prog: The command, as its user types it.
        description: What it does.
        epilog: Stands behind the options.
        formatter_class: argparse's.
    """

    def __init__(
        self,
        prog: str,
        description: str | None = None,
        epilog: str | None = None,
        formatter_class: type[argparse.HelpFormatter] = argparse.HelpFormatter,
    ):
        super().__init__(
            prog, description=description, epilog=epilog, formatter_class=formatter_class, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.prog}: {message}: {self.prog} --help tells more")

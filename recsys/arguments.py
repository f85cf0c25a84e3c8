"""An argument parser whose errors are one line, as all of ours are."""

import argparse
from typing import NoReturn

from recsys.errors import ConfigError

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """argparse's, but a wrong argument raises; argparse prints its usage and ends the process."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.prog}: {message}: {self.prog} --help tells more")

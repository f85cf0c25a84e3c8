"""Consoles for messages and tables, which are safe for text of any origin."""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from recsys.errors import printable

__all__ = ["console"]


class _Console(Console):
    """Rich's console, except that it escapes control characters in names."""

    def render_str(self, text: str, *arguments: Any, **settings: Any) -> Text:
        """Text of a line or of a table's cell, as `rich.console.Console` makes it."""
        shown = "\n".join(printable(line, len(line)) for line in text.split("\n"))
        return super().render_str(shown, *arguments, **settings)


def console(width: int | None = None, stderr: bool = True) -> Console:
    """The console for all output to a person.

    It prints `[b]` and `:x:` as they are, not as a style and an emoji, since names of columns, files and data
    sets may contain both. Styles are given by `style=` or `rich.text.Text`.

    Args:
        width: Columns if the output is not a terminal; by default rich's own choice.
        stderr: Whether to print on standard error; else on standard output.
    """
    stream = sys.stderr if stderr else sys.stdout
    return _Console(stderr=stderr, width=None if stream.isatty() else width, markup=False, emoji=False, highlight=False)

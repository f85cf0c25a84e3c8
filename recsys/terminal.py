"""Where messages and tables are printed: text of any origin is shown as it is."""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from recsys.errors import printable

__all__ = ["console"]


class _Console(Console):
    """Rich's, but a control character in a name is shown and not obeyed."""

    def render_str(self, text: str, *arguments: Any, **settings: Any) -> Text:
        """Text of a line or of a table's cell, as `rich.console.Console` makes it."""
        shown = "\n".join(printable(line, len(line)) for line in text.split("\n"))
        return super().render_str(shown, *arguments, **settings)


def console(width: int | None = None, stderr: bool = True) -> Console:
    """The one way to print for a person.

    `[b]` is no style and `:x:` no picture in what it prints, as names of columns, files and data sets may
    hold both. Styles are given by `style=` or `rich.text.Text`.

    Args:
        width: Columns if the output is no terminal; by default rich's own choice.
        stderr: Print there; else on standard output.
    """
    stream = sys.stderr if stderr else sys.stdout
    return _Console(stderr=stderr, width=None if stream.isatty() else width, markup=False, emoji=False, highlight=False)

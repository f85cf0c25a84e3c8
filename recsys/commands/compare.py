"""`recsys compare`: finds the reports before it imports the code that compares them, which takes a second."""

from argparse import Namespace

from recsys.files import check_place
from recsys.selection.reports import find

__all__ = ["main"]


def main(given: Namespace) -> int:
    """Print how selection reports agree, and write a page if asked."""
    paths = [find.find(r, given.runs) for r in given.reports]
    for path in paths:
        find.read(path)
    if given.out:
        check_place(given.out)
    from recsys.commands.comparison import show

    show(paths, given.out)
    return 0

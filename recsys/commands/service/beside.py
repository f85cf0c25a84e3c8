"""Runs side by side in a terminal: what differs in their settings, and their figures."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recsys.errors import ConfigError, printable
from recsys.files import Json

__all__ = ["side_by_side"]

_LABELS = "ABCDEFGHIJKL"
_MOST = 40  # letters of a value


def side_by_side(answer: Json) -> Group:
    """A line for each setting and figure that differs, a column for each run.

    Args:
        answer: What `recsys.service.compare.compare` says.

    Raises:
        ConfigError: If there are more runs than a terminal has room for.
    """
    runs: Sequence[Json] = answer["runs"]
    if len(runs) > len(_LABELS):
        raise ConfigError(
            f"runs: expected 2 to {len(_LABELS)} runs to compare, got {len(runs)}: name fewer, or take --json, "
            "or the page /compare of recsys service"
        )
    grid = Table("", box=None, pad_edge=False)
    for label in _LABELS[: len(runs)]:
        grid.add_column(label, justify="right", overflow="fold")
    for key in answer["keys"]:
        grid.add_row(Text(key, "bold"), *(_setting(key, run["config"]) for run in runs))
    for name in answer["figures"]:
        grid.add_row(Text(name), *(_figure(run["figures"].get(name)) for run in runs))
    heads = [Text(f"{label}  {run['id']}  {run['state']}") for label, run in zip(_LABELS, runs, strict=False)]
    alike = f"{answer['same']} settings and {len(answer['same_figures'])} figures are alike"
    return Group(*heads, grid, Text(alike, "dim"))


def _setting(key: str, config: Json) -> Text:
    if key not in config:
        return Text("")
    value = config[key]
    return Text(printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _MOST))


def _figure(value: Any) -> Text:
    if value is None:
        return Text("")
    return Text(f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}")
